/** Models in Chromium's own storage, and what goes wrong on their way there. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { file, inWorkers, openPage, pour, serveModels } from './page.mjs';
import { browser } from './support.mjs';

const ORACLE = 'tests/oracle/';
const TINY = {
  'config.json': file(`${ORACLE}tiny-a/config.json`),
  'tokenizer.json': file(`${ORACLE}tok-512/tokenizer.json`),
  'model.safetensors': file(`${ORACLE}tiny-a/model.fp16.safetensors`),
};
const SMALL = {
  'config.json': file(`${ORACLE}small-b/config.json`),
  'tokenizer.json': file(`${ORACLE}tok-2k/tokenizer.json`),
  'model.safetensors': file(`${ORACLE}small-b/model.fp16.safetensors`),
};
/** Bytes of a part in the cache. */
const PART = 4 << 20;
const bytesOf = (files) => Object.values(files).reduce((sum, { length }) => sum + length, 0);
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');
const manifest = (files) =>
  Buffer.from(JSON.stringify({ files: Object.entries(files).map(([name, bytes]) => ({ name, size: bytes.length, sha256: sha256(bytes) })) }));

let server;
let chromium;
let page;
before(async () => {
  server = await serveModels();
  chromium = await browser();
});
beforeEach(async () => {
  page = await openPage(chromium, server);
});
afterEach(async () => {
  server.fault = undefined;
  await page.evaluate(async () => {
    for (const { id } of await InCoder.cache.list()) await InCoder.cache.delete(id);
  });
  for (const each of chromium.pages().slice(1)) await each.close();
});
after(async () => {
  await chromium?.close();
  await server?.close();
});

/** Serves these files under /m/, and nothing else there; `bytes` may also be an answer. */
function put(files) {
  server.fault = (path, request, response) => {
    if (!path.startsWith('/m/')) return false;
    const found = files[path.slice(3)];
    if (typeof found === 'function') found(request, response);
    else if (found) void pour(request, response, found.length, (from, to) => found.subarray(from, to));
    else response.writeHead(404, { 'Access-Control-Allow-Origin': '*' }).end();
    return true;
  };
}

/** Loads the model at /m/ in a worker, and disposes of it; how that ends, and the events of the download. */
const loading = (options = {}, on = page) =>
  on.evaluate(async (options) => {
    const events = [];
    const onProgress = (event) => events.push(event);
    const { value, ...error } = await outcome(load('m', { contextLength: 64, onProgress, ...options }));
    const text = value && (await value.generate('class A:\n', { maxTokens: 4, temperature: 0 })).text;
    await value?.dispose();
    return { ...error, text, events, download: events.filter(({ phase, waiting }) => phase === 'download' && !waiting) };
  }, options);

/** What was asked of /m/ since the last look, as `GET weights 0-`. */
function asked() {
  const requests = server.requests.splice(0).filter(({ path }) => path.startsWith('/m/'));
  return requests.map(({ path, range }) => `${path.slice(3)} ${range ?? ''}`);
}

// Both stores

/** Leaves the Cache API as the only store. */
const noFiles = () => delete StorageManager.prototype.getDirectory;

for (const [store, init] of [['OPFS', () => {}], ['the Cache API', noFiles]]) {
  test(`${store}: a model is downloaded once, listed, verified and deleted`, async () => {
    const own = await openPage(chromium, server, init);
    const prepare = () => {
      put(SMALL);
      const models = server.fault;
      inWorkers(server, init);
      const workers = server.fault;
      server.fault = (...request) => models(...request) || workers(...request);
    };
    prepare();
    asked();
    const first = await loading({}, own);
    assert.equal(first.message, undefined);
    const weights = asked().filter((request) => request.startsWith('model.safetensors bytes=0-'));
    // One to ask for the length, one for the bytes.
    assert.equal(weights.length, 2);
    assert.ok(first.download.every(({ cached, resumed }) => !cached && !resumed));

    const inFiles = await own.evaluate(async () => {
      if (!navigator.storage.getDirectory) return false;
      const names = [];
      for await (const name of (await navigator.storage.getDirectory()).keys()) names.push(name);
      return names.includes('incoder');
    });
    const entries = await own.evaluate(async () => (await (await caches.open('incoder')).keys()).length);
    assert.deepEqual([inFiles, entries > 0], [store === 'OPFS', store !== 'OPFS']);

    await own.reload();
    await own.waitForFunction(() => 'load' in globalThis);
    const second = await loading({}, own);
    assert.equal(second.text, first.text);
    assert.deepEqual(asked(), []);
    assert.ok(second.download.length > 0 && second.download.every(({ cached }) => cached));

    const { list, verified, deleted, twice, empty, missing } = await own.evaluate(async () => {
      const { cache } = InCoder;
      const list = await cache.list();
      const [{ id }] = list;
      return {
        list,
        verified: await cache.verify(id),
        deleted: await cache.delete(id),
        twice: await cache.delete(id),
        empty: await cache.list(),
        missing: await outcome(cache.verify(id)),
      };
    });
    const id = `${server.url}/m/`;
    const files = Object.entries(SMALL).map(([name, { length }]) => ({ name, done: length, total: length, sha256: sha256(SMALL[name]) }));
    assert.deepEqual(list, [{ id, files, bytes: bytesOf(SMALL), complete: true }]);
    assert.deepEqual(verified, { id, ok: true, problems: [] });
    assert.deepEqual([deleted, twice, empty, missing.code], [true, false, [], 'NOT_FOUND']);

    await loading({}, own);
    assert.equal(asked().filter((request) => request.startsWith('model.safetensors bytes=0-')).length, 2);
  });
}

test('a damaged cache is found and repaired', async () => {
  put(SMALL);
  await loading();
  const { verified, list } = await page.evaluate(async () => {
    const folders = await (await navigator.storage.getDirectory()).getDirectoryHandle('incoder');
    for await (const model of folders.values()) {
      const weights = await model.getDirectoryHandle('model.safetensors');
      const part = await (await weights.getFileHandle('1')).createWritable({ keepExistingData: true });
      await part.write({ type: 'write', position: 1000, data: new Uint8Array([1, 2, 3]) });
      await part.close();
    }
    const [{ id }] = await InCoder.cache.list();
    return { verified: await InCoder.cache.verify(id), list: await InCoder.cache.list() };
  });
  assert.equal(verified.ok, false);
  assert.match(verified.problems.join('\n'), /^model\.safetensors: SHA-256 is .*; deleted$/);
  assert.deepEqual([list[0].complete, list[0].files[2].done], [false, 0]);
  asked();
  const again = await loading();
  assert.ok(again.text);
  // The two that were sound are not downloaded again: only their lengths are asked for.
  assert.deepEqual(asked().filter((request) => request.endsWith('bytes=0-')).map((request) => request.split(' ')[0]).sort(), [
    'config.json',
    'generation_config.json',
    'model.safetensors',
    'model.safetensors',
    'tokenizer.json',
  ]);
});

test('every phase of a load ends with all of it done', async () => {
  put(TINY);
  const { events } = await loading();
  const last = new Map(events.map((event) => [event.phase, event]));
  assert.deepEqual([...last.keys()].sort(), ['compile', 'download', 'plan', 'ready', 'upload', 'warmup']);
  assert.equal(events.at(-1).phase, 'ready');
  for (const { phase, done, total } of last.values()) assert.ok(done === total && total > 0, `${phase}: ${done} of ${total}`);
  assert.equal(last.get('download').total, bytesOf(TINY));
  for (const phase of last.keys()) {
    const steps = events.filter((event) => event.phase === phase).map(({ done }) => done);
    assert.deepEqual(steps, [...steps].sort((a, b) => a - b), phase);
  }
});

test('torch weights are cached like any other, and compute the same', async () => {
  put(TINY);
  const { text } = await loading();
  const { 'model.safetensors': _, ...others } = TINY;
  put({ ...others, 'pytorch_model.bin': file(`${ORACLE}tiny-a/pytorch_model.fp16.bin`) });
  await page.evaluate(async () => InCoder.cache.delete((await InCoder.cache.list())[0].id));
  assert.equal((await loading()).text, text);
  asked();
  const again = await loading();
  assert.equal(again.text, text);
  assert.deepEqual(asked(), []);
  assert.equal((await loading({ cache: false })).text, text);
});

test('quantized weights: the cache keeps them alone, whatever the original is, and loads from them offline', async () => {
  put(TINY);
  const { text, message } = await loading({ cache: false, quantize: 'q4' });
  assert.ok(text, message);
  const { 'model.safetensors': _, ...others } = TINY;
  const torch = { ...others, 'pytorch_model.bin': file(`${ORACLE}tiny-a/pytorch_model.fp16.bin`) };
  for (const [what, files] of Object.entries({ torch, safetensors: TINY })) {
    put(files);
    await page.evaluate(async () => InCoder.cache.delete((await InCoder.cache.list())[0]?.id ?? ''));
    const first = await loading({ quantize: 'q4' });
    assert.deepEqual([first.text, first.message], [text, undefined], what);
    assert.equal(first.download.at(-1).total, bytesOf(files));
    const [kept, ...more] = await page.evaluate(() => InCoder.cache.list());
    assert.deepEqual([kept.id, kept.complete, more], [`${server.url}/m/#q4-v1`, true, []]);
    const { done } = kept.files.find(({ name }) => name === 'model.safetensors');
    assert.ok(done < bytesOf(files) / 2, `${done} of ${bytesOf(files)} bytes`);
  }
  await page.evaluate(async () => (await InCoder.probe()).fits('demo'));
  await chromium.setOffline(true);
  const second = await loading({ quantize: 'q4', worker: false });
  await chromium.setOffline(false);
  assert.deepEqual([second.text, second.message], [text, undefined]);
});

// Interrupted

/** The weights up to `end`; then the connection hangs, or breaks. */
const upTo = (bytes, end, hang) => async (request, response) => {
  const [, first] = /^bytes=(\d+)-/.exec(request.headers.range ?? '') ?? [0, 0];
  const from = Number(first);
  response.writeHead(206, { 'Content-Length': bytes.length - from, 'Content-Range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` });
  if (request.method === 'HEAD') return response.end();
  await new Promise((resolve) => response.write(bytes.subarray(from, Math.max(from, end)), resolve));
  if (!hang) setTimeout(() => response.destroy(), 50);
};

test('an aborted download goes on where it was', async () => {
  put({ ...SMALL, 'model.safetensors': upTo(SMALL['model.safetensors'], 5_000_000, true) });
  const { same, kept } = await page.evaluate(async (part) => {
    const controller = new AbortController();
    const reason = { why: 'mine' };
    const call = load('m', { signal: controller.signal }).catch((error) => error);
    const kept = async () => (await InCoder.cache.list())[0]?.files.find(({ name }) => name === 'model.safetensors').done;
    while (((await kept()) ?? 0) < part) await sleep(50);
    controller.abort(reason);
    return { same: (await call) === reason, kept: await kept() };
  }, PART);
  assert.deepEqual([same, kept], [true, PART]);
  asked();
  put(SMALL);
  const { text, download } = await loading();
  assert.ok(text && download.every(({ resumed }) => resumed));
  // The length, then what is missing.
  assert.equal(asked().filter((request) => request.startsWith('model.safetensors')).at(-1), `model.safetensors bytes=${PART}-`);
});

test('a connection that breaks again and again: an error with the numbers, and then it goes on', async () => {
  const weights = SMALL['model.safetensors'];
  put({ ...SMALL, 'model.safetensors': upTo(weights, 5_000_000, false) });
  const { code, details } = await loading();
  assert.equal(code, 'NETWORK');
  assert.deepEqual([details.file, details.total], ['model.safetensors', weights.length]);
  assert.ok(details.done >= PART && details.done <= 5_000_000, String(details.done));
  asked();
  put(SMALL);
  const { text, download } = await loading();
  assert.ok(text && download.every(({ resumed }) => resumed));
  assert.ok(asked().includes(`model.safetensors bytes=${PART}-`));
});

// Compression

/** Sends a file compressed, whatever was asked for: the browser refuses that where a part was asked for. */
const compressed = (bytes) => (request, response) => {
  const body = gzipSync(bytes);
  response.writeHead(200, { 'Content-Encoding': 'gzip', 'Content-Length': body.length, 'Access-Control-Allow-Origin': '*' });
  response.end(request.method === 'HEAD' ? undefined : body);
};

const COMPRESSED = Object.fromEntries(Object.entries(TINY).map(([name, bytes]) => [name, compressed(bytes)]));
const WITH_MANIFEST = { ...COMPRESSED, 'manifest.json': compressed(manifest(TINY)) };

test('servers that always compress: the files are right, with a manifest and without, here and elsewhere, cached or not', async () => {
  const expected = sha256(TINY['model.safetensors']);
  for (const [what, files] of Object.entries({ 'with a manifest': WITH_MANIFEST, 'without a manifest': COMPRESSED })) {
    put(files);
    // What the encoding is can only be seen on the page's own server.
    for (const url of ['/m/', `${server.url.replace('localhost', '127.0.0.1')}/m/`]) {
      for (const cache of [true, false]) {
        const { value, message } = await page.evaluate(([url, cache]) => outcome(bring(url, { cache, retryMs: 50 })), [url, cache]);
        assert.equal(value, expected, `${what}, ${url}, cache ${cache}: ${message}`);
      }
    }
    const kept = await page.evaluate(() => InCoder.cache.list());
    assert.deepEqual(kept.map(({ complete, bytes }) => [complete, bytes]), Array(2).fill([true, bytesOf(TINY)]));
    await page.evaluate(async (ids) => Promise.all(ids.map((id) => InCoder.cache.delete(id))), kept.map(({ id }) => id));
  }
  // One that compresses from now on: the download cannot go on where it was, and begins anew.
  const again = () => page.evaluate(() => outcome(bring('/m/', { partSize: 50_000, retryMs: 10 })));
  put({ ...TINY, 'manifest.json': manifest(TINY), 'model.safetensors': upTo(TINY['model.safetensors'], 120_000, false) });
  assert.equal((await again()).code, 'NETWORK');
  put(WITH_MANIFEST);
  assert.equal((await again()).value, expected);
  put(COMPRESSED);
  assert.ok((await loading()).text);
});

// Offline

test('offline: a cached model loads, another one is a clear error', async () => {
  put(TINY);
  const { text } = await loading();
  // A worker's own script comes from the network, so the engine runs on the page; its wasm is there already.
  await page.evaluate(async () => (await InCoder.probe()).fits('demo'));
  await chromium.setOffline(true);
  const cached = await loading({ worker: false });
  const other = await page.evaluate(() => outcome(load('small-b', { worker: false })));
  await chromium.setOffline(false);
  assert.deepEqual([cached.text, cached.message], [text, undefined]);
  assert.equal(other.code, 'OFFLINE_MISS', other.message);
  const { value } = await page.evaluate(async () => ({ value: (await load('small-b', { worker: false })).info.model }));
  assert.equal(value, 'small-b');
});

// Wrong files

const half = TINY['model.safetensors'].subarray(0, TINY['model.safetensors'].length / 2);
const garbage = Buffer.from('{"model_type": "xglm"');
const wrongHash = JSON.parse(manifest(TINY));
wrongHash.files[2].sha256 = 'ab'.repeat(32);
const page404 = (_, response) => response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html>not here');

const WRONG = {
  'half of the weights': [{ ...TINY, 'model.safetensors': half }, 'BAD_CHECKPOINT', /truncated/],
  'half of the weights, the manifest tells their length': [{ ...TINY, 'manifest.json': manifest(TINY), 'model.safetensors': half }, 'INTEGRITY', /should have/],
  'another hash': [{ ...TINY, 'manifest.json': Buffer.from(JSON.stringify(wrongHash)) }, 'INTEGRITY', /SHA-256/],
  'a manifest that is no JSON': [{ ...TINY, 'manifest.json': garbage }, 'BAD_CHECKPOINT', /manifest\.json/],
  'no model at all': [{}, 'NOT_FOUND', /config\.json/],
  'no tokenizer': [{ ...TINY, 'tokenizer.json': undefined }, 'NOT_FOUND', /tokenizer\.json/],
  'no weights': [{ ...TINY, 'model.safetensors': undefined }, 'NOT_FOUND', /model\.safetensors/],
  'the page of a single-page app everywhere': [{ 'config.json': page404, 'tokenizer.json': page404 }, 'NOT_FOUND', /web page/],
  'a config that is no JSON': [{ ...TINY, 'config.json': garbage }, 'BAD_CHECKPOINT', /config\.json/],
  'the config of another architecture': [{ ...TINY, 'config.json': Buffer.from('{"model_type": "gpt2"}') }, 'UNSUPPORTED_MODEL', /gpt2/],
  'a tokenizer that is no JSON': [{ ...TINY, 'tokenizer.json': garbage }, 'BAD_CHECKPOINT', /tokenizer/],
  'a server that fails': [{ ...TINY, 'config.json': (_, response) => response.writeHead(500).end() }, 'NETWORK', /500/],
};

for (const [what, [files, expected, says]] of Object.entries(WRONG)) {
  test(`${what}: ${expected}; when it is mended, the same load works`, async () => {
    put(files);
    const { name, code, message, details } = await loading();
    assert.deepEqual([name, code], ['InCoderError', expected], message);
    assert.match(message, says);
    if (code === 'INTEGRITY') assert.ok('expected' in details || 'expectedSize' in details, JSON.stringify(details));
    put({ ...TINY, ...(files['manifest.json'] && { 'manifest.json': manifest(TINY) }) });
    const mended = await loading();
    assert.equal(mended.message, undefined);
    assert.ok(mended.text);
  });
}

// Room

test('too little room: QUOTA_EXCEEDED with the numbers, before and while writing', async () => {
  const session = await chromium.newCDPSession(page);
  const origin = server.url;
  put(SMALL);
  const models = server.fault;
  await session.send('Storage.overrideQuotaForOrigin', { origin, quotaSize: 3_000_000 });
  // Chromium says to pages that 10 GiB are free, whatever the truth is: the first write tells.
  const writing = await loading();
  assert.equal(writing.code, 'QUOTA_EXCEEDED', writing.message);
  // Chromium counts late: a part more than the quota may be there already, never the whole.
  assert.ok(writing.details.need > 0 && writing.details.usage < bytesOf(SMALL), JSON.stringify(writing.details));
  assert.doesNotMatch(writing.message, /are free/);

  // A browser that tells the truth.
  inWorkers(server, () => (StorageManager.prototype.estimate = async () => ({ quota: 3_000_000, usage: 1_000_000 })));
  const workers = server.fault;
  server.fault = (...request) => models(...request) || workers(...request);
  asked();
  const before = await loading();
  assert.equal(before.code, 'QUOTA_EXCEEDED', before.message);
  assert.match(before.message, /, and 2000000 are free$/);
  const { need, ...told } = before.details;
  assert.deepEqual(told, { quota: 3_000_000, usage: 1_000_000 });
  assert.ok(need > 2_000_000 && need <= bytesOf(SMALL), String(need));
  const requests = asked();
  assert.equal(requests.filter((request) => request.startsWith('model.safetensors')).length, 1, requests.join('; '));

  const uncached = await loading({ cache: false });
  assert.ok(uncached.text, uncached.message);
  await session.send('Storage.overrideQuotaForOrigin', { origin });
  server.fault = models;
  const roomy = await loading();
  assert.equal(roomy.text, uncached.text);
});

// Other ways in

test('nothing is kept when that is not wanted', async () => {
  put(TINY);
  const { text } = await loading({ cache: false });
  assert.ok(text);
  assert.deepEqual(await page.evaluate(() => InCoder.cache.list()), []);
});

test('files that the user picked: no requests, and nothing is kept', async () => {
  put(TINY);
  const { text } = await loading({ cache: false });
  asked();
  const { picked, list, missing } = await page.evaluate(async (files) => {
    const blobs = await Promise.all(files.map(async (name) => new File([await (await fetch(`/tiny-a/${name}`)).arrayBuffer()], name)));
    const engine = await InCoder.load('mine', { files: blobs, contextLength: 64 });
    const { text } = await engine.generate('class A:\n', { maxTokens: 4, temperature: 0 });
    await engine.dispose();
    const missing = await outcome(InCoder.load('mine', { files: blobs.slice(0, 2) }));
    return { picked: text, list: await InCoder.cache.list(), missing };
  }, Object.keys(TINY));
  assert.deepEqual([picked, list, asked()], [text, [], []]);
  assert.equal(missing.code, 'NOT_FOUND');
});
