/** The layer between a model's name and the bytes of its files, against a real server that misbehaves on demand. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { afterEach, beforeEach, test } from 'node:test';
import { deleteModel, listModels, verifyModel } from '../package/dist/files/cache.js';
import { openFolder } from '../package/dist/files/folder.js';

const PART = 1000;
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** Seeded bytes and numbers (xorshift): the tests are the same every time. */
function random(seed) {
  let state = seed >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

function bytesOf(seed, length) {
  const next = random(seed);
  return Uint8Array.from({ length }, () => next(256));
}

/** A promise that is settled from outside. */
function gate() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { open, opened };
}

/** Serves `files` (path to bytes) and does to each what `rules` says. */
class Server {
  files = new Map();
  /**
   * By path: {status, times, noRange, noHead, cut (bytes of the answer after which the socket breaks), until (the same in
   * bytes of the file), end (bytes after which the body ends as if it were whole), hold: [bytes, promise], etag, type, contentRange, hide}; `times` is how often it applies.
   */
  rules = new Map();
  log = [];
  active = 0;
  most = 0;

  async start() {
    this.server = createServer((request, response) => void this.answer(request, response));
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}`;
  }

  async stop() {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  async answer(request, response) {
    const path = decodeURIComponent(request.url.split('?')[0]);
    const { range, authorization } = request.headers;
    const entry = { method: request.method, url: request.url, path, range: range ?? null, authorization, headers: request.headers, sent: 0 };
    this.log.push(entry);
    let rule = this.rules.get(path) ?? {};
    if (rule.times !== undefined && rule.times-- <= 0) rule = {};
    const bytes = this.files.get(path);
    if (rule.status || !bytes) {
      response.writeHead(rule.status ?? 404).end('no');
      return;
    }
    if (rule.noHead && request.method === 'HEAD') return void response.writeHead(405).end();
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? [];
    const ranged = first !== undefined && !rule.noRange;
    const from = ranged ? Number(first) : 0;
    const to = ranged && last ? Math.min(Number(last) + 1, bytes.length) : bytes.length;
    const headers = { 'Content-Type': rule.type ?? 'application/octet-stream' };
    if (rule.etag !== null) headers.ETag = rule.etag ?? `"${sha256(bytes).slice(0, 8)}"`;
    if (!rule.end) headers['Content-Length'] = to - from;
    if (ranged && from >= bytes.length) {
      response.writeHead(416, { 'Content-Range': `bytes */${bytes.length}` }).end();
      return;
    }
    if (ranged && !rule.hide) headers['Content-Range'] = rule.contentRange ?? `bytes ${from}-${to - 1}/${bytes.length}`;
    response.writeHead(ranged ? 206 : 200, headers);
    if (request.method === 'HEAD') return void response.end();
    this.most = Math.max(this.most, ++this.active);
    response.on('close', () => (this.active -= 1));
    const body = bytes.subarray(from, to);
    const cut = rule.cut ?? (rule.until === undefined ? undefined : rule.until - from);
    const stop = cut ?? rule.end ?? rule.hold?.[0] ?? body.length;
    const send = (piece) => new Promise((resolve) => response.write(piece, resolve)).then(() => (entry.sent += piece.length));
    await send(body.subarray(0, stop));
    if (cut !== undefined && cut < body.length) {
      // Let what was written arrive before the connection breaks.
      await new Promise((resolve) => setTimeout(resolve, 10));
      return void response.destroy();
    }
    if (rule.hold) {
      await rule.hold[1];
      if (!response.destroyed) await send(body.subarray(stop));
    }
    response.end();
  }

  of(name, method = 'GET') {
    return this.log.filter(({ path, method: used }) => used === method && path.endsWith(`/${name}`));
  }
}

/** Parts in memory; `room` bytes of it, and `before` runs ahead of every write. */
class MemoryStore {
  values = new Map();
  room = Infinity;
  before = async () => {};

  async get(key) {
    const bytes = this.values.get(key);
    return bytes ? new Blob([bytes]) : null;
  }

  async put(key, bytes) {
    await this.before(key);
    const used = [...this.values.values()].reduce((sum, { length }) => sum + length, 0);
    if (used + bytes.length > this.room) throw new DOMException('full', 'QuotaExceededError');
    this.values.set(key, bytes.slice());
  }

  async delete(key) {
    for (const each of this.values.keys()) if (each === key || each.startsWith(`${key}/`)) this.values.delete(each);
  }

  async keys(folder) {
    return [...this.values.keys()].filter((key) => folder === '' || key.startsWith(`${folder}/`));
  }

  /** The keys of a file's parts, in order. */
  parts(name) {
    const index = (key) => Number(key.slice(key.lastIndexOf('/') + 1));
    return [...this.values.keys()].filter((key) => key.includes(`/${name}/`)).sort((a, b) => index(a) - index(b));
  }
}

let server;
let store;
let hashers;
let events;

const newHasher = () => {
  const hash = createHash('sha256');
  hashers += 1;
  return {
    update: (bytes) => hash.update(bytes),
    digest: () => {
      hashers -= 1;
      return hash.digest('hex');
    },
  };
};

beforeEach(async () => {
  server = new Server();
  store = new MemoryStore();
  hashers = 0;
  events = [];
  navigate({});
  await server.start();
});

afterEach(async () => {
  await server.stop();
  assert.equal(hashers, 0, 'every hasher is freed');
});

/** What this browser would say of itself. */
function navigate(value) {
  Object.defineProperty(globalThis, 'navigator', { value, configurable: true, writable: true });
}

const SIZES = { 'config.json': 300, 'tokenizer.json': 2500, 'model.safetensors': 10_400 };

/** Puts a model under /m/; with a manifest unless `manifest` is false. */
function serve({ folder = '/m', sizes = SIZES, manifest = true, hashes = true, seed = 1 } = {}) {
  const made = {};
  for (const [name, size] of Object.entries(sizes)) {
    made[name] = bytesOf(seed++, size);
    server.files.set(`${folder}/${name}`, made[name]);
  }
  if (manifest) {
    const files = Object.entries(made).map(([name, bytes]) => ({ name, size: bytes.length, ...(hashes && { sha256: sha256(bytes) }) }));
    server.files.set(`${folder}/manifest.json`, json({ files }));
  }
  return made;
}

const json = (value) => new TextEncoder().encode(JSON.stringify(value));

const open = (options = {}) =>
  openFolder('demo', {
    baseUrl: `${server.url}/m`,
    store,
    newHasher,
    partSize: PART,
    retryMs: 1,
    onDownload: (event) => events.push(event),
    ...options,
  });

async function readAll(folder, name) {
  const file = await folder.open(name);
  return file.read(0, file.size);
}

async function assertWhole(folder, made) {
  await folder.finished();
  for (const [name, bytes] of Object.entries(made)) assert.deepEqual(await readAll(folder, name), bytes, name);
}

/** An InCoderError of that code, with these details among its own. */
const fails = (promise, code, details = {}) =>
  assert.rejects(promise, (error) => {
    assert.equal(error.name, 'InCoderError', String(error?.stack));
    assert.equal(error.code, code, error.message);
    for (const [key, value] of Object.entries(details)) assert.deepEqual(error.details[key], value, `${key}: ${JSON.stringify(error.details)}`);
    structuredClone(error.details);
    return true;
  });

const failsWith = (promise, reason) => assert.rejects(promise, (error) => error === reason);

const failing = (options) => open(options).then((folder) => folder.finished());

// Plain loads

test('a folder with a manifest: one request a file, bytes and events are right', async () => {
  const made = serve();
  const folder = await open();
  assert.equal(folder.id, `${server.url}/m/`);
  assert.deepEqual(folder.files, Object.entries(SIZES).map(([name, size]) => ({ name, size })));
  assert.equal(await folder.open('README.md'), null);
  await assertWhole(folder, made);
  assert.deepEqual(server.log.map(({ method, path }) => `${method} ${path}`).sort(), [
    'GET /m/config.json',
    'GET /m/manifest.json',
    'GET /m/model.safetensors',
    'GET /m/tokenizer.json',
  ]);
  for (const { headers } of server.log) assert.equal(headers['if-range'], undefined);
  const total = 300 + 2500 + 10_400;
  const last = events.at(-1);
  assert.deepEqual([last.done, last.total, last.cached, last.resumed], [total, total, false, false]);
  assert.equal(events.filter(({ done }) => done === total).length, 1);
  for (const event of events) assert.ok(event.fileDone <= event.fileTotal && event.done <= event.total && event.file in SIZES);
  assert.deepEqual(await listModels([store]), [
    {
      id: folder.id,
      files: Object.entries(made).map(([name, bytes]) => ({ name, done: bytes.length, total: bytes.length, sha256: sha256(bytes) })),
      bytes: total,
      complete: true,
    },
  ]);
});

test('a folder without a manifest: the names are tried, lengths come from HEAD', async () => {
  const made = serve({ manifest: false });
  await assertWhole(await open(), made);
  assert.equal(server.of('model.safetensors', 'HEAD').length, 1);
  assert.equal(server.of('model.safetensors').length, 1);
});

test('a folder whose server refuses HEAD, hides Content-Range and answers unknown paths with its page', async () => {
  const made = serve({ manifest: false });
  for (const name of Object.keys(made)) server.rules.set(`/m/${name}`, { noHead: true, hide: true });
  server.files.set('/m/manifest.json', new TextEncoder().encode('<!doctype html>'));
  server.rules.set('/m/manifest.json', { type: 'text/html; charset=utf-8' });
  await assertWhole(await open({ baseUrl: `${server.url}/m/?key=a%20b#x` }), made);
  assert.ok(server.log.every(({ url }) => url.endsWith('?key=a%20b')));
});

test('shards without a manifest: the index names them', async () => {
  const made = serve({ manifest: false, sizes: { 'config.json': 10, 'tokenizer.json': 20, 'a.safetensors': 1500, 'b.safetensors': 3000 } });
  const index = json({ weight_map: { x: 'a.safetensors', y: 'b.safetensors', z: 'a.safetensors' } });
  server.files.set('/m/model.safetensors.index.json', index);
  await assertWhole(await open(), { ...made, 'model.safetensors.index.json': index });
});

test('at most three downloads at once, small files first', async () => {
  const sizes = { 'config.json': 10, 'tokenizer.json': 20 };
  for (let i = 0; i < 6; i += 1) sizes[`s${i}.safetensors`] = 9000 - 1000 * i;
  const made = serve({ sizes });
  const index = json({ weight_map: Object.fromEntries(Object.keys(sizes).slice(2).map((name, i) => [`t${i}`, name])) });
  const files = Object.entries({ ...made, 'model.safetensors.index.json': index }).map(([name, bytes]) => ({ name, size: bytes.length }));
  server.files.set('/m/model.safetensors.index.json', index);
  server.files.set('/m/manifest.json', json({ files }));
  for (const name of Object.keys(sizes)) server.rules.set(`/m/${name}`, { hold: [5, new Promise((resolve) => setTimeout(resolve, 300))] });
  await assertWhole(await open(), made);
  assert.equal(server.most, 3);
  const order = server.log.map(({ path }) => path.slice(3)).filter((name) => name.startsWith('s'));
  assert.equal(order[0], 's5.safetensors');
  assert.equal(order.at(-1), 's0.safetensors');
});

test('an empty file is a file', async () => {
  const made = serve({ sizes: { ...SIZES, 'model.safetensors': 0 } });
  await assertWhole(await open(), made);
  await assertWhole(await open({ cache: false }), made);
  assert.equal(server.of('model.safetensors').length, 0);
});

// The hub

const COMMIT = 'c0ffee'.repeat(6) + 'c0ff';

function serveHub({ commit = COMMIT, sizes = SIZES, revision = 'main', seed = 1 } = {}) {
  const made = serve({ folder: `/org/name/resolve/${commit}`, sizes, manifest: false, seed });
  const siblings = Object.entries(made).map(([rfilename, bytes]) => ({
    rfilename,
    size: bytes.length,
    blobId: 'x',
    ...(rfilename.endsWith('.safetensors') && { lfs: { sha256: sha256(bytes), size: bytes.length, pointerSize: 134 } }),
  }));
  siblings.push({ rfilename: '.gitattributes', size: 1 }, { rfilename: 'onnx/model.onnx', size: -1 }, null);
  server.files.set(`/api/models/org/name/revision/${revision}`, json({ sha: commit, siblings }));
  return made;
}

const openHub = (options = {}) => {
  const { baseUrl: _, ...rest } = { endpoint: server.url, store, newHasher, partSize: PART, retryMs: 1, onDownload: (event) => events.push(event), ...options };
  return openFolder('org/name', rest);
};

test('the hub: pinned to the commit, with the token, and only the files needed', async () => {
  const made = serveHub({ revision: 'refs/pr/5' });
  const folder = await openHub({ revision: 'refs/pr/5', token: 'hf_secret' });
  assert.equal(folder.id, 'org/name@refs/pr/5');
  await assertWhole(folder, made);
  assert.equal(server.log[0].url, '/api/models/org/name/revision/refs%2Fpr%2F5?blobs=true');
  assert.equal(server.log.length, 4);
  for (const { authorization } of server.log) assert.equal(authorization, 'Bearer hf_secret');
  for (const value of store.values.values()) assert.ok(!Buffer.from(value).includes('hf_secret'));
});

test('the token is for the hub only', async () => {
  serve();
  await failing({ token: 'hf_secret' });
  for (const { authorization } of server.log) assert.equal(authorization, undefined);
});

test('the hub moved to another commit: equal files stay, others are loaded', async () => {
  const old = serveHub();
  server.rules.set(`/org/name/resolve/${COMMIT}/model.safetensors`, { until: 5500 });
  server.rules.set(`/org/name/resolve/${COMMIT}/tokenizer.json`, { until: 1500 });
  await fails(openHub().then((folder) => folder.finished()), 'NETWORK');
  const commit = 'd'.repeat(40);
  const made = serveHub({ commit, seed: 50 });
  const same = `/org/name/resolve/${commit}/model.safetensors`;
  server.files.set(same, old['model.safetensors']);
  const answer = JSON.parse(Buffer.from(server.files.get('/api/models/org/name/revision/main')));
  answer.siblings.find(({ rfilename }) => rfilename === 'model.safetensors').lfs.sha256 = sha256(old['model.safetensors']);
  server.files.set('/api/models/org/name/revision/main', json(answer));
  server.log.length = 0;
  await assertWhole(await openHub(), { ...made, 'model.safetensors': old['model.safetensors'] });
  assert.notEqual(server.of('model.safetensors')[0].range, 'bytes=0-');
  assert.equal(server.of('tokenizer.json')[0].range, 'bytes=0-');
});

test('a model with torch weights only is downloaded and cached like any other', async () => {
  for (const sizes of [
    { 'config.json': 10, 'tokenizer.json': 20, 'pytorch_model.bin': 5000 },
    { 'config.json': 10, 'tokenizer.json': 20, 'pytorch_model-1.bin': 5000 },
  ]) {
    server.files.clear();
    store.values.clear();
    server.log.length = 0;
    const made = serve({ manifest: false, sizes });
    if (!('pytorch_model.bin' in sizes)) server.files.set('/m/pytorch_model.bin.index.json', json({ weight_map: { a: 'pytorch_model-1.bin' } }));
    const folder = await open();
    const name = Object.keys(sizes)[2];
    assert.deepEqual(await readAll(folder, name), made[name]);
    await folder.finished();
    server.log.length = 0;
    assert.deepEqual(await readAll(await open(), name), made[name]);
    assert.equal(server.of(name).length, 0);
  }
});

// Reads

test('reads wait until the download has passed their end', async () => {
  const made = serve();
  const held = gate();
  server.rules.set('/m/model.safetensors', { hold: [4500, held.opened] });
  const folder = await open();
  const file = await folder.open('model.safetensors');
  assert.deepEqual(await file.read(2500, 1500), made['model.safetensors'].slice(2500, 4000));
  let early = true;
  const late = file.read(3990, 20).finally(() => assert.equal(early, false));
  const end = file.read(10_390, 10);
  await new Promise((resolve) => setTimeout(resolve, 30));
  early = false;
  held.open();
  assert.deepEqual(await late, made['model.safetensors'].slice(3990, 4010));
  assert.deepEqual(await end, made['model.safetensors'].slice(10_390));
  await folder.finished();
});

test('the end of a file is not read before the file was checked', async () => {
  const made = serve();
  server.files.set('/m/config.json', bytesOf(9, 300));
  const folder = await open();
  await fails(readAll(folder, 'config.json'), 'INTEGRITY', { expected: sha256(made['config.json']) });
  await fails(folder.finished(), 'INTEGRITY');
});

test('random reads are the true bytes: cached, while it loads, by ranges and from disk', async () => {
  const made = serve();
  const disk = Object.entries(made).map(([name, bytes]) => new File([bytes], name));
  const kinds = [
    [await open(), 300],
    [await open(), 300],
    [await open({ cache: false }), 60],
    [await openFolder('disk', { files: disk, newHasher }), 300],
  ];
  const next = random(7);
  for (const [folder, times] of kinds) {
    for (let i = 0; i < times; i += 1) {
      const [name, bytes] = Object.entries(made)[next(3)];
      const offset = next(bytes.length + 1);
      const length = next(bytes.length - offset + 1);
      const file = await folder.open(name);
      assert.deepEqual(await file.read(offset, length), bytes.slice(offset, offset + length), `${name} ${offset} ${length}`);
    }
    await folder.finished();
    const file = await folder.open('config.json');
    for (const [offset, length] of [[0, 301], [-1, 1], [301, 0], [0.5, 1], [0, NaN]]) await fails(file.read(offset, length), 'INVALID_ARGUMENT', { size: 300 });
  }
});

// Interruptions

test('a cut connection goes on from where it was', async () => {
  const made = serve();
  server.rules.set('/m/model.safetensors', { cut: 4321, times: 2 });
  await assertWhole(await open(), made);
  assert.deepEqual(server.of('model.safetensors').map(({ range }) => range), ['bytes=0-', 'bytes=4321-', 'bytes=8642-']);
  assert.equal(server.of('model.safetensors').reduce((sum, { sent }) => sum + sent, 0), 10_400);
});

test('a body that ends early without an error is cut too', async () => {
  const made = serve();
  server.rules.set('/m/model.safetensors', { end: 1234, times: 1 });
  await assertWhole(await open(), made);
  assert.deepEqual(server.of('model.safetensors').map(({ range }) => range), ['bytes=0-', 'bytes=1234-']);
});

test('cut again and again: NETWORK with the numbers, and the next load asks for the rest only', async () => {
  const made = serve();
  server.rules.set('/m/model.safetensors', { until: 5500 });
  const folder = await open();
  await (await folder.open('model.safetensors')).read(0, 5000);
  await fails(folder.finished(), 'NETWORK', { file: 'model.safetensors', done: 5500, total: 10_400 });
  await fails(readAll(folder, 'model.safetensors'), 'NETWORK');
  assert.equal(server.of('model.safetensors').length, 4);
  const [partial] = await listModels([store]);
  assert.equal(partial.complete, false);
  assert.deepEqual(partial.files.map(({ done }) => done), [300, 2500, 5000]);
  server.rules.clear();
  server.log.length = 0;
  events.length = 0;
  await assertWhole(await open(), made);
  assert.deepEqual(server.log.map(({ path, range }) => [path, range]), [['/m/manifest.json', null], ['/m/model.safetensors', 'bytes=5000-']]);
  assert.deepEqual([events.at(-1).resumed, events.at(-1).cached], [true, false]);
});

test('an abort ends reads and downloads with its reason at once, and the next load goes on', async () => {
  const made = serve();
  server.rules.set('/m/model.safetensors', { hold: [6500, gate().opened] });
  const abort = new AbortController();
  const folder = await open({ signal: abort.signal });
  const file = await folder.open('model.safetensors');
  await file.read(5000, 1000);
  const reason = { why: 'enough' };
  const pending = file.read(9000, 10);
  abort.abort(reason);
  await failsWith(pending, reason);
  await failsWith(folder.finished(), reason);
  await failsWith(file.read(0, 1), reason);
  await failsWith(open({ signal: abort.signal }), reason);
  server.rules.clear();
  server.log.length = 0;
  await assertWhole(await open(), made);
  assert.deepEqual(server.of('model.safetensors').map(({ range }) => range), ['bytes=6000-']);
});

test('an abort while the files are listed, and between two tries', async () => {
  serve();
  for (const [path, rule] of [['/m/manifest.json', { hold: [1, gate().opened] }], ['/m/manifest.json', { status: 500 }]]) {
    server.rules.set(path, rule);
    const reason = new Error('stop');
    const abort = new AbortController();
    setTimeout(() => abort.abort(reason), 20);
    await failsWith(open({ signal: abort.signal, retryMs: 60_000 }), reason);
  }
});

test('cancel ends everything with an AbortError', async () => {
  serve();
  server.rules.set('/m/model.safetensors', { hold: [1, gate().opened] });
  const folder = await open();
  const pending = (await folder.open('model.safetensors')).read(0, 10);
  folder.cancel();
  await assert.rejects(pending, { name: 'AbortError' });
  await assert.rejects(folder.finished(), { name: 'AbortError' });
});

test('nobody has to listen to a failure', async () => {
  serve();
  server.rules.set('/m/model.safetensors', { status: 404 });
  await open();
  await new Promise((resolve) => setTimeout(resolve, 50));
});

test('a server without ranges: the file begins anew', async () => {
  const made = serve();
  server.rules.set('/m/model.safetensors', { noRange: true });
  const held = gate();
  Object.assign(server.rules.get('/m/model.safetensors'), { hold: [6500, held.opened] });
  const abort = new AbortController();
  const folder = await open({ signal: abort.signal });
  await (await folder.open('model.safetensors')).read(0, 6000);
  abort.abort();
  await assert.rejects(folder.finished());
  server.rules.set('/m/model.safetensors', { noRange: true, etag: null });
  server.log.length = 0;
  const again = await open();
  const file = await again.open('model.safetensors');
  const reads = await Promise.all([file.read(0, 10_400), file.read(100, 200), file.read(5990, 20)]);
  assert.deepEqual(reads, [made['model.safetensors'], made['model.safetensors'].slice(100, 300), made['model.safetensors'].slice(5990, 6010)]);
  await assertWhole(again, made);
  assert.deepEqual(server.of('model.safetensors').map(({ range, sent }) => [range, sent]), [['bytes=6000-', 10_400]]);
});

test('a half-written part is written again', async () => {
  const made = serve();
  server.rules.set('/m/model.safetensors', { until: 5500 });
  await fails(failing(), 'NETWORK');
  const last = store.parts('model.safetensors').at(-1);
  store.values.set(last, store.values.get(last).slice(0, 0));
  server.rules.clear();
  server.log.length = 0;
  await assertWhole(await open(), made);
  const [request] = server.of('model.safetensors');
  assert.equal(request.range, `bytes=${Number(last.split('/').at(-1)) * PART}-`);
});

// Everything cached

test('a cached model is loaded without any request, online or not', async () => {
  const made = serve();
  const hub = serveHub();
  await (await open()).finished();
  await (await openHub()).finished();
  server.log.length = 0;
  events.length = 0;
  const url = server.url;
  await assertWhole(await open(), made);
  assert.deepEqual(events.map(({ cached, done, total }) => [cached, done, total]), [[true, 13_200, 13_200]]);
  await server.stop();
  navigate({ onLine: false });
  await assertWhole(await open({ baseUrl: `${url}/m/` }), made);
  await assertWhole(await openHub({ endpoint: url }), hub);
  assert.equal(server.log.length, 0);
});

test('evicted parts are loaded again', async () => {
  const made = serve();
  await (await open()).finished();
  store.values.delete(store.parts('model.safetensors')[7]);
  server.log.length = 0;
  await assertWhole(await open(), made);
  assert.deepEqual(server.log.map(({ path, range }) => [path, range]), [['/m/manifest.json', null], ['/m/model.safetensors', 'bytes=7000-']]);
});

test('a part that vanishes behind the record: INTEGRITY, and the next load repairs it', async () => {
  const made = serve();
  await (await open()).finished();
  const folder = await open();
  store.values.delete(store.parts('model.safetensors')[3]);
  await fails(readAll(folder, 'model.safetensors'), 'INTEGRITY', { file: 'model.safetensors' });
  await assertWhole(await open(), made);
});

test('a damaged record is no record', async () => {
  const made = serve();
  await (await open()).finished();
  const key = [...store.values.keys()].find((each) => each.endsWith('.json') && !each.includes('config'));
  for (const value of [new TextEncoder().encode('{"ver'), json(null), json({ version: 1, id: 5 }), json({ version: 1, id: 'x', partSize: 0, files: [] })]) {
    store.values.set(key, value);
    assert.deepEqual(await listModels([store]), []);
    await assertWhole(await open(), made);
  }
});

test('another size of parts begins anew and leaves nothing behind', async () => {
  const made = serve();
  server.rules.set('/m/model.safetensors', { until: 5500 });
  await fails(failing(), 'NETWORK');
  server.rules.clear();
  await assertWhole(await open({ partSize: 700 }), made);
  assert.equal(store.parts('model.safetensors').length, Math.ceil(10_400 / 700));
});

// Errors

test('offline: OFFLINE_MISS where the browser says so or the model is known in part, otherwise NETWORK', async () => {
  serveHub();
  server.rules.set(`/org/name/resolve/${COMMIT}/model.safetensors`, { until: 2500 });
  await fails(openHub().then((folder) => folder.finished()), 'NETWORK');
  await server.stop();
  await fails(openHub().then((folder) => folder.finished()), 'OFFLINE_MISS', { file: 'model.safetensors', total: 10_400 });
  await fails(failing(), 'NETWORK');
  navigate({ onLine: false });
  await fails(failing(), 'OFFLINE_MISS');
  const before = performance.now();
  await fails(failing({ retryMs: 60_000 }), 'OFFLINE_MISS');
  assert.ok(performance.now() - before < 1000);
});

test('401 and 403 say that a token is needed', async () => {
  serveHub();
  server.rules.set('/api/models/org/name/revision/main', { status: 401 });
  await fails(openHub(), 'NETWORK', { status: 401 });
  server.rules.set('/api/models/org/name/revision/main', {});
  server.rules.set(`/org/name/resolve/${COMMIT}/config.json`, { status: 403 });
  await assert.rejects(openHub().then((folder) => folder.finished()), /config\.json.*403.*token/);
  serve({ manifest: false });
  server.rules.set('/m/config.json', { status: 401 });
  await fails(open(), 'NETWORK', { status: 401, file: 'config.json' });
});

test('404 is NOT_FOUND with the name', async () => {
  await fails(open(), 'NOT_FOUND', { file: 'config.json' });
  await fails(openHub(), 'NOT_FOUND', { file: 'org/name@main' });
  serve({ manifest: false, sizes: { 'config.json': 1, 'tokenizer.json': 1 } });
  await fails(open(), 'NOT_FOUND', { file: 'model.safetensors' });
  serve();
  server.files.delete('/m/tokenizer.json');
  await fails(failing(), 'NOT_FOUND', { file: 'tokenizer.json', status: 404 });
  server.files.set('/m/model.safetensors.index.json', json({ weight_map: { a: 'gone.safetensors' } }));
  server.files.set('/m/manifest.json', json({ files: [{ name: 'config.json', size: 1 }, { name: 'tokenizer.json', size: 1 }, { name: 'model.safetensors.index.json', size: 39 }] }));
  await fails(open(), 'NOT_FOUND', { file: 'gone.safetensors' });
});

test('500 is tried again, and then NETWORK', async () => {
  const made = serve();
  server.rules.set('/m/manifest.json', { status: 500, times: 3 });
  server.rules.set('/m/config.json', { status: 429, times: 2 });
  await assertWhole(await open(), made);
  assert.equal(server.of('manifest.json').length, 4);
  assert.equal(server.of('config.json').length, 3);
  server.rules.set('/m/manifest.json', { status: 500 });
  await fails(open({ store: new MemoryStore() }), 'NETWORK', { status: 500 });
  server.rules.set('/m/manifest.json', {});
  server.rules.set('/m/config.json', { status: 418 });
  await fails(failing({ store: new MemoryStore() }), 'NETWORK', { status: 418 });
});

test('a wrong hash: INTEGRITY with both, and the file is deleted', async () => {
  const made = serve();
  const wrong = bytesOf(99, 10_400);
  server.files.set('/m/model.safetensors', wrong);
  await fails(failing(), 'INTEGRITY', { file: 'model.safetensors', expected: sha256(made['model.safetensors']), actual: sha256(wrong) });
  assert.deepEqual(store.parts('model.safetensors'), []);
  const [model] = await listModels([store]);
  assert.deepEqual([model.complete, model.files[2].done], [false, 0]);
  server.files.set('/m/model.safetensors', made['model.safetensors']);
  await assertWhole(await open(), made);
});

test('a damaged part is found when the download goes on', async () => {
  serve();
  server.rules.set('/m/model.safetensors', { until: 5500 });
  await fails(failing(), 'NETWORK');
  const [first] = store.parts('model.safetensors');
  store.values.get(first)[5] ^= 1;
  server.rules.clear();
  await fails(failing(), 'INTEGRITY', { file: 'model.safetensors' });
  assert.deepEqual(store.parts('model.safetensors'), []);
});

test('another length: INTEGRITY with both', async () => {
  for (const [length, rule] of [[9000, {}], [11_000, {}], [11_000, { noRange: true }], [11_000, { hide: true }]]) {
    store = new MemoryStore();
    serve();
    server.files.set('/m/model.safetensors', bytesOf(3, length));
    server.rules.set('/m/model.safetensors', rule);
    const actualSize = rule.noRange || rule.hide ? null : length;
    await fails(failing(), 'INTEGRITY', { file: 'model.safetensors', expectedSize: 10_400, actualSize });
    assert.deepEqual(store.parts('model.safetensors'), []);
  }
  // Shorter, and nothing says so: the rest is asked for, and is not there.
  serve();
  server.files.set('/m/model.safetensors', bytesOf(3, 9000));
  server.rules.set('/m/model.safetensors', { hide: true });
  await fails(failing(), 'INTEGRITY', { expectedSize: 10_400, actualSize: 9000 });
  server.rules.set('/m/model.safetensors', { noRange: true });
  await fails(failing(), 'NETWORK', { done: 9000, total: 10_400 });
});

test('an answer to another range is refused', async () => {
  serve();
  server.rules.set('/m/model.safetensors', { contentRange: 'bytes 7-99/10400' });
  await fails(failing(), 'NETWORK', { from: 0, start: 7 });
  await fails(open({ cache: false }).then((folder) => readAll(folder, 'model.safetensors')), 'NETWORK', { start: 7 });
});

test('a file that changed between two loads begins anew', async () => {
  for (const manifest of [true, false]) {
    store = new MemoryStore();
    server.files.clear();
    serve({ manifest, hashes: false });
    server.rules.set('/m/model.safetensors', { until: 5500 });
    await fails(failing(), 'NETWORK');
    assert.ok(store.parts('model.safetensors').length >= 5);
    server.rules.clear();
    const made = serve({ manifest, hashes: false, seed: 30 });
    server.log.length = 0;
    const folder = await open();
    await folder.finished();
    assert.deepEqual(await readAll(folder, 'model.safetensors'), made['model.safetensors']);
    // Without a manifest the listing shows the new ETag already.
    const ranges = server.of('model.safetensors').map(({ range }) => range);
    assert.deepEqual(ranges, manifest ? ['bytes=5000-', 'bytes=0-'] : ['bytes=0-']);
  }
});

test('old parts never pass for those of a changed file, wherever the load ends', async () => {
  serve({ hashes: false });
  server.rules.set('/m/model.safetensors', { until: 5500 });
  await fails(failing(), 'NETWORK');
  server.rules.clear();
  const made = serve({ hashes: false, seed: 30 });
  const { delete: remove } = store;
  store.delete = async () => {
    throw new DOMException('locked', 'NoModificationAllowedError');
  };
  await fails(failing(), 'QUOTA_EXCEEDED', { cause: 'NoModificationAllowedError' });
  store.delete = remove;
  const folder = await open();
  await folder.finished();
  assert.deepEqual(await readAll(folder, 'model.safetensors'), made['model.safetensors']);
});

test('a file that changed while it was being read: INTEGRITY', async () => {
  serve({ hashes: false });
  server.rules.set('/m/model.safetensors', { cut: 5500, times: 1 });
  const folder = await open({ retryMs: 30 });
  await (await folder.open('model.safetensors')).read(0, 5000);
  server.files.set('/m/model.safetensors', bytesOf(77, 10_400));
  await fails(folder.finished(), 'INTEGRITY', { file: 'model.safetensors' });
  assert.deepEqual(store.parts('model.safetensors'), []);
});

test('the ETag does not matter where the hash is known', async () => {
  const made = serve();
  server.rules.set('/m/model.safetensors', { cut: 5500, times: 1, etag: '"mirror"' });
  await assertWhole(await open(), made);
  assert.deepEqual(server.of('model.safetensors').map(({ range }) => range), ['bytes=0-', 'bytes=5500-']);
});

test('what a stranger lists is checked', async () => {
  const bad = [
    'not json',
    [],
    { files: 5 },
    { files: [null] },
    { files: [{ name: '../config.json', size: 1 }] },
    { files: [{ name: 'a\\b', size: 1 }] },
    { files: [{ name: '..', size: 1 }] },
    { files: [{ name: '', size: 1 }] },
    { files: [{ name: '\ud800', size: 1 }] },
    { files: [{ name: 'config.json', size: -1 }] },
    { files: [{ name: 'config.json', size: 1.5 }] },
    { files: [{ name: 'config.json', size: '1' }] },
    { files: [{ name: 'config.json', size: 2 ** 53 }] },
    { files: [{ name: 'config.json', size: 1, sha256: 'xyz' }] },
    { files: [{ name: 'config.json', size: 1, sha256: 7 }] },
  ];
  for (const manifest of bad) {
    server.files.set('/m/manifest.json', manifest === 'not json' ? new TextEncoder().encode(manifest) : json(manifest));
    await fails(open(), 'BAD_CHECKPOINT');
  }
  serve({ manifest: false, sizes: { 'config.json': 1, 'tokenizer.json': 1 } });
  server.files.delete('/m/manifest.json');
  for (const index of [[], {}, { weight_map: {} }, { weight_map: 'x' }, { weight_map: { a: '../x' } }, { weight_map: { a: 5 } }]) {
    server.files.set('/m/model.safetensors.index.json', json(index));
    await fails(open(), 'BAD_CHECKPOINT');
  }
  for (const answer of [5, null, {}, { sha: COMMIT }, { sha: '../..', siblings: [] }, { sha: COMMIT, siblings: {} }]) {
    server.files.set('/api/models/org/name/revision/main', json(answer));
    await fails(openHub(), 'NETWORK');
  }
  server.files.set('/api/models/org/name/revision/main', json({ sha: COMMIT, siblings: [{ rfilename: 'config.json' }] }));
  await fails(openHub(), 'BAD_CHECKPOINT', { file: 'config.json' });
  server.files.set('/api/models/org/name/revision/main', new TextEncoder().encode('{{'));
  await fails(openHub(), 'BAD_CHECKPOINT');
  for (const name of ['', 'a/b/c', '../b', 'a/..', 'a b/c', 'a/b?x']) await fails(openFolder(name, { endpoint: server.url, store, newHasher }), 'INVALID_ARGUMENT');
  await fails(open({ baseUrl: 'not a url' }), 'INVALID_ARGUMENT');
});

test('no room: QUOTA_EXCEEDED before the download, or when the store is full', async () => {
  const made = serve();
  const estimate = async () => ({ quota: 10_000, usage: 1000 });
  let persisted = 0;
  navigate({ storage: { estimate, persist: async () => (persisted += 1) } });
  await fails(failing(), 'QUOTA_EXCEEDED', { need: 13_200, quota: 10_000, usage: 1000 });
  assert.equal(server.of('model.safetensors').length, 0);
  navigate({ storage: { estimate: async () => ({ quota: 1e6, usage: 0 }), persist: async () => (persisted += 1) } });
  store.room = 7000;
  await fails(failing(), 'QUOTA_EXCEEDED', { quota: 1e6, usage: 0 });
  store.room = 100;
  await fails(failing({ baseUrl: `${server.url}/m?other` }), 'QUOTA_EXCEEDED');
  assert.equal(persisted, 1);
  store.room = Infinity;
  await assertWhole(await open(), made);
  store = new MemoryStore();
  store.before = async (key) => {
    if (key.endsWith('/3')) throw new DOMException('the disk is gone', 'UnknownError');
  };
  await fails(failing(), 'QUOTA_EXCEEDED', { cause: 'UnknownError' });
});

test('the stream waits for the store: no more than a part is ahead of it', async () => {
  const size = 8 << 20;
  const made = serve({ sizes: { ...SIZES, 'model.safetensors': size } });
  const held = gate();
  store.before = (key) => (key.endsWith('model.safetensors/2') ? held.opened : Promise.resolve());
  let hashed = 0;
  const counting = () => {
    const { update, digest } = newHasher();
    return { digest, update: (bytes) => void (update(bytes), (hashed += bytes.length)) };
  };
  const folder = await open({ partSize: 1 << 18, newHasher: counting });
  await (await folder.open('model.safetensors')).read(0, 2 << 18);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok(hashed < (3 << 18) + (1 << 17) + 3000, `${hashed}`);
  held.open();
  await assertWhole(folder, made);
  for (let i = 1; i < events.length - 1; i += 1) assert.ok(events[i].done >= events[i - 1].done);
  assert.ok(events.length < 60, `${events.length} events`);
  assert.ok(events.at(-1).rate > 0 && events.at(-1).etaMs === 0);
});

// The cache

test('verify finds a flipped byte and deletes the file; the next load brings that file only', async () => {
  const made = serve({ hashes: false });
  const { id, finished } = await open();
  await finished();
  assert.deepEqual(await verifyModel(id, newHasher, [store]), { id, ok: true, problems: [] });
  store.values.get(store.parts('model.safetensors')[4])[17] ^= 64;
  const found = await verifyModel(id, newHasher, [store]);
  assert.deepEqual([found.id, found.ok, found.problems.length], [id, false, 1]);
  assert.match(found.problems[0], /^model\.safetensors: SHA-256 .*deleted$/);
  assert.deepEqual(store.parts('model.safetensors'), []);
  const again = await verifyModel(id, newHasher, [store]);
  assert.match(again.problems[0], /^model\.safetensors: 0 of 10400 bytes/);
  server.log.length = 0;
  await assertWhole(await open(), made);
  assert.deepEqual(server.log.map(({ path }) => path), ['/m/manifest.json', '/m/model.safetensors']);
  store.values.delete(store.parts('tokenizer.json')[1]);
  assert.match((await verifyModel(id, newHasher, [store])).problems[0], /^tokenizer\.json: unreadable after 1000 of 2500 bytes/);
  await fails(verifyModel('nothing', newHasher, [store]), 'NOT_FOUND');
});

test('delete takes one model and all of it', async () => {
  serve();
  serveHub();
  const { id, finished } = await open();
  await finished();
  await (await openHub()).finished();
  assert.deepEqual((await listModels([store])).map((model) => model.id).sort(), [id, 'org/name@main'].sort());
  assert.equal(await deleteModel('org/name@main', [store]), true);
  assert.equal(await deleteModel('org/name@main', [store]), false);
  assert.deepEqual((await listModels([store])).map((model) => model.id), [id]);
  assert.equal(await deleteModel(id, [store]), true);
  assert.equal(store.values.size, 0);
  assert.equal(await deleteModel(id), false);
});

// Without a cache

test('without a cache: exactly the bytes that are read', async () => {
  const made = serve();
  const folder = await open({ cache: false });
  const file = await folder.open('model.safetensors');
  server.rules.set('/m/model.safetensors', { cut: 400, times: 1 });
  assert.deepEqual(await file.read(5000, 700), made['model.safetensors'].slice(5000, 5700));
  assert.deepEqual(server.of('model.safetensors').map(({ range }) => range), ['bytes=5000-5699', 'bytes=5400-5699']);
  assert.equal(store.values.size, 0);
  await folder.finished();
  assert.equal(events.at(-1).done, events.at(-1).total);
  server.rules.set('/m/model.safetensors', { cut: 10 });
  await fails(file.read(0, 500), 'NETWORK', { done: 40, total: 500 });
  const reason = new Error('stop');
  const abort = new AbortController();
  server.rules.set('/m/model.safetensors', { hold: [1, gate().opened] });
  const other = await open({ cache: false, signal: abort.signal });
  const pending = (await other.open('model.safetensors')).read(0, 50);
  setTimeout(() => abort.abort(reason), 20);
  await failsWith(pending, reason);
});

test('without a cache and without ranges: small files once, large ones not at all', async () => {
  const made = serve();
  for (const name of Object.keys(made)) server.rules.set(`/m/${name}`, { noRange: true });
  const folder = await open({ cache: false });
  const file = await folder.open('model.safetensors');
  const reads = await Promise.all([file.read(1, 5), file.read(10_000, 400)]);
  assert.deepEqual(reads, [made['model.safetensors'].slice(1, 6), made['model.safetensors'].slice(10_000)]);
  const before = server.of('model.safetensors').length;
  assert.deepEqual(await file.read(7, 70), made['model.safetensors'].slice(7, 77));
  assert.equal(server.of('model.safetensors').length, before);
  const { files } = JSON.parse(Buffer.from(server.files.get('/m/manifest.json')));
  files[1].sha256 = '0'.repeat(64);
  files[2].size = 64 << 20;
  server.files.set('/m/manifest.json', json({ files }));
  const large = await open({ cache: false });
  await fails((await large.open('model.safetensors')).read(0, 10), 'NETWORK', { size: 64 << 20 });
  await fails((await large.open('tokenizer.json')).read(0, 10), 'INTEGRITY', { expected: '0'.repeat(64) });
});

test('without a cache: another version or length is noticed', async () => {
  serve({ hashes: false });
  const folder = await open({ cache: false });
  const file = await folder.open('model.safetensors');
  await file.read(0, 10);
  server.files.set('/m/model.safetensors', bytesOf(5, 10_400));
  await fails(file.read(0, 10), 'INTEGRITY');
  server.files.set('/m/tokenizer.json', bytesOf(5, 100));
  await fails((await folder.open('tokenizer.json')).read(2000, 10), 'INTEGRITY', { expectedSize: 2500, actualSize: 100 });
});

// From disk

const picked = (path, bytes) => {
  const file = new File([bytes], path.split('/').at(-1));
  Object.defineProperty(file, 'webkitRelativePath', { value: path });
  return file;
};

test('files from disk: by base name, the nearest first, nothing cached, no request', async () => {
  const index = json({ weight_map: { a: 'x.safetensors' } });
  const weights = bytesOf(1, 5000);
  const files = [
    picked('m/onnx/config.json', bytesOf(2, 9)),
    picked('m/config.json', bytesOf(3, 9)),
    picked('m/tokenizer.json', bytesOf(4, 9)),
    picked('m/model.safetensors.index.json', index),
    picked('m/x.safetensors', weights),
    picked('m/README.md', bytesOf(5, 9)),
  ];
  const folder = await openFolder('mine', { files, store, newHasher });
  assert.equal(folder.id, 'mine');
  assert.deepEqual(folder.files.map(({ name }) => name), ['config.json', 'tokenizer.json', 'model.safetensors.index.json', 'x.safetensors']);
  await assertWhole(folder, { 'config.json': bytesOf(3, 9), 'x.safetensors': weights });
  assert.equal(await folder.open('README.md'), null);
  assert.equal(server.log.length + store.values.size, 0);
  folder.cancel();
  await assert.rejects((await folder.open('config.json')).read(0, 1), { name: 'AbortError' });
  await fails(openFolder('mine', { files: files.slice(0, 3), newHasher }), 'NOT_FOUND', { file: 'model.safetensors' });
  await fails(openFolder('mine', { files: [], newHasher }), 'NOT_FOUND', { file: 'config.json' });
  const random = await openFolder('mine', { files, randomWeights: true, newHasher });
  assert.deepEqual(random.files.map(({ name }) => name), ['config.json', 'tokenizer.json']);
  await fails(openFolder('mine', { files: files.slice(0, 2), randomWeights: true, newHasher }), 'NOT_FOUND', { file: 'tokenizer.json' });
  const broken = [...files.slice(0, 3), picked('m/model.safetensors.index.json', bytesOf(1, 5))];
  await fails(openFolder('mine', { files: broken, newHasher }), 'BAD_CHECKPOINT');
});
