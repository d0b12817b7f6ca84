/** What browsers lack or do in their own way: an older WGSL, compilers that refuse a kernel, results that are handed over late. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { openPage, serveModels } from './page.mjs';
import { browser } from './support.mjs';

const TOKENS = 48;

let server;
let chromium;
let plain;
before(async () => {
  server = await serveModels();
  chromium = await browser();
  plain = await made();
});
after(async () => {
  await chromium?.close();
  await server?.close();
});

/** What tiny-a makes on a page where `init` ran first, and how long that takes after a first time. */
async function made(init) {
  const page = await openPage(chromium, server, init);
  const warnings = [];
  page.on('console', (message) => warnings.push(message.text()));
  try {
    const result = await page.evaluate(async (maxTokens) => {
      const model = await load('tiny-a', { worker: false, contextLength: 128 });
      const options = { maxTokens, temperature: 0, lookup: false, ignoreEos: true };
      const { ids } = await model.generate('class A:\n', options);
      const { timings } = await model.generate('class A:\n', options);
      await model.generate('class B:\n', { ...options, maxTokens: 1 });
      const { info } = model;
      await model.dispose();
      const { seen, late, soon } = globalThis;
      return { ids, subgroups: info.subgroups, decodeMs: timings.decodeMs, seen, late, soon };
    }, TOKENS);
    return { ...result, warnings };
  } finally {
    await page.close();
  }
}

test('a browser with the feature and without the language for it: no shader asks for it', async () => {
  const got = await made(() => {
    const { has } = WGSLLanguageFeatures.prototype;
    WGSLLanguageFeatures.prototype.has = function (name) {
      return name !== 'subgroup_id' && has.call(this, name);
    };
    globalThis.seen = 0;
    const { createShaderModule } = GPUDevice.prototype;
    GPUDevice.prototype.createShaderModule = function (descriptor) {
      if (/subgroup_id|num_subgroups/.test(descriptor.code)) globalThis.seen += 1;
      return createShaderModule.call(this, descriptor);
    };
  });
  assert.equal(plain.subgroups, true, 'this Chromium has subgroups, or the test says nothing');
  assert.deepEqual([got.subgroups, got.seen], [false, 0]);
  assert.deepEqual(got.ids, plain.ids);
});

test('a kernel with subgroups that does not compile is done without', async () => {
  const got = await made(() => {
    globalThis.seen = 0;
    const { createShaderModule } = GPUDevice.prototype;
    GPUDevice.prototype.createShaderModule = function (descriptor) {
      const code = descriptor.code.replace('@builtin(num_subgroups)', '@builtin(number_of_subgroups)');
      if (code !== descriptor.code) globalThis.seen += 1;
      return createShaderModule.call(this, { ...descriptor, code });
    };
  });
  assert.equal(got.subgroups, false);
  assert.ok(got.seen > 0, 'it was tried');
  assert.deepEqual(got.ids, plain.ids);
});

test('a kernel that there is no other for is an error', async () => {
  const page = await openPage(chromium, server, () => {
    const { createShaderModule } = GPUDevice.prototype;
    GPUDevice.prototype.createShaderModule = function (descriptor) {
      return createShaderModule.call(this, { ...descriptor, code: descriptor.code.replace('fn attention_scores(', 'fn (') });
    };
  });
  const { code, message } = await page.evaluate(() => outcome(load('tiny-a', { worker: false })));
  await page.close();
  assert.match(`${code}: ${message}`, /attention_scores does not compile/);
});

/** A tenth of a second until a buffer is handed over, whatever else happens. */
function late() {
  const { mapAsync } = GPUBuffer.prototype;
  GPUBuffer.prototype.mapAsync = async function (...range) {
    await Promise.all([mapAsync.apply(this, range), new Promise((resolve) => setTimeout(resolve, 100))]);
  };
}

test('where buffers are handed over late, many steps are on their way', async () => {
  const got = await made(late);
  assert.deepEqual(got.ids, plain.ids);
  // Two steps at a time would take 24 waits. What the steps themselves take depends on what else the machine does.
  const waits = (got.decodeMs - plain.decodeMs) / 100;
  assert.ok(waits < 10, `${waits} waits of 100 ms for ${TOKENS} tokens`);
});

/** As Firefox: what is done is seen ten times a second, and whenever something is submitted. */
function onTimer() {
  let waiting = [];
  const look = () => {
    const seen = waiting;
    waiting = [];
    for (const resolve of seen) resolve();
    return seen.length;
  };
  globalThis.late = 0;
  globalThis.soon = 0;
  setInterval(() => (globalThis.late += look()), 100);
  const seen = () => new Promise((resolve) => waiting.push(resolve));
  const { mapAsync } = GPUBuffer.prototype;
  GPUBuffer.prototype.mapAsync = async function (...range) {
    await mapAsync.apply(this, range);
    await seen();
  };
  const { submit, onSubmittedWorkDone } = GPUQueue.prototype;
  GPUQueue.prototype.onSubmittedWorkDone = async function () {
    await onSubmittedWorkDone.call(this);
    await seen();
  };
  globalThis.seen = 0;
  GPUQueue.prototype.submit = function (commands) {
    if ([...commands].length === 0) globalThis.seen += 1;
    submit.call(this, commands);
    globalThis.soon += look();
  };
}

test('where finished work is seen ten times a second or after a submit, nothing is submitted until it is', async () => {
  const got = await made(onTimer);
  assert.deepEqual(got.ids, plain.ids);
  assert.ok(got.seen > 0);
  // Counted, not timed: on a busy machine the timer comes first now and then.
  assert.ok(got.late * 4 < got.soon, `${got.late} results were seen by the timer, ${got.soon} after a submit`);
});

test('a check finds the kernel that computes wrong, and what helps', async () => {
  const page = await openPage(chromium, server, () => {
    const { createShaderModule } = GPUDevice.prototype;
    GPUDevice.prototype.createShaderModule = function (descriptor) {
      const code = globalThis.spoil ? descriptor.code.replace('= subgroupAdd(value)', '= value') : descriptor.code;
      return createShaderModule.call(this, { ...descriptor, code });
    };
  });
  const config = '{"model_type":"xglm","num_layers":2,"d_model":64,"attention_heads":4,"ffn_dim":256,"vocab_size":300}';
  const [whole, spoilt, plain] = await page.evaluate(async (config) => {
    const options = { model: { config }, worker: false };
    const whole = await InCoder.check(options);
    globalThis.spoil = true;
    return [whole, await InCoder.check(options), await InCoder.check({ ...options, subgroups: false })];
  }, config);
  await page.close();
  for (const { right, avoidedBy, kernels, adapter } of [whole, plain]) {
    assert.deepEqual([right, avoidedBy, adapter.subgroups], [true, null, true]);
    for (const kv of ['f16', 'f32']) assert.ok(kernels.some((one) => one.kernel === 'attention' && one.kv === kv && one.error < one.tolerance));
  }
  const wrong = new Set(spoilt.kernels.filter((one) => !one.right).map(({ kernel }) => kernel));
  assert.deepEqual([spoilt.right, spoilt.avoidedBy, [...wrong]], [false, 'subgroups', ['layer_norm', 'layer_norm, the last']]);
});
