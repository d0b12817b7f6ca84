/** The browser's engine against what was recorded of the reference: shaders, log probabilities, greedy tokens, infills. */

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { file, openPage, oracle, serveModels } from './page.mjs';
import { browser, ROOT } from './support.mjs';

/** What the kernels' arithmetic may differ from the oracle's, as in the native tests. */
const TOLERANCE = 2e-3;

let server;
let chromium;
before(async () => {
  server = await serveModels();
  chromium = await browser();
});
after(async () => {
  await chromium?.close();
  await server?.close();
});

/** Runs `body` in a new page, with `init` before everything else. */
async function inPage(body, argument, init) {
  const page = await openPage(chromium, server, init);
  try {
    return await page.evaluate(body, argument);
  } finally {
    await page.close();
  }
}

// Shaders

/** Every combination of one value of each constant. */
const combinations = (choices) =>
  Object.entries(choices).reduce((made, [name, values]) => made.flatMap((one) => values.map((value) => ({ ...one, [name]: value }))), [{}]);

/** The constants as the engine sets them for hardware adapters and the shapes of 1B; those for software are compiled by every load. */
const CONSTANTS = {
  embed: [{ SCALE: Math.sqrt(2048) }],
  layer_norm: combinations({ THREADS: [128], WIDTH: [512], LAST: [0, 1] }),
  project: combinations({ COLUMNS: [1, 2, 4, 8], Q_WIDTH: [2048], KV_WIDTH: [2048], HEAD_DIM: [64], CAPACITY: [2048], HEAD_WORDS: [8], KV_F16: [1] })
    // Wide tiles have fewer slices.
    .map((one) => ({ ...one, SLICES: Math.min(32, 64 / one.COLUMNS) }))
    // Of the shapes that measuring may choose, the one with most threads and most workgroup memory.
    .concat({ COLUMNS: 2, SLICES: 4, BLOCKS: 8, Q_WIDTH: 2048, KV_WIDTH: 2048, HEAD_DIM: 64, CAPACITY: 2048, HEAD_WORDS: 8, KV_F16: 1 })
    // A part of a block.
    .concat({ COLUMNS: 1, SLICES: 128, LANES: 2, Q_WIDTH: 2048, KV_WIDTH: 2048, HEAD_DIM: 64, CAPACITY: 2048, HEAD_WORDS: 8, KV_F16: 1 }),
  linear_tiled: [[4, 16], [8, 8]].map(([COLUMNS, TOKEN_THREADS]) => (
    { COLUMNS, TOKEN_THREADS, Q_WIDTH: 2048, KV_WIDTH: 2048, HEAD_DIM: 64, CAPACITY: 2048, HEAD_WORDS: 8, KV_F16: 1 }
  )),
  attention_scores: combinations({ THREADS: [64], HEADS: [32], HEAD_DIM: [64], CAPACITY: [2048], HEAD_WORDS: [8], KV_F16: [0, 1] }),
  attention_values: combinations({ OCTETS: [8], SLICES: [16], HEADS: [32], CAPACITY: [2048], HEAD_WORDS: [8], KV_F16: [0, 1] }),
  choose: [{ VOCAB: 50518, THREADS: 64 }],
  random: [{}],
  read: combinations({ THREADS: [64] }),
  fill: [{}],
};

const read = (name) => file(`shaders/${name}.wgsl`).toString();
/** Where arrays may lie: each goes before every kernel of the model. */
const ARRAYS = ['arrays_in_buffers', 'arrays_in_textures', 'arrays_in_storage_textures'];
/** Who reads inputs: either goes before, too. */
const INPUTS = ['inputs_read_alone', 'inputs_read_together'];
/** What a matrix consists of: one of them goes before. Only these kernels read a matrix, and so have a second and a third form. */
const QUANTIZED = ['weights_in_q8', 'weights_in_q4'];
const READ_MATRICES = ['embed', 'linear', 'linear_tiled'];
/** What goes before the kernels that multiply, and only before these: one of the first two, and the third. */
const ROTATIONS = ['not_rotary', 'rotary'];
const OUTPUTS = 'linear_outputs';
const KERNELS = readdirSync(join(ROOT, 'shaders'))
  .map((name) => name.replace('.wgsl', ''))
  .filter((name) => ![...ARRAYS, ...INPUTS, ...QUANTIZED, 'weights_in_fp16', 'step', 'octets', ...ROTATIONS, OUTPUTS].includes(name));

/** A kernel behind what goes before it. */
function shader(kernel, shared, rotation = 'not_rotary') {
  const before = kernel.startsWith('linear') ? [...shared, rotation, OUTPUTS] : shared;
  const text = read(kernel);
  const enable = [...before.map(read), text].some((text) => /\bsubgroup[A-Z]\w*\(/.test(text)) ? 'enable subgroups;' : '';
  // Where inputs are read together a workgroup is one subgroup, which a compiler cannot know.
  const trust = before.includes('inputs_read_together') ? 'diagnostic(off, subgroup_uniformity);' : '';
  const entries = [...text.matchAll(/@compute[^]*?\bfn (\w+)/g)].map(([, entry]) => entry);
  return { name: [...before, kernel].join(' '), kernel, text: [enable, trust, ...before.map(read), text].join('\n'), entries };
}

const SHADERS = KERNELS.flatMap((kernel) =>
  kernel.startsWith('streaming')
    ? [shader(kernel, [])]
    : ARRAYS.flatMap((arrays) => (kernel === 'linear_tiled' ? INPUTS.slice(0, 1) : INPUTS).map((inputs) => shader(kernel, [arrays, 'step', 'octets', inputs, 'weights_in_fp16']))),
).concat(
  READ_MATRICES.flatMap((kernel) =>
    ARRAYS.flatMap((arrays) => QUANTIZED.map((weights) => shader(kernel, [arrays, 'step', 'octets', 'inputs_read_alone', weights]))),
  ),
  ['linear', 'linear_tiled'].map((kernel) => shader(kernel, ['arrays_in_buffers', 'step', 'octets', 'inputs_read_alone', 'weights_in_fp16'], 'rotary')),
);

/** Compiles every file, and every entry point once for each set of its constants; returns what the browser says. */
async function compile({ shaders, constants, feature }) {
  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter.requestDevice({ requiredFeatures: feature ? ['subgroups'] : [] });
  const said = {};
  for (const { name, kernel, text, entries } of shaders) {
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code: text });
    const { messages } = await module.getCompilationInfo();
    said[name] = messages.map(({ type, message }) => `${type}: ${message}`);
    await device.popErrorScope();
    // Only native adapters read storage textures, more of them than browsers bind, and only llvmpipe reads inputs together.
    if (/storage_texture|together/.test(name) || messages.some(({ type }) => type === 'error')) continue;
    // Where the arrays are changes no line of these.
    if (/weights_in_q|linear_tiled/.test(name) && !name.startsWith('arrays_in_buffers')) continue;
    for (const entryPoint of entries) {
      let sets = constants[kernel] ?? constants[entryPoint] ?? constants[entryPoint.split('_')[0]] ?? [];
      // What differs is the same in all of them, and SwiftShader takes seconds for one: a single tile of quantized weights, which
      // are read in groups of 32 inputs.
      if (/ rotary/.test(name)) sets = sets.slice(-1);
      if (/weights_in_q/.test(name)) sets = sets.slice(-1).map((each) => (kernel === 'linear' ? { ...each, GROUPS: 4 } : each));
      const pipelines = sets.map((each) => device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint, constants: each } }));
      await Promise.all(pipelines).catch((error) => said[name].push(`${entryPoint}: ${error.message}`));
    }
  }
  device.destroy();
  return said;
}

test('every shader compiles, with subgroups and without', async () => {
  assert.equal(KERNELS.length, 11);
  assert.ok(SHADERS.every(({ entries }) => entries.length > 0));
  const nothing = Object.fromEntries(SHADERS.map(({ name }) => [name, []]));
  assert.deepEqual(await inPage(compile, { shaders: SHADERS, constants: CONSTANTS, feature: true }), nothing);
  const without = await inPage(compile, { shaders: SHADERS, constants: {}, feature: false });
  for (const [name, messages] of Object.entries(without)) {
    if (/together|layer_norm_subgroups$/.test(name)) assert.match(messages.join(), /error: .*subgroups/);
    else assert.deepEqual(messages, [], name);
  }
});

// Recorded results

const logSumExp = (logits) => {
  const most = Math.max(...logits);
  return most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
};

/** Scores every sequence, and continues those that are texts. */
async function sequences({ model, cases, options }) {
  const engine = await load(model, { kv: 'f32', contextLength: 160, ...options });
  const made = [];
  for (const { ids, greedy24 } of cases) {
    const score = await engine.score(ids, { topLogprobs: 5 });
    // Prompts are texts, so any ids are continued by asking for the most probable token after each of the recorded ones.
    const forced = await engine.score([...ids, ...greedy24.slice(0, -1)], { topLogprobs: 1 });
    const text = await engine.tokenizer.decode(ids.slice(1));
    const again = await engine.tokenizer.encode(text, { specialTokens: 'parse' });
    const same = again.join() === ids.join();
    const options = { temperature: 0, maxTokens: 24, specialTokens: 'parse', heal: false };
    made.push({ score, forced: forced.top.map(([[id]]) => id), continued: same ? await engine.generate(text, options) : null });
  }
  const { info } = engine;
  await engine.dispose();
  return { made, info };
}

function checkSequences(name, cases, made) {
  let worst = 0;
  const near = (got, expected, what) => {
    worst = Math.max(worst, Math.abs(got - expected));
    assert.ok(Math.abs(got - expected) < TOLERANCE, `${what}: ${got} is not ${expected}`);
  };
  for (const [i, recorded] of cases.entries()) {
    const { score, forced, continued } = made[i];
    assert.deepEqual(score.ids, recorded.ids);
    assert.equal(score.logprobs[0], null);
    recorded.token_logprobs.forEach((expected, at) => near(score.logprobs[at + 1], expected, recorded.name));
    const total = logSumExp(recorded.last_logits);
    for (const [id, logprob] of score.top.at(-1)) near(logprob, recorded.last_logits[id] - total, recorded.name);
    assert.deepEqual(score.top.map((top) => top.map(([id]) => id)), recorded.top5.map(({ ids }) => ids), recorded.name);
    assert.equal(score.sum === null, recorded.sum_logprob === null);
    assert.ok(Math.abs(score.sum - recorded.sum_logprob) < TOLERANCE * recorded.ids.length);
    assert.ok(Math.abs(score.mean - recorded.mean_logprob) < TOLERANCE);
    assert.deepEqual(forced.slice(recorded.ids.length - 1), recorded.greedy24, recorded.name);
    if (!continued) continue;
    const expected = recorded.greedy24_stop_at_eos;
    assert.deepEqual(continued.ids, expected, recorded.name);
    assert.equal(continued.finishReason, expected.length < 24 ? 'eos' : 'length');
  }
  // The others hold ids that no text has.
  assert.ok(made.filter(({ continued }) => continued).length >= 4);
  console.log(`${name}: largest error of a log probability ${worst.toExponential(1)}`);
}

/** Fills every recorded case, with the published greedy settings. */
async function fill({ model, cases, complete, options }) {
  const engine = await load(model, { kv: 'f32', ...options });
  const same = { temperature: 0, specialTokens: 'parse', heal: false };
  const filled = [];
  for (const { parts, max_to_generate, extra_sentinel, max_retries } of cases) {
    filled.push(await engine.infill({ parts }, { ...same, maxTokens: max_to_generate, extraSentinel: extra_sentinel, maxRetries: max_retries }));
  }
  const completed = [];
  for (const { prompt, max_to_generate } of complete) completed.push(await engine.generate(prompt, { ...same, maxTokens: max_to_generate }));
  await engine.dispose();
  return { filled, completed };
}

function checkInfills(cases, complete, { filled, completed }) {
  const eos = '<|endoftext|>';
  for (const [n, { parts, result, calls }] of cases.entries()) {
    const made = filled[n];
    const what = JSON.stringify(parts);
    const written = made.infills.map(({ text, finishReason }) => text + (finishReason === 'eos' ? eos : ''));
    assert.deepEqual(written, result.infills, what);
    // The published code writes on after the sentinel and cuts later.
    made.infills.forEach(({ ids }, i) => assert.deepEqual(ids, calls[i].new_ids.slice(0, ids.length), what));
    assert.equal(made.text, parts.map((part, i) => part + (made.infills[i]?.text ?? '')).join(''));
    assert.deepEqual([made.parts, made.retriesAttempted, made.complete], [result.parts, result.retries_attempted, result.all_regions_ended], what);
    assert.equal(made.promptTokens, calls[0]?.prompt_ids.length ?? 0);
  }
  for (const [n, { prompt, text, call }] of complete.entries()) {
    const made = completed[n];
    assert.deepEqual(made.ids, call.new_ids);
    assert.equal(prompt + made.text + (made.finishReason === 'eos' ? eos : ''), text);
  }
}

/** Makes SwiftShader look like hardware, whose kernels share a row among threads. */
function disguise() {
  Object.defineProperty(GPUAdapterInfo.prototype, 'architecture', { get: () => 'disguised' });
  Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { get: () => false });
}

for (const model of ['tiny-a', 'small-b']) {
  const { sequences: cases } = oracle(`${model}/expected.fp16.json`);
  const { infill, complete } = oracle(`${model}/infill.fp16.json`);

  for (const subgroups of [true, false]) {
    test(`${model} ${subgroups ? 'with' : 'without'} subgroups: log probabilities and greedy tokens are the recorded ones`, async () => {
      const { made, info } = await inPage(sequences, { model, cases, options: { subgroups } });
      assert.equal(info.subgroups, subgroups);
      checkSequences(`${model}, subgroups ${subgroups}`, cases, made);
    });

    test(`${model} ${subgroups ? 'with' : 'without'} subgroups: infills are the published code's`, async () => {
      // Only the layer norm differs without subgroups: a third of the cases is enough.
      const some = subgroups ? infill : infill.filter((_, i) => i % 3 === 2);
      checkInfills(some, complete, await inPage(fill, { model, cases: some, complete, options: { subgroups } }));
    });
  }
}

test('tiny-a as on hardware: log probabilities and greedy tokens are the recorded ones', async () => {
  const { sequences: cases } = oracle('tiny-a/expected.fp16.json');
  const { made, info } = await inPage(sequences, { model: 'tiny-a', cases, options: { worker: false } }, disguise);
  assert.equal(info.adapter.software, false);
  checkSequences('tiny-a, as on hardware', cases, made);
});

/** The oracle's formula for long sequences. */
const longSequence = (length, vocab) => Array.from({ length }, (_, i) => (i === 0 ? 2 : 4 + ((i * i * 31 + i * 7919 + 13) % (vocab - 8))));

test('600 tokens of small-b: mean log probability and greedy tokens are the recorded ones', async () => {
  const recorded = oracle('small-b/expected.fp16.json').long.find(({ len }) => len === 600);
  const ids = longSequence(600, 2048);
  assert.deepEqual(ids.slice(0, 8), recorded.first8);
  const forced = [...ids, ...recorded.greedy8.slice(0, -1)];
  const { logprobs, top } = await inPage(async (forced) => {
    const engine = await load('small-b', { kv: 'f32', contextLength: 640 });
    return engine.score(forced, { topLogprobs: 1 });
  }, forced);
  const mean = logprobs.slice(1, 600).reduce((sum, logprob) => sum + logprob, 0) / 599;
  assert.ok(Math.abs(mean - recorded.mean_logprob) < TOLERANCE, `${mean} is not ${recorded.mean_logprob}`);
  assert.deepEqual(top.slice(599).map(([[id]]) => id), recorded.greedy8);
});

test('the demo model gives the same with and without subgroups, in a worker and on the page', async () => {
  const run = async (options) => {
    const engine = await load('demo', { kv: 'f32', contextLength: 128, ...options });
    const parts = ['def area(width, height):\n    ', '\n\nprint(area(2, 3))\n'];
    const { infills } = await engine.infill({ parts }, { temperature: 0, maxTokens: 16 });
    const { ids } = await engine.generate('import os\n\ndef ', { temperature: 0, maxTokens: 16 });
    const { logprobs } = await engine.score(parts.join('return width * height'));
    return { infills, ids, logprobs };
  };
  const first = await inPage(run, {});
  for (const options of [{ subgroups: false }, { worker: false }]) {
    const { logprobs, ...texts } = await inPage(run, options);
    assert.deepEqual(texts, { infills: first.infills, ids: first.ids });
    logprobs.forEach((logprob, i) => assert.ok(Math.abs(logprob - first.logprobs[i]) < TOLERANCE));
  }
});

// A GGUF file from disk

test('a GGUF file is a whole model, and what is none says so', async () => {
  const expected = oracle('gguf/expected.json');
  const got = await inPage(async (text) => {
    const bytes = await (await fetch('/gguf/every-type.gguf')).arrayBuffer();
    const model = await InCoder.load('mine', { files: [new File([bytes], 'every-type.gguf')], contextLength: 32 });
    const options = { maxTokens: 24, temperature: 0, ignoreEos: true, heal: false, lookup: false };
    const { ids } = await model.generate(text, options);
    const infill = await outcome(model.infill({ prefix: 'a', suffix: 'b' }));
    await model.dispose();
    const cut = await outcome(InCoder.load('mine', { files: [new File([bytes.slice(0, 5000)], 'cut.gguf')] }));
    return { ids, infill, cut };
  }, expected.text);
  assert.deepEqual(got.ids, expected.greedy24);
  assert.match(got.infill.message, /no sentinels for infilling/);
  assert.match(`${got.cut.code}: ${got.cut.message}`, /BAD_CHECKPOINT: .*cut off/);
});
