/** Texts and configs as people have them, from the tables that the command line is held to as well. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { parseJson } from '../package/dist/files/http.js';
import { file, openPage, pour, serveModels } from './page.mjs';
import { browser } from './support.mjs';

const ORACLE = 'tests/oracle/';

let server;
let chromium;
let page;
before(async () => {
  server = await serveModels();
  chromium = await browser();
  page = await openPage(chromium, server);
});
after(async () => {
  await chromium?.close();
  await server?.close();
});

test('JSON as Python writes it', () => {
  assert.deepEqual(parseJson('{"a": NaN, "b": [-Infinity, Infinity], "NaN": "x: NaN \\" Infinity"}', 'x'), {
    a: null,
    b: [null, null],
    NaN: 'x: NaN " Infinity',
  });
  for (const bad of ['', '{', 'NaNs', '{"a": nan}']) assert.throws(() => parseJson(bad, 'x'), { code: 'BAD_CHECKPOINT' });
});

test('documents in every form: the same tokens, and every text is the document with the holes filled', async () => {
  const made = await page.evaluate(async () => {
    const model = await load('tiny-a', { contextLength: 256 });
    const options = { maxTokens: 12, temperature: 1.5, seed: 3 };
    const fill = async (input, more) => {
      const events = [];
      const filled = await model.infill(input, { ...options, ...more, end: 'mask', onToken: ({ text }) => events.push(text) });
      return { filled, streamed: events.join('') };
    };
    const [before, after] = ['def f(x):\n    a = "😀"\n    return ', '\n\nf(1)\n'];
    const crlf = (text) => text.replaceAll('\n', '\r\n');
    const result = {
      before,
      after,
      plain: await fill({ prefix: before, suffix: after }),
      crlf: await fill({ prefix: crlf(before), suffix: crlf(after) }),
      cr: await fill({ prefix: before.replaceAll('\n', '\r'), suffix: after.replaceAll('\n', '\r') }),
      marked: await fill({ prefix: `\ufeff${before}`, suffix: after }),
      begun: await fill({ prefix: crlf(before), begun: 'x +', suffix: crlf(after) }),
      // The published form and prompts are shown as they are.
      parts: [await fill({ parts: [before, after] }), await fill({ parts: [crlf(before), crlf(after)] })],
      prompts: [await model.generate(before, options), await model.generate(crlf(before), options)],
      stopped: await fill({ prefix: crlf('a\nb\nc\n') }, { maxTokens: 60, stop: ['\r\n'] }),
      halves: await fill({ prefix: 'x = "\ud83d', suffix: '\ude00"' }),
    };
    await model.dispose();
    return result;
  });
  const { before, after, plain } = made;
  const ends = { plain: '\n', crlf: '\r\n', cr: '\r', marked: '\n' };
  for (const [name, end] of Object.entries(ends)) {
    const { filled, streamed } = made[name];
    const [infill] = filled.infills;
    assert.deepEqual([infill.ids, filled.promptTokens], [plain.filled.infills[0].ids, plain.filled.promptTokens], name);
    assert.equal(infill.text, plain.filled.infills[0].text.replaceAll('\n', end), name);
    assert.equal(streamed, infill.text, name);
    const mark = name === 'marked' ? '\ufeff' : '';
    assert.equal(filled.text, mark + before.replaceAll('\n', end) + infill.text + after.replaceAll('\n', end), name);
    assert.equal(filled.parts.join(''), mark + (before + after).replaceAll('\n', end), name);
  }
  assert.ok(made.begun.filled.text.startsWith(`${before.replaceAll('\n', '\r\n')}x +`));
  for (const [asLf, asCrlf] of [made.parts.map(({ filled }) => filled.promptTokens), made.prompts.map(({ promptTokens }) => promptTokens)]) {
    assert.ok(asCrlf > asLf, `${asCrlf} and ${asLf} tokens`);
  }
  assert.doesNotMatch(made.stopped.streamed, /\n/);
  // What is no character stays what it is in the document: only the model sees a replacement.
  const { filled } = made.halves;
  assert.deepEqual(filled.parts, ['x = "\ud83d', '\ude00"']);
  assert.equal(filled.text, `x = "\ud83d${filled.infills[0].text}\ude00"`);
});

test('half a character is never part of a text, wherever its length ends it', async () => {
  const texts = await page.evaluate(async () => {
    const model = await load('tiny-a', { contextLength: 128 });
    const made = [];
    for (let maxTokens = 1; maxTokens <= 12; maxTokens += 1) {
      const options = { maxTokens, temperature: 3, topK: 0, topP: 1, seed: maxTokens, ignoreEos: true };
      const events = [];
      const { text, ids } = await model.generate('é😀漢', { ...options, onToken: (event) => events.push(event.text) });
      made.push({ text, streamed: events.join(''), decoded: await model.tokenizer.decode(ids) });
    }
    await model.dispose();
    return made;
  });
  for (const { text, streamed } of texts) {
    assert.equal(streamed, text);
    assert.ok(!text.endsWith('\ufffd'), JSON.stringify(text));
  }
  assert.ok(texts.some(({ decoded }) => decoded.endsWith('\ufffd')), 'one of them is cut inside a character');
});

test('configs as the ecosystem writes them: taken and refused as by the command line', async () => {
  const cases = JSON.parse(file('tests/cases/configs.json'));
  const base = Object.entries({ model_type: 'xglm', num_layers: 2, d_model: 64, attention_heads: 4, ffn_dim: 256, vocab_size: 512 });
  const texts = cases.map(({ fields }) => {
    const rest = base.filter(([name]) => !(name in fields)).map(([name, value]) => [name, JSON.stringify(value)]);
    const given = Object.entries(fields).filter(([, text]) => text !== null);
    return `{${[...given, ...rest].map(([name, text]) => `${JSON.stringify(name)}:${text}`).join(',')}}`;
  });
  const results = await page.evaluate(async (texts) => {
    const { fits } = await InCoder.probe();
    return Promise.all(texts.map((config) => outcome(fits({ config }))));
  }, texts);
  for (const [i, { value, name, code, message }] of results.entries()) {
    const { refused } = cases[i];
    if (refused === undefined) assert.ok(value, `${texts[i]}: ${message}`);
    else {
      assert.equal(name, 'InCoderError', texts[i]);
      assert.ok(['BAD_CHECKPOINT', 'UNSUPPORTED_MODEL'].includes(code), `${texts[i]}: ${code}`);
      assert.ok(message.includes(refused), `${texts[i]}: ${message}`);
    }
  }
});

test('a folder as the ecosystem writes it: byte-order marks, NaN, lists, an index and shards, unknown fields', async () => {
  const own = JSON.parse(file(`${ORACLE}tiny-a/config.json`));
  const config = { ...own, eos_token_id: [own.eos_token_id], torch_dtype: 'float16', dtype: 'float16', quantization_config: null, layerdrop: 'NAN' };
  const weights = file(`${ORACLE}tiny-a/model.fp16.safetensors`);
  const names = Object.keys(JSON.parse(weights.subarray(8, 8 + Number(weights.readBigUInt64LE(0))))).filter((name) => name !== '__metadata__');
  const index = { metadata: { total_size: 'NAN', x: 'INFINITY' }, weight_map: Object.fromEntries(names.map((name) => [name, 'a-00001-of-00001.safetensors'])) };
  const python = (value) => `\ufeff${JSON.stringify(value, null, 2).replaceAll('"NAN"', 'NaN').replaceAll('"INFINITY"', '-Infinity')}\r\n`;
  const files = {
    'config.json': python(config),
    'tokenizer.json': `\ufeff${file(`${ORACLE}tok-512/tokenizer.json`)}`,
    'model.safetensors.index.json': python(index),
    'a-00001-of-00001.safetensors': weights,
  };
  server.fault = (path, request, response) => {
    if (!path.startsWith('/theirs/')) return false;
    const bytes = files[path.slice('/theirs/'.length)];
    if (bytes === undefined) response.writeHead(404).end();
    else void pour(request, response, Buffer.byteLength(bytes), (from, to) => Buffer.from(bytes).subarray(from, to));
    return true;
  };
  const [ours, theirs] = await page.evaluate(async () => {
    const texts = [];
    for (const name of ['tiny-a', 'theirs']) {
      const { value, message } = await outcome(load(name, { contextLength: 64 }));
      texts.push(value ? (await value.generate('class A:', { maxTokens: 8, temperature: 0 })).ids : message);
      await value?.dispose();
    }
    return texts;
  });
  assert.deepEqual(theirs, ours);
});
