/** The package in Node.js, on Dawn, with Chromium's SwiftShader as its driver. */

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { oracle } from './page.mjs';
import { ROOT } from './support.mjs';

// Dawn refuses older versions of Mesa's llvmpipe. Without this driver it takes what the machine has.
const DRIVER = '/usr/lib/chromium/vk_swiftshader_icd.json';
if (existsSync(DRIVER)) process.env.VK_DRIVER_FILES = process.env.VK_ICD_FILENAMES = DRIVER;

const GGUF = join(ROOT, 'tests/oracle/gguf/every-type.gguf');
const DEMO = pathToFileURL(join(ROOT, 'examples/demo-model/weights/'));

let gpu;
let load;
before(async () => {
  const { create } = await import('webgpu');
  gpu = create([]);
  ({ load } = await import('incoder/node'));
});

test('a GGUF file by its path: the tokens are those of transformers', async () => {
  const expected = oracle('gguf/expected.json');
  const model = await load(GGUF, { gpu, contextLength: 32 });
  const options = { maxTokens: 24, temperature: 0, ignoreEos: true, heal: false, lookup: false };
  const { ids } = await model.generate(expected.text, options);
  await model.dispose();
  assert.deepEqual(ids, expected.greedy24);
});

test('a folder by its URL: a hole is filled as in a page, piece by piece, and can be cancelled', async () => {
  const model = await load(DEMO, { gpu });
  const hole = { prefix: 'def mean(values):\n    total = ', suffix: '\n    return total / len(values)\n' };
  const { infills } = await model.infill(hole, { maxTokens: 12, temperature: 0 });
  let streamed = '';
  for await (const { text } of model.infillStream(hole, { maxTokens: 12, temperature: 0 })) streamed += text ?? '';
  const aborted = model.generate('def f():\n', { maxTokens: 500, ignoreEos: true, signal: AbortSignal.timeout(200) });
  await assert.rejects(aborted, { name: 'TimeoutError' });
  await model.dispose();
  assert.ok(infills[0].text.length > 0);
  assert.equal(streamed, infills[0].text);
});

test('what cannot be is a typed error', async () => {
  const none = { requestAdapter: async () => null };
  for (const [model, options, code] of [
    [GGUF, { gpu: none }, 'WEBGPU_UNAVAILABLE'],
    [GGUF, {}, 'INVALID_ARGUMENT'],
    [new URL('file:///nowhere/model'), { gpu }, 'NOT_FOUND'],
    [join(ROOT, 'docs'), { gpu }, 'NOT_FOUND'],
  ]) {
    await assert.rejects(load(model, options), { name: 'InCoderError', code });
  }
});
