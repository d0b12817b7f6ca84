/** What the package's calls promise, in a worker in Chromium; the model is the oracle's tiny-a unless said otherwise. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openPage, serveModels } from './page.mjs';
import { browser } from './support.mjs';

let server;
let chromium;
let page;
before(async () => {
  server = await serveModels();
  chromium = await browser();
  page = await openPage(chromium, server);
  await page.evaluate(async () => {
    globalThis.model = await load('tiny-a');
    /** A long text, and another one with nothing in common. */
    globalThis.long = (first = 'a') => first + Array.from({ length: 200 }, (_, i) => ` x${i}`).join('');
    /** Everything a stream yields, and what it returns. */
    globalThis.drain = async (stream) => {
      const events = [];
      for (;;) {
        const { done, value } = await stream.next();
        if (done) return { events, result: value };
        events.push(value);
      }
    };
  });
});
after(async () => {
  await chromium?.close();
  await server?.close();
});

const run = (body, argument) => page.evaluate(body, argument);
const textOf = (events, index = 0) => events.filter((event) => event.index === index).map(({ text }) => text).join('');
const idsOf = (events, index = 0) => events.filter((event) => event.index === index && event.id !== null).map(({ id }) => id);

// Where it runs

test('no isolation is needed, and a strict CSP is enough', async () => {
  const { policy, isolated, shared, evaluated } = await run(async () => ({
    policy: (await fetch('/package/worker.js')).headers.get('Content-Security-Policy'),
    isolated: crossOriginIsolated,
    shared: typeof SharedArrayBuffer,
    // The policy is in force.
    evaluated: await outcome((async () => eval('1'))()),
  }));
  assert.equal(policy, "script-src 'self' 'wasm-unsafe-eval'");
  assert.deepEqual([isolated, shared, evaluated.name], [false, 'undefined', 'EvalError']);
});

test('quantized weights: the same type in the info, a smaller plan, and a text', async () => {
  const seen = await run(async () => {
    const seen = {};
    for (const quantize of ['q8', 'q4']) {
      const small = await load('tiny-a', { quantize, contextLength: 64 });
      const { text } = await small.generate('def f(x):', { maxTokens: 4, temperature: 0, ignoreEos: true });
      seen[quantize] = { weights: small.info.weights, gpuBytes: small.info.gpuBytes, made: typeof text };
      await small.dispose();
    }
    return seen;
  });
  assert.deepEqual([seen.q8.weights, seen.q4.weights, seen.q8.made], ['q8', 'q4', 'string']);
  assert.ok(seen.q4.gpuBytes < seen.q8.gpuBytes);
});

test('the model says what it is', async () => {
  const { info, heap } = await run(async () => ({ info: model.info, heap: await model.heapBytes() }));
  const { adapter, gpuBytes, ...facts } = info;
  assert.deepEqual(facts, {
    model: 'tiny-a',
    worker: true,
    parameters: 132_864,
    contextLength: 2048,
    prefillChunk: 32,
    vocabSize: 512,
    layers: 2,
    dModel: 64,
    heads: 4,
    weights: 'f16',
    kv: 'f16',
    subgroups: true,
    warning: null,
  });
  // At least the fp16 weights, and fp16 keys and values of both layers.
  const least = 2 * 132_864 + 2 * 2 * 2048 * 64 * 2;
  assert.ok(gpuBytes > least && gpuBytes < 8 * least, String(gpuBytes));
  assert.ok(adapter.software && adapter.limits.maxBufferSize > 0);
  assert.ok(heap > 0 && heap % 65_536 === 0);
});

// Streams

test('the texts of a stream together are the result', async () => {
  const { events, result, seen } = await run(async () => {
    const seen = [];
    const onToken = (event) => seen.push(event);
    return { ...(await drain(model.generateStream('def é(x):\n', { maxTokens: 40, temperature: 1, topK: 0, seed: 3, onToken }))), seen };
  });
  assert.deepEqual([textOf(events), idsOf(events)], [result.text, result.ids]);
  assert.equal(events.at(-1).finishReason, result.finishReason);
  assert.equal(events.filter((event) => 'finishReason' in event).length, 1);
  assert.deepEqual(seen, events);
});

test('an infill stream: one index a region, and a new attempt makes the texts so far void', async () => {
  const { events, result } = await run(() =>
    drain(model.infillStream({ text: 'a = <infill>\nb = <infill>\n' }, { maxTokens: 12, temperature: 1, maxRetries: 2, seed: 2 })),
  );
  const last = events.slice(events.findLastIndex(({ attempt }) => attempt !== undefined) + 1);
  assert.equal(events.filter(({ attempt }) => attempt !== undefined).length, result.retriesAttempted - 1);
  assert.equal(result.infills.length, 2);
  for (const [i, { text, ids, finishReason }] of result.infills.entries()) {
    assert.deepEqual([textOf(last, i), idsOf(last, i)], [text, ids]);
    assert.equal(last.findLast(({ index }) => index === i).finishReason, finishReason);
  }
  assert.equal(result.text, `a = ${result.infills[0].text}\nb = ${result.infills[1].text}\n`);
});

test('leaving a stream cancels, and the next call works', async () => {
  const { whole, seen, again, ms } = await run(async () => {
    const options = { maxTokens: 300, temperature: 0 };
    const whole = await model.generate('class A:\n', { ...options, maxTokens: 8 });
    const seen = [];
    for await (const event of model.generateStream('class A:\n', options)) if (seen.push(event) === 3) break;
    const start = performance.now();
    return { whole, seen, again: await model.generate('class A:\n', { ...options, maxTokens: 8 }), ms: performance.now() - start };
  });
  assert.deepEqual(idsOf(seen), whole.ids.slice(0, 3));
  assert.deepEqual([again.text, again.ids], [whole.text, whole.ids]);
  // 300 tokens were asked for; the next call does not wait for them.
  assert.ok(ms < 100 * whole.timings.decodeMs, `${ms} ms`);
});

test('token ids are continued as they are, past the end of text if asked', async () => {
  const { text, ids, wrong, ended, passed } = await run(async () => {
    const options = { maxTokens: 12, temperature: 0, heal: false };
    const prompt = await model.tokenizer.encode('class A:\n');
    const text = await model.generate('class A:\n', options);
    const hot = { maxTokens: 400, temperature: 4, topK: 0, topP: 1, seed: 1, lookup: false };
    return {
      text,
      ids: await model.generate(prompt, options),
      wrong: await outcome(model.generate([1, 2.5])),
      ended: await model.generate(prompt, hot),
      passed: await model.generate(prompt, { ...hot, ignoreEos: true }),
    };
  });
  assert.deepEqual([ids.text, ids.ids, ids.promptTokens], [text.text, text.ids, text.promptTokens]);
  assert.deepEqual([wrong.code, wrong.message], ['INVALID_ARGUMENT', '2.5 is no token id']);
  assert.deepEqual([passed.finishReason, passed.ids.length], ['length', 400]);
  // Some 400 of 512 ids were drawn: the end of text is most likely among them.
  const end = passed.ids.indexOf(2) + 1 || 400;
  assert.deepEqual(ended.ids, passed.ids.slice(0, end));
});

test('an abort ends a measurement of the GPU at once', async () => {
  const { name, ms } = await run(async () => {
    const abort = new AbortController();
    const measured = outcome(InCoder.measure({ signal: abort.signal }));
    await sleep(300);
    const start = performance.now();
    abort.abort();
    return { ...(await measured), ms: performance.now() - start };
  });
  assert.equal(name, 'AbortError');
  assert.ok(ms < 1000, `${ms} ms`);
});

test('random weights are made for files alone', async () => {
  const { code, message } = await run(() => outcome(InCoder.load('random', { randomWeights: true })));
  assert.equal(code, 'INVALID_ARGUMENT');
  assert.match(message, /'files'/);
});

test('a stream rejects with what went wrong', async () => {
  const { name, code } = await run(() => outcome(model.generateStream('x', { temperature: -1 }).next()));
  assert.deepEqual([name, code], ['InCoderError', 'INVALID_ARGUMENT']);
});

// Options

// Without a limit on the tokens drawn from the CPU chooses, with one the GPU does.
for (const topK of [0, 50]) {
  test(`three candidates, topK ${topK}: sampled ones differ, a seed repeats them, greedy ones are equal`, async () => {
    const { sampled, again, one, greedy, events } = await run(async (topK) => {
      const options = { candidates: 3, maxTokens: 10, temperature: 1, topK, topP: 1, seed: 5 };
      const events = [];
      return {
        sampled: await model.generate('x = ', { ...options, onToken: (event) => events.push(event) }),
        again: await model.generate('x = ', options),
        one: await model.generate('x = ', { ...options, candidates: 1 }),
        greedy: await model.generate('x = ', { ...options, temperature: 0 }),
        events,
      };
    }, topK);
    assert.equal(sampled.candidates.length, 3);
    assert.equal(new Set(sampled.candidates.map(({ text }) => text)).size, 3);
    const { text, ids, finishReason } = sampled;
    assert.deepEqual({ text, ids, finishReason }, sampled.candidates[0]);
    assert.deepEqual(again.candidates, sampled.candidates);
    assert.deepEqual(one.candidates, sampled.candidates.slice(0, 1));
    assert.equal(new Set(greedy.candidates.map(({ text }) => text)).size, 1);
    sampled.candidates.forEach((candidate, i) => assert.deepEqual([textOf(events, i), idsOf(events, i)], [candidate.text, candidate.ids]));
  });
}

test('three infillings: the others are alternatives, drawn with the next seeds', async () => {
  const { three, next } = await run(async () => {
    const options = { maxTokens: 8, temperature: 1, topK: 0, seed: 5 };
    const input = { prefix: 'foo(', suffix: ')\n' };
    return { three: await model.infill(input, { ...options, candidates: 3 }), next: await model.infill(input, { ...options, seed: 6 }) };
  });
  assert.equal(three.alternatives.length, 2);
  assert.equal(three.alternatives[0].text, next.text);
  assert.notEqual(three.text, next.text);
  assert.ok(three.alternatives[1].cachedTokens > 0);
});

test('a stop text ends the text and is no part of it', async () => {
  const { whole, stop, cut, infill } = await run(async () => {
    const options = { maxTokens: 24, temperature: 0 };
    const whole = await model.generate('class A:\n', options);
    const stop = whole.text.slice(6, 9);
    const cut = await model.generate('class A:\n', { ...options, stop: ['never there', stop] });
    const plain = await model.infill({ prefix: 'foo(', suffix: ')' }, options);
    const end = plain.infills[0].text.slice(4, 6);
    const stopped = await model.infill({ prefix: 'foo(', suffix: ')' }, { ...options, stop: [end] });
    return { whole, stop, cut, infill: { plain, end, stopped } };
  });
  assert.deepEqual([cut.text, cut.finishReason], [whole.text.slice(0, whole.text.indexOf(stop)), 'stop']);
  const { plain, end, stopped } = infill;
  const { text } = plain.infills[0];
  assert.equal(stopped.infills[0].text, text.slice(0, text.indexOf(end)));
  assert.deepEqual([stopped.infills[0].finishReason, stopped.complete], ['stop', true]);
});

test('time over: what there is comes with the finish reason time', async () => {
  const { half, none, infill, two } = await run(async () => {
    const options = { maxTokens: 1500, temperature: 0 };
    await model.generate('class A:\n', { maxTokens: 1 });
    const half = await model.generate('class A:\n', { ...options, maxTimeMs: 200 });
    const none = await model.generate(long('t'), { ...options, maxTimeMs: 1 });
    // With this seed the first hole takes 509 tokens.
    const endless = { ...options, temperature: 1, topK: 0, topP: 1, seed: 26, maxTimeMs: 150 };
    const infill = await model.infill({ parts: ['foo(', ', ', ')'] }, endless);
    const two = await model.infill({ parts: ['foo(', ', ', ')'] }, { ...endless, candidates: 2 });
    return { half, none, infill, two };
  });
  assert.deepEqual([half.finishReason, half.candidates[0].finishReason], ['time', 'time']);
  assert.ok(half.text.length > 0 && half.ids.length < 1500);
  assert.deepEqual([none.text, none.finishReason, none.candidates.length], ['', 'time', 1]);
  assert.deepEqual(infill.infills.map(({ finishReason }) => finishReason), ['time', 'time']);
  assert.ok(infill.infills[0].text.length > 0);
  assert.deepEqual([infill.text, infill.complete], [`foo(${infill.infills[0].text}, ${infill.infills[1].text})`, false]);
  // The first candidate took all the time; it is not lost with the second.
  assert.ok(two.infills[0].text.length > 0);
  assert.deepEqual(two.alternatives.map(({ text }) => text), ['foo(, )']);
});

// Aborts

test('an abort rejects with the reason of its signal; what was computed stays', async () => {
  const made = await run(async () => {
    const made = [];
    const input = long('b');
    const attempt = async (abort, options) => {
      const controller = new AbortController();
      const reason = { why: 'mine' };
      let tokens = 0;
      const onToken = () => (tokens += 1) === options.after && controller.abort(reason);
      const call = model.generate(input, { maxTokens: 400, temperature: 0, signal: controller.signal, onToken });
      abort(() => controller.abort(reason));
      const same = await call.then(() => 'finished', (error) => error === reason);
      const { cachedTokens, promptTokens } = await model.generate(input, { maxTokens: 1 });
      made.push({ same, tokens, cachedTokens, promptTokens });
    };
    const aborted = new AbortController();
    aborted.abort('at once');
    made.push({ before: await model.generate('x', { signal: aborted.signal }).catch((error) => error) });
    // While the prompt of almost a thousand tokens is computed.
    await attempt((abort) => setTimeout(abort, 150), {});
    await attempt(() => {}, { after: 5 });
    return made;
  });
  const [{ before }, prefilling, decoding] = made;
  assert.equal(before, 'at once');
  assert.deepEqual([prefilling.same, prefilling.tokens, decoding.same], [true, 0, true]);
  assert.ok(prefilling.cachedTokens > 0 && prefilling.cachedTokens < prefilling.promptTokens - 1, JSON.stringify(prefilling));
  assert.ok(decoding.tokens >= 5 && decoding.tokens < 400);
  assert.ok(decoding.cachedTokens >= decoding.promptTokens - 1);
});

test('an abort of a call that waits its turn leaves the running one alone', async () => {
  const { first, second, third } = await run(async () => {
    const controller = new AbortController();
    const first = model.generate('one', { maxTokens: 30, temperature: 0 });
    const second = outcome(model.generate('two', { maxTokens: 30, signal: controller.signal }));
    const third = model.generate('three', { maxTokens: 2 });
    controller.abort();
    return { first: await first, second: await second, third: await third };
  });
  assert.equal(first.ids.length, 30);
  assert.deepEqual([second.name, third.ids.length], ['AbortError', 2]);
});

test('a newer call supersedes the older ones, which reject with an AbortError', async () => {
  const { older, waiting, newer, plain } = await run(async () => {
    const older = outcome(model.generate('class A:\n', { maxTokens: 1500, temperature: 0 }));
    const waiting = outcome(model.infill({ prefix: 'a', suffix: 'b' }, { maxTokens: 1500 }));
    await sleep(50);
    const newer = await model.infill({ prefix: 'foo(', suffix: ')' }, { maxTokens: 6, temperature: 0, supersede: true });
    const plain = await model.infill({ prefix: 'foo(', suffix: ')' }, { maxTokens: 6, temperature: 0 });
    return { older: await older, waiting: await waiting, newer, plain };
  });
  assert.deepEqual([older.name, waiting.name], ['AbortError', 'AbortError']);
  assert.match(older.message, /superseded/);
  assert.equal(newer.text, plain.text);
});

// The context

test('a prompt that begins like the last one is not computed again', async () => {
  const { first, longer, same } = await run(async () => {
    const options = { maxTokens: 1, heal: false };
    const first = await model.generate('import os\nimport sys\n', options);
    const longer = await model.generate('import os\nimport sys\n\ndef f():\n', options);
    return { first, longer, same: await model.generate('import os\nimport sys\n\ndef f():\n', options) };
  });
  assert.ok(longer.cachedTokens >= first.promptTokens - 1 && longer.cachedTokens < longer.promptTokens);
  assert.ok(same.cachedTokens >= same.promptTokens - 1);
});

test('what is typed into a hole costs its own tokens, and the text goes on from it', async () => {
  const { empty, typed, three, cut, refused, noText, noTime } = await run(async () => {
    const [prefix, suffix] = [`${'abc = 1\n'.repeat(20)}x = `, `\n${'def = 2\n'.repeat(20)}`];
    const options = { maxTokens: 4, temperature: 0, lookback: 0 };
    const empty = await model.infill({ prefix, suffix }, options);
    const typed = await model.infill({ prefix, begun: 'foo(ba', suffix }, options);
    const small = await load('tiny-a', { contextLength: 128 });
    const made = {
      empty,
      typed,
      three: await model.infill({ prefix, begun: 'foo(ba', suffix }, { ...options, temperature: 1, candidates: 3 }),
      cut: await small.infill({ prefix, begun: 'foo(ba', suffix }, options),
      refused: await outcome(model.infill({ prefix, begun: '<|mask:0|>', suffix }, { specialTokens: 'reject' })),
      noText: await outcome(model.infill({ prefix, begun: 5, suffix })),
      noTime: await model.infill({ prefix, begun: 'foo(ba', suffix }, { ...options, maxTimeMs: 0 }),
    };
    await small.dispose();
    return made;
  });
  assert.ok(typed.promptTokens > empty.promptTokens);
  assert.ok(typed.promptTokens - typed.cachedTokens <= 7, `${typed.cachedTokens} of ${typed.promptTokens}`);
  for (const { text, parts, infills } of [typed, three, ...three.alternatives, cut, noTime]) {
    assert.equal(text, `${parts[0]}foo(ba${infills[0].text}${parts[1]}`);
  }
  assert.ok(cut.windows[0].firstLine > 1 && cut.promptTokens + 4 <= 128);
  assert.equal(refused.code, 'INVALID_ARGUMENT');
  assert.match(refused.message, /what the hole begins with/);
  assert.deepEqual([noText.code, noTime.infills[0].finishReason], ['INVALID_ARGUMENT', 'time']);
});

test('of too much text the part around the hole is shown, or it is an error with the numbers', async () => {
  const { refused, generated, cut, far, whole, short, small } = await run(async () => {
    const model = await load('tiny-a', { contextLength: 128 });
    const [prefix, suffix] = [`😀${'abc = 1\n'.repeat(80)}x = `, `\n${'def = 2\n'.repeat(80)}😀`];
    const options = { maxTokens: 10, temperature: 0 };
    const error = { ...options, onOverflow: 'error' };
    const made = {
      refused: await Promise.all([model.generate(prefix, error), model.infill({ prefix, suffix }, error)].map(outcome)),
      generated: await model.generate(prefix, options),
      cut: await model.infill({ prefix, suffix }, options),
      far: await model.infill({ parts: ['a', 'abc = 1\n'.repeat(80), 'b'] }, options),
      whole: prefix + suffix,
      short: await model.infill({ prefix: 'a', suffix: 'b' }, options),
      small: await model.infill({ prefix, suffix }, { ...options, maxPromptTokens: 60 }),
    };
    await model.dispose();
    return made;
  });
  for (const { code, details } of refused) {
    assert.equal(code, 'CONTEXT_OVERFLOW');
    assert.ok(details.need > details.have && details.have === 128 && details.trained > 0, JSON.stringify(details));
  }
  assert.ok(generated.window.firstLine > 60 && generated.window.lastLine === 81 && generated.window.leftOutTokens > 0);
  const [window] = cut.windows;
  assert.ok(window.firstLine > 60 && window.firstLine <= 81 && window.lastLine >= 81 && window.lastLine < 110, JSON.stringify(window));
  assert.equal(cut.text, cut.parts[0] + cut.infills[0].text + cut.parts[1]);
  assert.equal(cut.parts.join(''), whole);
  assert.ok(cut.promptTokens > 64 && cut.promptTokens + 10 <= 128, `${cut.promptTokens} tokens`);
  assert.ok(small.promptTokens > 20 && small.promptTokens <= 60, `${small.promptTokens} tokens`);
  // Two holes too far apart for one prompt are filled one after the other.
  assert.deepEqual(far.windows.map(({ firstLine }) => firstLine > 40), [false, true]);
  assert.deepEqual(short.windows, [{ firstLine: 1, lastLine: 1, tokens: 2, leftOutTokens: 0 }]);
});

test('a hole begins some lines early, and ends where a line does', async () => {
  const { published, back, line } = await run(async () => {
    const [prefix, suffix] = [`${'abc = 1\n'.repeat(30)}x = `, `\n${'def = 2\n'.repeat(20)}`];
    const options = { maxTokens: 24, temperature: 0 };
    const typed = async (lookback) => {
      await model.infill({ prefix, suffix }, { ...options, lookback });
      return model.infill({ prefix: `${prefix}1\ny = `, suffix }, { ...options, lookback });
    };
    return { published: await typed(0), back: await typed(8), line: await model.infill({ prefix, suffix }, { ...options, end: 'line' }) };
  });
  const computed = ({ promptTokens, cachedTokens }) => promptTokens - cachedTokens;
  // What stands after the cursor has 80 tokens.
  assert.ok(computed(back) < 12 && computed(published) > 80, `${computed(back)} and ${computed(published)} tokens`);
  assert.ok(!line.infills[0].text.includes('\n'));
});

// Arguments

test('sentinels in a text are text unless it is said otherwise', async () => {
  const { literal, refused, parsed, same } = await run(async () => {
    const text = 'a <|mask:0|> b <s> <|endoftext|>';
    const all = (specialTokens) =>
      Promise.all(
        [
          model.generate(text, { specialTokens, maxTokens: 1 }),
          model.infill({ prefix: text }, { specialTokens, maxTokens: 1 }),
          model.tokenizer.encode(text, { specialTokens }),
        ].map(outcome),
      );
    const ids = await model.tokenizer.encode(text, { bos: false });
    return { literal: await all('literal'), refused: await all('reject'), parsed: await all('parse'), same: (await model.tokenizer.decode(ids, { skipSpecial: true })) === text };
  });
  for (const { code, message } of refused) {
    assert.equal(code, 'INVALID_ARGUMENT');
    assert.match(message, /<\|mask:0\|>.*line 1, column 3/);
  }
  for (const { value } of [...literal, ...parsed]) assert.ok(value);
  assert.ok(same && literal[2].value.length > parsed[2].value.length);
});

const BAD_OPTIONS = [
  { temperature: -1 },
  { temperature: 'hot' },
  { topP: 7 },
  { topK: -1 },
  { maxTokens: 1.5 },
  { maxTokens: -1 },
  { seed: -1 },
  { candidates: 0 },
  { candidates: 1000 },
  { repetitionPenalty: 0 },
  { stop: [''] },
  { stop: 'x' },
  { specialTokens: 'maybe' },
  { noSuchOption: 1 },
];

test('options out of range are INVALID_ARGUMENT, and the next call works', async () => {
  const { generated, infilled, inputs, after } = await run(async (bad) => {
    const generated = await Promise.all(bad.map((options) => outcome(model.generate('x', { maxTokens: 1, ...options }))));
    const infilled = await Promise.all(bad.map((options) => outcome(model.infill({ prefix: 'x' }, { maxTokens: 1, ...options }))));
    const inputs = [
      model.infill({ parts: [] }),
      model.infill({ parts: Array(40).fill('x') }),
      model.infill({ text: 'x', marker: '' }),
      model.score([]),
      model.score([2, 512]),
      model.score([-1]),
      model.score('x', { topLogprobs: -1 }),
      model.tokenizer.decode([512]),
      // Not what the types say, which JavaScript does not check.
      model.generate(42),
      model.infill({ parts: ['x', null] }),
      model.tokenizer.encode(undefined),
      model.generate('x', { stop: () => 'x' }),
      load('tiny-a', { contextLength: 0 }),
      load('tiny-a', { contextLength: -1 }),
      load('tiny-a', { kv: 'f8' }),
      InCoder.load('demo'),
      InCoder.load('no/such/name'),
    ];
    return { generated, infilled, inputs: await Promise.all(inputs.map(outcome)), after: await model.generate('x', { maxTokens: 2 }) };
  }, BAD_OPTIONS);
  const wrong = (results, names) => results.map(({ code }, i) => [code, names[i]]).filter(([code]) => code !== 'INVALID_ARGUMENT');
  assert.deepEqual(wrong(generated, BAD_OPTIONS), []);
  // 1000 infillings are slow, not impossible.
  assert.deepEqual(wrong(infilled, BAD_OPTIONS).filter(([, { candidates }]) => candidates !== 1000), []);
  assert.deepEqual(wrong(inputs, inputs.map(({ message, value }, i) => message ?? [i, value])), []);
  assert.equal(after.ids.length, 2);
});

// Tokens and scores

test('texts to tokens and back', async () => {
  const text = 'def f(x):\r\n\treturn é😀';
  const { ids, bare, back, count, special, skipped } = await run(async (text) => {
    const { tokenizer } = model;
    const ids = await tokenizer.encode(text);
    const special = await tokenizer.encode('<|mask:0|>', { specialTokens: 'parse' });
    return {
      ids,
      special,
      bare: await tokenizer.encode(text, { bos: false }),
      back: await tokenizer.decode(ids),
      skipped: await tokenizer.decode(ids, { skipSpecial: true }),
      count: await tokenizer.count(text),
    };
  }, text);
  assert.ok(Array.isArray(ids));
  assert.deepEqual([ids[0], bare, count], [2, ids.slice(1), ids.length]);
  assert.deepEqual([back, skipped, special], [`<|endoftext|>${text}`, text, [2, 495]]);
});

test('a score is the sum of its log probabilities, of a text or of ids', async () => {
  const { text, ids, one } = await run(async () => {
    const text = await model.score('def f(x):', { topLogprobs: 2 });
    return { text, ids: await model.score(text.ids), one: await model.score([2]) };
  });
  const sum = text.logprobs.slice(1).reduce((sum, logprob) => sum + logprob, 0);
  assert.equal(text.logprobs.length, text.ids.length);
  assert.ok(Math.abs(text.sum - sum) < 1e-9 && Math.abs(text.mean - sum / (text.ids.length - 1)) < 1e-9);
  assert.ok(text.top.every(([[, first], [, second]]) => first >= second));
  assert.deepEqual([ids.logprobs, ids.sum], [text.logprobs, text.sum]);
  assert.deepEqual([one.logprobs, one.sum, one.mean], [[null], null, null]);
});

// The end

test('a disposed model rejects what runs, what waits and what comes later', async () => {
  for (const worker of [true, false]) {
    const { running, waiting, later, lost, again } = await run(async (worker) => {
      const own = await load('tiny-a', { worker, contextLength: 512 });
      const running = outcome(own.generate('class A:\n', { maxTokens: 400, temperature: 0 }));
      const waiting = outcome(own.score('x'));
      await sleep(100);
      await own.dispose();
      const later = await Promise.all([own.generate('x'), own.infill({ prefix: 'x' }), own.score('x'), own.tokenizer.count('x'), own.heapBytes()].map(outcome));
      return { running: await running, waiting: await waiting, later, lost: await own.lost, again: await outcome(own.dispose()) };
    }, worker);
    assert.deepEqual([running, waiting, ...later].map(({ code, value }) => code ?? value), Array(7).fill('DISPOSED'), `worker ${worker}`);
    assert.equal(lost.reason, 'disposed');
    // Disposing twice is no error.
    assert.ok(!again.name, again.message);
  }
});

test('on the page itself the texts are the same', async () => {
  const texts = await run(async () => {
    const here = await load('tiny-a', { worker: false });
    const texts = [];
    for (const engine of [model, here]) {
      const { text } = await engine.generate('class A:\n', { maxTokens: 20, temperature: 1, seed: 9 });
      const { events, result } = await drain(engine.infillStream({ text: 'foo(<infill>)\n' }, { maxTokens: 20, temperature: 1, seed: 9 }));
      texts.push([engine.info.worker, text, result.text, events.length]);
    }
    await here.dispose();
    return texts;
  });
  assert.deepEqual(texts.map(([worker]) => worker), [true, false]);
  assert.deepEqual(texts[0].slice(1), texts[1].slice(1));
});

test('the page never freezes while the worker computes a thousand tokens of the demo model', async () => {
  const { tasks, gap, noticed, timings, tokens, ms } = await run(async () => {
    const tasks = [];
    const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries().map(({ duration }) => duration)));
    const start = performance.now();
    const demo = await load('demo');
    const ms = performance.now() - start;
    let text = '';
    for (let i = 0; (await demo.tokenizer.count(text)) < 1000; i++) text += `value_${i} = compute(${i}, "${i}")\n`.repeat(5);
    observer.observe({ type: 'longtask' });
    let [gap, last] = [0, performance.now()];
    const timer = setInterval(() => ([gap, last] = [Math.max(gap, performance.now() - last), performance.now()]), 10);
    const { timings, promptTokens: tokens } = await demo.generate(text, { maxTokens: 16 });
    clearInterval(timer);
    await sleep(100);
    const during = [...tasks];
    // The observer works: this one it sees.
    setTimeout(() => { for (const end = performance.now() + 80; performance.now() < end; ); });
    await sleep(500);
    await demo.dispose();
    return { tasks: during, gap, noticed: tasks.length > during.length, timings, tokens, ms };
  });
  console.log(`demo model: loaded in ${ms.toFixed()} ms; ${tokens} tokens of prompt: ${JSON.stringify(timings)}; longest pause of the page ${gap.toFixed()} ms`);
  assert.deepEqual(tasks, []);
  assert.ok(noticed && tokens >= 950);
});
