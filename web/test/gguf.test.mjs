/** A GGUF file from disk: a model of the Llama family, whose greedy tokens are those of transformers. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { oracle, openPage, serveModels } from './page.mjs';
import { browser } from './support.mjs';

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

test('a GGUF file is a whole model, and what is none says so', async () => {
  const expected = oracle('gguf/expected.json');
  const page = await openPage(chromium, server);
  const got = await page.evaluate(async (text) => {
    const bytes = await (await fetch('/gguf/every-type.gguf')).arrayBuffer();
    const model = await InCoder.load('mine', { files: [new File([bytes], 'every-type.gguf')], contextLength: 32 });
    const options = { maxTokens: 24, temperature: 0, ignoreEos: true, heal: false, lookup: false };
    const { ids } = await model.generate(text, options);
    const infill = await outcome(model.infill({ prefix: 'a', suffix: 'b' }));
    await model.dispose();
    const cut = await outcome(InCoder.load('mine', { files: [new File([bytes.slice(0, 5000)], 'cut.gguf')] }));
    return { ids, infill, cut };
  }, expected.text);
  await page.close();
  assert.deepEqual(got.ids, expected.greedy24);
  assert.match(got.infill.message, /no sentinels for infilling/);
  assert.match(`${got.cut.code}: ${got.cut.message}`, /BAD_CHECKPOINT: .*cut off/);
});
