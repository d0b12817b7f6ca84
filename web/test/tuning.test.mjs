/** Workgroup shapes that are measured at the first load and kept in the browser, where SwiftShader passes for hardware. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { file, inWorkers, openPage, pour, serveModels } from './page.mjs';
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

/** Hides that the adapter is a software one, and counts the buffers that are measured with. */
function hardware() {
  for (const [name, value] of Object.entries({ architecture: 'hidden', isFallbackAdapter: false })) {
    Object.defineProperty(GPUAdapterInfo.prototype, name, { get: () => value });
  }
  globalThis.measured = 0;
  globalThis.held = 0;
  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const buffer = createBuffer.call(this, descriptor);
    if (descriptor.label !== 'measured weights') return buffer;
    globalThis.measured += 1;
    globalThis.held += 1;
    buffer.destroy = () => {
      globalThis.held -= 1;
      GPUBuffer.prototype.destroy.call(buffer);
    };
    return buffer;
  };
}

/** A page on which SwiftShader passes for hardware, in the package's workers too; /broken/ is tiny-a without a tokenizer. */
async function open() {
  inWorkers(server, hardware);
  const worker = server.fault;
  server.fault = (path, request, response) => {
    if (!path.startsWith('/broken/')) return worker(path, request, response);
    const name = path.slice('/broken/'.length);
    const found = { 'config.json': 'tiny-a/config.json', 'model.safetensors': 'tiny-a/model.fp16.safetensors' }[name];
    if (!found && name !== 'tokenizer.json') return response.writeHead(404).end(), true;
    const body = found ? file(`tests/oracle/${found}`) : Buffer.from('{}');
    void pour(request, response, body.length, (from, to) => body.subarray(from, to));
    return true;
  };
  const page = await openPage(chromium, server, hardware);
  await page.evaluate(() => {
    const root = async () => (await navigator.storage.getDirectory()).getDirectoryHandle('incoder', { create: true });
    /** What is kept; null when nothing is. */
    globalThis.kept = async () => {
      const file = await (await root()).getFileHandle('@tuning.json').catch(() => null);
      return file && (await file.getFile()).text();
    };
    globalThis.keep = async (text) => {
      const stream = await (await (await root()).getFileHandle('@tuning.json', { create: true })).createWritable();
      await stream.write(text);
      await stream.close();
    };
    /** Measures, when there is need to, and ends there: SwiftShader takes long to compile what hardware runs. */
    globalThis.measure = async (worker) => {
      const { code } = await outcome(load('broken', { worker, contextLength: 64 }));
      return { code, measured, held, kept: await kept() };
    };
    /** What the model makes. */
    globalThis.ids = async (options) => {
      const model = await load('tiny-a', { contextLength: 64, ...options });
      const { ids } = await model.generate('class A:\n', { maxTokens: 16, temperature: 0 });
      await model.dispose();
      return ids;
    };
  });
  return page;
}

test('the first load measures and keeps, and the next one takes what is kept', async () => {
  const page = await open();
  // On the page, where buffers are counted.
  const first = await page.evaluate(() => measure(false));
  assert.equal(first.code, 'BAD_CHECKPOINT');
  assert.ok(first.measured > 0);
  assert.equal(first.held, 0, 'what was measured with is freed');
  const [[key], ...others] = Object.entries(JSON.parse(first.kept));
  assert.match(key, /^google, hidden, , Mozilla\/.*, 64x256, \d/);
  assert.deepEqual(others, []);
  const second = await page.evaluate(async () => ({ ids: await ids({ worker: false }), measured, kept: await kept() }));
  assert.deepEqual([second.measured, second.kept], [first.measured, first.kept]);
  // Nothing is hidden from this worker: a software adapter, which neither measures nor takes what is kept.
  server.fault = undefined;
  const software = await page.evaluate(async () => {
    await keep('');
    return { ids: await ids({ worker: true }), kept: await kept() };
  });
  assert.deepEqual([software.kept, software.ids], ['', second.ids]);
  await page.close();
});
