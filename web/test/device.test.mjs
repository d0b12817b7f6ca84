/** WebGPU that is missing, too small or lost, and what is left of it after a model: nothing. */

import assert from 'node:assert/strict';
import { after, afterEach, before, test } from 'node:test';
import { SHAPES } from '../package/dist/probe.js';
import { file, inWorkers, openPage, pour, serveModels } from './page.mjs';
import { browser } from './support.mjs';

let server;
let chromium;
before(async () => {
  server = await serveModels();
  chromium = await browser();
});
afterEach(() => {
  server.fault = undefined;
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

/** Requests for weights so far. */
const weights = () => server.requests.filter(({ path }) => path.endsWith('.safetensors')).length;

// Without WebGPU

test('a browser without WebGPU: no-api, and no weights are downloaded', async () => {
  const remove = () => delete Object.getPrototypeOf(navigator).gpu;
  inWorkers(server, remove);
  const asked = weights();
  const { probe, fit, here, worker } = await inPage(
    async () => {
      const { fits, ...probe } = await InCoder.probe();
      return { probe, fit: await fits('demo'), here: await outcome(load('tiny-a', { worker: false })), worker: await outcome(load('tiny-a')) };
    },
    null,
    remove,
  );
  assert.deepEqual([probe.ok, probe.reason, fit.fits], [false, 'no-api', false]);
  for (const { name, code, message, details } of [here, worker]) {
    assert.deepEqual([name, code, details, message], ['InCoderError', 'WEBGPU_UNAVAILABLE', { reason: 'no-api' }, probe.message]);
  }
  assert.equal(weights(), asked);
});

test('WebGPU without an adapter: no-adapter', async () => {
  for (const requestAdapter of ['async () => null', 'async () => { throw new Error("driver") }']) {
    const init = `GPU.prototype.requestAdapter = ${requestAdapter}`;
    const { reason, code, details } = await inPage(
      async () => ({ ...(await outcome(load('tiny-a', { worker: false }))), reason: (await InCoder.probe()).reason }),
      null,
      init,
    );
    assert.deepEqual([reason, code, details], ['no-adapter', 'WEBGPU_UNAVAILABLE', { reason: 'no-adapter' }]);
  }
});

test('a page that is not secure: insecure-context', async () => {
  const page = await chromium.newPage();
  // A name that is not localhost, answered by the same server.
  await page.route('http://insecure.test/**', async (route) => {
    const answer = await fetch(server.url + new URL(route.request().url()).pathname);
    const body = Buffer.from(await answer.arrayBuffer());
    await route.fulfill({ status: answer.status, contentType: answer.headers.get('Content-Type'), body });
  });
  await page.goto('http://insecure.test/');
  await page.waitForFunction(() => 'load' in globalThis);
  const { secure, reason, code, details } = await page.evaluate(async () => ({
    ...(await outcome(load('tiny-a', { worker: false }))),
    reason: (await InCoder.probe()).reason,
    secure: isSecureContext,
  }));
  assert.deepEqual([secure, reason, code, details], [false, 'insecure-context', 'WEBGPU_UNAVAILABLE', { reason: 'insecure-context' }]);
  await page.close();
});

test('what is missing of the package is said', async () => {
  server.fault = (path, _, response) => path === '/package/worker.js' && (response.writeHead(404).end(), true);
  const { engine, worker } = await inPage(async () => ({
    engine: await outcome(load('tiny-a', { worker: false, wasm: '/nothing.wasm' })),
    worker: await outcome(load('tiny-a')),
  }));
  assert.deepEqual([engine.code, worker.code], ['WASM_LOAD', 'WORKER_FAILED']);
  assert.match(engine.details.url, /nothing\.wasm$/);
});

// Limits

test('the demo model is the one that the package knows', () => {
  const config = JSON.parse(file('examples/demo-model/weights/config.json'));
  const known = JSON.parse(SHAPES.demo);
  for (const [name, value] of Object.entries(known)) assert.equal(config[name], value, name);
});

/** Bytes of the weights (fp16 matrices in blocks of 64 rows, fp32 vectors) and of an fp16 KV cache for `context` tokens. */
function bytesOf({ num_layers: layers, d_model: d, ffn_dim: f, vocab_size: vocab }, context) {
  const blocks = (rows) => Math.ceil(rows / 64) * 64;
  const matrices = blocks(vocab) * d + layers * d * (blocks(3 * d) + blocks(d) + blocks(f)) + layers * f * blocks(d);
  return [2 * matrices + 4 * (layers * (9 * d + f) + 2 * d), 4 * layers * context * d];
}

test('the probe says what fits before anything is downloaded', async () => {
  const asked = weights();
  const { probe, fits, qwen, config, wrong } = await inPage(async () => {
    const { fits, ...probe } = await InCoder.probe();
    const config = JSON.stringify({ model_type: 'xglm', num_layers: 1, d_model: 64, attention_heads: 4, ffn_dim: 256, vocab_size: 512 });
    return {
      probe,
      fits: { demo: await fits('demo'), 'facebook/incoder-1B': await fits('facebook/incoder-1B'), 'facebook/incoder-6B': await fits('facebook/incoder-6B') },
      qwen: await fits('Qwen/Qwen2.5-Coder-0.5B', { quantize: 'q4' }),
      config: await fits({ config }, { contextLength: 100, candidates: 3, maxTokens: 10 }),
      wrong: await Promise.all([fits({ config: '{' }), fits({ config: '{"model_type": "gpt2"}' }), fits('facebook/nothing'), fits('demo', { candidates: 0 })].map(outcome)),
    };
  });
  const { limits, ...rest } = probe;
  assert.deepEqual(rest, { ok: true, vendor: 'google', architecture: 'swiftshader', description: '', software: true, f16: rest.f16, subgroups: true });
  for (const limit of Object.values(limits)) assert.ok(limit > 0);
  for (const [name, { fits: yes, blockers, largestContext, promptTokens, ...bytes }] of Object.entries(fits)) {
    // SwiftShader allows buffers of a gigabyte.
    assert.deepEqual([yes, blockers, largestContext, promptTokens], [true, [], 2048, 2048 - 128], name);
    const { gpuBytes, weightBytes, kvCacheBytes, scratchBytes } = bytes;
    assert.deepEqual([weightBytes, kvCacheBytes], bytesOf(JSON.parse(SHAPES[name]), 2048), name);
    assert.equal(gpuBytes, weightBytes + kvCacheBytes + scratchBytes);
  }
  assert.ok(fits['facebook/incoder-6B'].gpuBytes <= 15e9);
  // 24 layers, two heads of 64 values for keys and as many for values, fp16, 4,096 tokens.
  assert.deepEqual([qwen.fits, qwen.kvCacheBytes, qwen.promptTokens], [true, 24 * 2 * 128 * 2 * 4096, 4096 - 128]);
  assert.ok(qwen.gpuBytes < 0.5e9);
  const tiny = { num_layers: 1, d_model: 64, ffn_dim: 256, vocab_size: 512 };
  assert.deepEqual([config.kvCacheBytes, config.largestContext, config.promptTokens], [bytesOf(tiny, 100)[1], 100, 70]);
  assert.deepEqual(wrong.map(({ code }) => code), ['BAD_CHECKPOINT', 'UNSUPPORTED_MODEL', 'INVALID_ARGUMENT', 'INVALID_ARGUMENT']);
  assert.equal(weights(), asked);
});

test('limits that are too small are told with the numbers', async () => {
  const asked = weights();
  const shrink = () => {
    for (const name of ['maxBufferSize', 'maxStorageBufferBindingSize']) {
      Object.defineProperty(GPUSupportedLimits.prototype, name, { get: () => 1 << 20 });
    }
  };
  const { fit, small, refused } = await inPage(
    async () => {
      const { fits } = await InCoder.probe();
      const refused = await outcome(load('demo', { worker: false, cache: false }));
      return { fit: await fits('facebook/incoder-1B'), small: await fits('demo'), refused };
    },
    null,
    shrink,
  );
  // The table of positions is the largest that cannot be split: 2048 rows of f32.
  const need = 2048 * 2048 * 4;
  const [binding, buffer] = ['maxStorageBufferBindingSize', 'maxBufferSize'].map((limit) => ({ limit, need, have: 1 << 20 }));
  assert.deepEqual([fit.fits, fit.blockers], [false, [binding, buffer]]);
  assert.equal(small.fits, false);
  assert.equal(refused.code, 'LIMIT_TOO_SMALL', refused.message);
  assert.deepEqual([refused.details.need, refused.details.have], [small.blockers[0].need, 1 << 20]);
  assert.equal(weights(), asked + 1, 'one HEAD');
});

test('the probe plans what the engine then takes, and no buffer that drivers cannot count', async () => {
  const enlarge = () => {
    for (const name of ['maxBufferSize', 'maxStorageBufferBindingSize']) {
      Object.defineProperty(GPUSupportedLimits.prototype, name, { get: () => 2 ** 32 });
    }
  };
  const { planned, info } = await inPage(async () => {
    const config = await (await fetch('/tiny-a/config.json')).text();
    const planned = await (await InCoder.probe()).fits({ config });
    const model = await load('tiny-a', { worker: false });
    await model.dispose();
    return { planned, info: model.info };
  });
  assert.deepEqual([planned.gpuBytes, planned.fits, info.prefillChunk], [info.gpuBytes, true, 32]);
  const fits = await inPage(
    async () => {
      const { fits } = await InCoder.probe();
      // A row of positions has 2048 values in fp32.
      return Promise.all([262_143, 262_144].map((contextLength) => fits('facebook/incoder-1B', { contextLength })));
    },
    null,
    enlarge,
  );
  const have = 2 ** 31 - 1;
  const blockers = ['maxStorageBufferBindingSize', 'maxBufferSize'].map((limit) => ({ limit, need: 2 ** 31, have }));
  assert.deepEqual(fits.map(({ fits, blockers }) => [fits, blockers]), [[true, []], [false, blockers]]);
  assert.equal(fits[1].largestContext, 262_143);
});

test('a context beyond the limits is refused with the numbers', async () => {
  const { code, details } = await inPage(() => outcome(load('tiny-a', { contextLength: 2 ** 31 })));
  assert.equal(code, 'LIMIT_TOO_SMALL');
  assert.ok(details.need > details.have, JSON.stringify(details));
});

// A device that is lost

/** Collects the devices that are opened here, and destroys the last one when asked on a channel. */
function tap() {
  globalThis.devices = [];
  globalThis.ended = 0;
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (...descriptor) {
    const device = await requestDevice.apply(this, descriptor);
    devices.push(device);
    void device.lost.then(() => (ended += 1));
    return device;
  };
  new BroadcastChannel('lose').onmessage = () => devices.at(-1)?.destroy();
}

for (const worker of [false, true]) {
  test(`a lost device, ${worker ? 'in a worker' : 'on the page'}: the running call rejects, the next one works from the cache`, async () => {
    inWorkers(server, tap);
    const page = await openPage(chromium, server, tap);
    const make = () => page.evaluate(() => model.generate('class A:\n', { maxTokens: 8, temperature: 0 }));
    await page.evaluate(async (worker) => {
      globalThis.model = await load('tiny-a', { worker });
    }, worker);
    const { text, ids } = await make();
    const asked = server.requests.length;
    const { first, running, caught } = await page.evaluate(async () => {
      const channel = new BroadcastChannel('lose');
      const lost = model.lost;
      let tokens = 0;
      const onToken = () => (tokens += 1) === 5 && channel.postMessage('');
      const running = await outcome(model.generate('class A:\n', { maxTokens: 1500, onToken }));
      // At once, before anybody hears of the loss.
      const caught = await outcome(model.generate('class A:\n', { maxTokens: 8, temperature: 0 }));
      return { first: await lost, running, caught };
    });
    assert.deepEqual([first.reason, running.name, running.code], ['lost', 'InCoderError', 'DEVICE_LOST'], running.message);
    assert.ok(first.message.length > 0);
    assert.equal(caught.value?.text, text, caught.message);
    // Once more, while nothing runs.
    const second = await page.evaluate(() => {
      const { lost } = model;
      new BroadcastChannel('lose').postMessage('');
      return lost;
    });
    assert.equal(second.reason, 'lost');
    const again = await make();
    assert.deepEqual([again.text, again.ids], [text, ids]);
    assert.equal(server.requests.length, asked, JSON.stringify(server.requests.slice(asked)));
    const { last, open } = await page.evaluate(async () => {
      const { lost } = model;
      await model.dispose();
      await sleep(100);
      return { last: await lost, open: devices.length - ended };
    });
    assert.deepEqual([last.reason, open], ['disposed', 0]);
    await page.close();
  });
}

// What is left

test('ten loads: each works, each device is destroyed, and the heap does not grow', async () => {
  const { texts, opened, closed, heaps } = await inPage(
    async () => {
      const [texts, heaps] = [new Set(), []];
      for (let i = 0; i < 10; i++) {
        const engine = await load('tiny-a', { worker: false, contextLength: 64 });
        texts.add((await engine.generate('class A:\n', { maxTokens: 4, temperature: 0 })).text);
        heaps.push(await engine.heapBytes());
        await engine.dispose();
      }
      await sleep(100);
      return { texts: texts.size, opened: devices.length, closed: ended, heaps };
    },
    null,
    tap,
  );
  assert.deepEqual([texts, opened, closed], [1, 10, 10]);
  // Holes in the heap come and go; an engine that was kept would cost half a megabyte each time.
  assert.ok(heaps.at(-1) - heaps[2] < 1 << 19, `bytes of heap: ${heaps}`);
});

test('a load that is aborted at any phase leaves no device, and the next one works', async () => {
  const phases = ['plan', 'compile', 'upload', 'warmup', 'ready'];
  const { made, opened, closed, text } = await inPage(
    async (phases) => {
      const made = [];
      for (const phase of phases) {
        const controller = new AbortController();
        const onProgress = (event) => event.phase === phase && controller.abort(phase);
        made.push(await load('tiny-a', { worker: false, contextLength: 64, signal: controller.signal, onProgress }).catch((reason) => reason));
      }
      const engine = await load('tiny-a', { worker: false, contextLength: 64 });
      const { text } = await engine.generate('class A:\n', { maxTokens: 4 });
      await engine.dispose();
      await sleep(100);
      return { made, opened: devices.length, closed: ended, text };
    },
    phases,
    tap,
  );
  assert.deepEqual(made, phases);
  assert.ok(opened >= 4 && text.length > 0);
  assert.equal(closed, opened);
});

test('two models at once: each on its own device', async () => {
  const { texts, alone } = await inPage(async () => {
    const make = async (engine) => (await engine.generate('class A:\n', { maxTokens: 6, temperature: 0 })).text;
    const engines = await Promise.all([load('tiny-a', { worker: false }), load('small-b', { worker: false })]);
    const texts = await Promise.all(engines.map(make));
    await engines[0].dispose();
    return { texts, alone: await make(engines[1]) };
  });
  assert.notEqual(texts[0], texts[1]);
  assert.equal(alone, texts[1]);
});

// Memory

/** The oracle's tiny model made large: the same tensors with other sizes, and weights that follow from their place. */
function largeModel({ layers, d, f, vocab }) {
  const small = file('tests/oracle/tiny-a/model.fp16.safetensors');
  const tensors = JSON.parse(small.subarray(8, 8 + Number(small.readBigUInt64LE(0))));
  const sizes = { 64: d, 256: f, 512: vocab };
  const header = {};
  let end = 0;
  const add = (name, like) => {
    const shape = like.map((size) => sizes[size]);
    const start = end;
    end += 2 * shape.reduce((product, size) => product * size, 1);
    header[name] = { dtype: 'F16', shape, data_offsets: [start, end] };
  };
  for (const [name, { shape }] of Object.entries(tensors)) {
    if (name.startsWith('model.layers.0.')) for (let i = 0; i < layers; i++) add(name.replace('.0.', `.${i}.`), shape);
    else if (shape && !name.startsWith('model.layers.')) add(name, shape);
  }
  const text = JSON.stringify(header).padEnd(Math.ceil(JSON.stringify(header).length / 8) * 8);
  const head = Buffer.alloc(8 + text.length, text, 'utf8');
  head.writeBigUInt64LE(BigInt(text.length));
  head.write(text, 8);
  // 0.001 and -0.001, again and again.
  const chunk = Buffer.alloc(1 << 20, Uint8Array.of(0x19, 0x14, 0x19, 0x94));
  const bytes = (from, to) => (from < head.length ? head.subarray(from, Math.min(to, head.length)) : chunk.subarray(from % 4, Math.min(chunk.length, (from % 4) + to - from)));
  const config = { ...JSON.parse(file('tests/oracle/tiny-a/config.json')), num_layers: layers, d_model: d, ffn_dim: f, vocab_size: vocab, attention_heads: 32 };
  return { size: head.length + end, bytes, config };
}

test('a model of 500 MB takes less than 128 MB of wasm heap', async () => {
  const { size, bytes, config } = largeModel({ layers: 5, d: 2048, f: 8192, vocab: 8192 });
  assert.ok(size > 500e6, String(size));
  server.fault = (path, request, response) => {
    if (path === '/large/config.json') return response.end(JSON.stringify(config)), true;
    if (path === '/large/tokenizer.json') return response.end(file('tests/oracle/tok-512/tokenizer.json')), true;
    if (path !== '/large/model.safetensors') return false;
    void pour(request, response, size, bytes);
    return true;
  };
  const { heap, loaded, token, gpuBytes } = await inPage(async () => {
    const start = performance.now();
    const large = await load('large', { cache: false, contextLength: 64 });
    const loaded = performance.now() - start;
    const { timings } = await large.generate('x', { maxTokens: 2 });
    const heap = await large.heapBytes();
    await large.dispose();
    return { heap, loaded, token: timings.decodeMs, gpuBytes: large.info.gpuBytes };
  });
  console.log(`${size} bytes: loaded in ${loaded.toFixed()} ms, a token in ${token.toFixed()} ms, ${heap} bytes of wasm heap`);
  assert.ok(gpuBytes > size - 1e6 && heap < 128 << 20, `${heap} bytes of heap`);
});
