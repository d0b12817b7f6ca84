/** What callers may pass in: every option is checked, in JavaScript's words, before anything crosses to the engine. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { InCoder, InCoderError } from '../package/dist/index.js';
import { checked, holes, textOrIds, tokenIds } from '../package/dist/options.js';

const refused = (act, message, details = {}) =>
  assert.throws(act, (error) => {
    assert.ok(error instanceof InCoderError, String(error?.stack));
    assert.equal(error.code, 'INVALID_ARGUMENT');
    assert.match(error.message, message);
    for (const [key, value] of Object.entries(details)) assert.deepEqual(error.details[key], value);
    structuredClone(error.details);
    return true;
  });

/** For each option of each call: values that are taken, and values that are not. */
const COUNT = { good: [0, 1, 4096], bad: [-1, 1.5, NaN, Infinity, '1', null, [1], 2 ** 32, true] };
const FROM_ONE = { good: [1, 4096], bad: [0, ...COUNT.bad] };
const FLAG = { good: [true, false], bad: [0, 'true', null] };
const SIGNAL = { good: [new AbortController().signal], bad: [{}, null, 'abort'] };
const CALLBACK = { good: [() => 0], bad: [{}, null, 'f'] };
const SPECIAL = { good: ['literal', 'reject', 'parse'], bad: ['maybe', null, true] };
const GENERATE = {
  maxTokens: COUNT,
  temperature: { good: [0, 0.2, 5], bad: [-1, NaN, Infinity, 'hot', null] },
  topP: { good: [0.1, 1], bad: [0, 1.1, 7, NaN, '1'] },
  topK: COUNT,
  repetitionPenalty: { good: [0.5, 1.2], bad: [0, -1, NaN, '1'] },
  seed: { good: [0, 2 ** 40], bad: [-1, 0.5, 2 ** 53, 1n, '0'] },
  stop: { good: [[], ['\n', 'def ']], bad: ['x', [''], [1], null, () => 'x'] },
  maxTimeMs: { good: [0, 250.5], bad: [-5, NaN, Infinity, '1'] },
  candidates: FROM_ONE,
  heal: FLAG,
  ignoreEos: FLAG,
  lookup: FLAG,
  specialTokens: SPECIAL,
  onOverflow: { good: ['window', 'error'], bad: ['zzz', null, true] },
  maxPromptTokens: FROM_ONE,
  supersede: FLAG,
  signal: SIGNAL,
  onToken: CALLBACK,
};
const MEASURE = {
  worker: { good: [true, false, '/worker.js', new URL('https://cdn.test/worker.js'), () => null], bad: [1, null, {}] },
  wasm: { good: ['/a.wasm', new URL('https://cdn.test/a.wasm'), new ArrayBuffer(8), new Uint8Array(8)], bad: [1, null, {}, true] },
  signal: SIGNAL,
};
const OPTIONS = {
  generate: GENERATE,
  infill: {
    ...GENERATE,
    extraSentinel: FLAG,
    maxRetries: FROM_ONE,
    lookback: COUNT,
    end: { good: ['auto', 'mask', 'line', 'block'], bad: ['zzz', null, true] },
  },
  measure: MEASURE,
  check: { ...MEASURE, model: { good: ['demo', { config: '{}' }], bad: [1, null, true] }, subgroups: FLAG },
  load: {
    ...MEASURE,
    revision: { good: ['main', 'refs/pr/1'], bad: ['', 1, null] },
    baseUrl: { good: ['/model/', new URL('https://cdn.test/')], bad: [1, null, {}] },
    server: { good: ['http://127.0.0.1:8012', new URL('https://box.test/')], bad: [1, null, {}, true] },
    apiKey: { good: ['k-1'], bad: ['', 'a b', 'clé', 1, null] },
    files: { good: [[], [new File([], 'config.json')], new Set()], bad: ['config.json', [1], {}, null] },
    randomWeights: FLAG,
    token: { good: ['hf_x'], bad: [1, null] },
    cache: FLAG,
    contextLength: FROM_ONE,
    kv: { good: ['f16', 'f32'], bad: ['f8', 16, null] },
    quantize: { good: ['q8', 'q4'], bad: ['q5', 4, null] },
    subgroups: FLAG,
    onProgress: CALLBACK,
  },
  fits: { contextLength: FROM_ONE, candidates: FROM_ONE, maxTokens: FROM_ONE, quantize: { good: ['q8', 'q4'], bad: ['q5', 4, null] } },
  score: { topLogprobs: COUNT, signal: SIGNAL },
  encode: { bos: FLAG, specialTokens: SPECIAL },
  decode: { skipSpecial: FLAG },
};

test('every option: what is taken, what is refused by its name, and undefined is as if it were not there', () => {
  for (const [call, options] of Object.entries(OPTIONS)) {
    const all = Object.keys(options);
    for (const [option, { good, bad }] of Object.entries(options)) {
      for (const value of good) assert.deepEqual(checked(call, { [option]: value }), { [option]: value });
      for (const value of bad) refused(() => checked(call, { [option]: value }), new RegExp(`^${option} is .*, expected `), { option });
    }
    assert.deepEqual(checked(call, Object.fromEntries(all.map((option) => [option, undefined]))), {});
    for (const unknown of ['maxToken', 'toString']) {
      refused(() => checked(call, { [unknown]: 1 }), new RegExp(`^${call} has no option ${unknown}; it has `), { option: unknown });
    }
    assert.deepEqual(named(call), all.sort());
    for (const wrong of [null, 5, 'x']) refused(() => checked(call, wrong), /^the options of .* expected an object$/);
  }
});

/** The options of a call, as the error for an unknown one lists them. */
function named(call) {
  try {
    return assert.fail(checked(call, { noSuchOption: 1 }));
  } catch ({ details }) {
    return details.known.split(', ').sort();
  }
}

test('what is infilled', () => {
  const good = [
    [{ prefix: 'a' }, { parts: ['a', ''] }],
    [{ prefix: 'a', suffix: undefined, begun: undefined }, { parts: ['a', ''] }],
    [{ prefix: 'a', suffix: 'b', begun: 'x' }, { parts: ['a', 'b'], begun: 'x' }],
    [{ parts: ['a', 'b', 'c'] }, { parts: ['a', 'b', 'c'] }],
    [{ text: 'a<infill>b' }, { parts: ['a', 'b'] }],
    [{ text: 'a?b?', marker: '?' }, { parts: ['a', 'b', ''] }],
    [{ text: 'a<infill>b', marker: undefined }, { parts: ['a', 'b'] }],
  ];
  for (const [input, expected] of good) assert.deepEqual(holes(input), expected);
  const bad = [
    [undefined, /^what to infill is undefined, expected \{ prefix, suffix \}/],
    [{}, /^what to infill is an object/],
    ['def f():', /^what to infill is 'def f\(\):'/],
    [{ suffix: 'b' }, /^what to infill/],
    [{ prefix: 5 }, /^prefix is 5, expected a text$/],
    [{ prefix: 'a', suffix: null }, /^suffix is null/],
    [{ prefix: 'a', begun: 1 }, /^begun is 1/],
    [{ parts: 'a' }, /^parts is 'a'/],
    [{ parts: ['a', null] }, /^parts is a list of 2/],
    [{ text: 'x', marker: '' }, /marker is empty/],
    [{ text: ['x'] }, /^text is a list of 1/],
  ];
  for (const [input, message] of bad) refused(() => holes(input), message);
});

test('texts and token ids', () => {
  assert.equal(textOrIds('the prompt', ''), '');
  assert.deepEqual(textOrIds('the prompt', [2, 500]), [2, 500]);
  for (const bad of [42, null, undefined, {}, new Date(0)]) refused(() => textOrIds('the prompt', bad), /^the prompt is .*, expected a text or a list of token ids$/);
  for (const bad of [[-1], [1.5], [undefined], [null], ['2'], [2 ** 32], [1, NaN]]) refused(() => tokenIds('ids', bad), / is no token id$/);
});

test('outside of a browser everything rejects with an InCoderError', async () => {
  const calls = {
    'load in a worker': [InCoder.load('x/y'), 'WORKER_FAILED', /worker: false/],
    'load on the page': [InCoder.load('x/y', { worker: false }), 'WEBGPU_UNAVAILABLE', /no Window here/],
    'measure in a worker': [InCoder.measure(), 'WORKER_FAILED', /worker: false/],
    'measure on the page': [InCoder.measure({ worker: false }), 'WEBGPU_UNAVAILABLE', /no Window here/],
    'no model': [InCoder.load(), 'INVALID_ARGUMENT', /^the model is undefined, expected a text$/],
    'a misspelt option': [InCoder.load('x/y', { conextLength: 5 }), 'INVALID_ARGUMENT', /conextLength; it has .*contextLength/],
  };
  for (const [what, [call, code, message]] of Object.entries(calls)) {
    const error = await call.then(() => null, (error) => error);
    assert.ok(error instanceof InCoderError, `${what}: ${error?.stack}`);
    assert.equal(error.code, code, what);
    assert.match(error.message, message, what);
  }
  const probe = await InCoder.probe();
  assert.deepEqual([probe.ok, probe.reason], [false, 'not-a-browser']);
});
