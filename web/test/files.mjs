/** What the tests of web/package/src/files share: a real server that misbehaves on demand, and a store in memory. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { afterEach, beforeEach } from 'node:test';
import { deleteModel, verifyModel } from '../package/dist/files/cache.js';
import { openFolder } from '../package/dist/files/folder.js';
import { OwnLocks } from '../package/dist/files/locks.js';

export const PART = 1000;
export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** Seeded bytes and numbers (xorshift): the tests are the same every time. */
export function random(seed) {
  let state = seed >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

export function bytesOf(seed, length) {
  const next = random(seed);
  return Uint8Array.from({ length }, () => next(256));
}

/** A promise that is settled from outside. */
export function gate() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { open, opened };
}

/** Serves `files` (path to bytes) and does to each what `rules` says. */
class Server {
  files = new Map();
  /**
   * By path: {status, times, noRange, noHead, cut (bytes of the answer after which the socket breaks), until (the same in
   * bytes of the file), end (bytes after which the body ends as if it were whole), hold: [bytes, promise], etag, type,
   * contentRange, hide, resume}; `times` is how often it applies. `resume(from, bytes)` is the whole answer to a request that goes
   * on: [status, headers, body].
   */
  rules = new Map();
  log = [];
  active = 0;
  most = 0;
  /** Milliseconds until an answer begins. */
  latency = 0;

  clear() {
    this.latency = 0;
    this.files.clear();
    this.rules.clear();
    this.log.length = 0;
    this.most = 0;
  }

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
    if (this.latency > 0) await new Promise((resolve) => setTimeout(resolve, this.latency));
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
    if (rule.resume && from > 0) {
      const [status, headers, body] = rule.resume(from, bytes);
      return void response.writeHead(status, headers).end(body);
    }
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
export class MemoryStore {
  values = new Map();
  room = Infinity;
  before = async () => {};
  /** Locks that are held now. */
  held = 0;
  locks = {
    hold: async (...request) => {
      const release = await this.#own.hold(...request);
      this.held += 1;
      let letGo = () => (this.held -= 1, release());
      return () => (letGo(), (letGo = () => {}));
    },
  };
  #own = new OwnLocks();

  clear() {
    this.values.clear();
    this.room = Infinity;
    this.before = async () => {};
  }

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

/** The server, the store, and what a load told, all of them empty at the beginning of a test. */
export const server = new Server();
export const store = new MemoryStore();
export const events = [];
let hashers = 0;
/** Folders that were opened and not closed yet. */
const opened = new Set();

export const newHasher = () => {
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
  server.clear();
  store.clear();
  events.length = 0;
  navigate({});
  await server.start();
});

afterEach(async () => {
  await closeAll();
  await server.stop();
  assert.equal(hashers, 0, 'every hasher is freed');
  assert.equal(store.held, 0, 'every lock is let go');
});

/** Ends the loads so far, as the engine does when it has read what it needs. */
export async function closeAll() {
  for (const folder of opened) {
    folder.cancel();
    await folder.close();
  }
  opened.clear();
}

/** Opens a model's folder, which the end of the test closes. */
export async function openModel(model, options) {
  const folder = await openFolder(model, { newHasher, ...options });
  opened.add(folder);
  return folder;
}

/** What this browser would say of itself. */
export function navigate(value) {
  Object.defineProperty(globalThis, 'navigator', { value, configurable: true, writable: true });
}

export const SIZES = { 'config.json': 300, 'tokenizer.json': 2500, 'model.safetensors': 10_400 };

/** Puts a model under /m/; with a manifest unless `manifest` is false. */
export function serve({ folder = '/m', sizes = SIZES, manifest = true, hashes = true, seed = 1 } = {}) {
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

export const json = (value) => new TextEncoder().encode(JSON.stringify(value));

const TRIED = { store, partSize: PART, retryMs: 1, onDownload: (event) => events.push(event) };

/** Loads the model under /m/, when the earlier loads are closed; `beside` leaves them open. */
export async function open({ beside = false, ...options } = {}) {
  if (!beside) await closeAll();
  return openModel('demo', { baseUrl: `${server.url}/m`, ...TRIED, ...options });
}

export async function readAll(folder, name) {
  const file = await folder.open(name);
  return file.read(0, file.size);
}

export async function assertWhole(folder, made) {
  await folder.finished();
  for (const [name, bytes] of Object.entries(made)) assert.deepEqual(await readAll(folder, name), bytes, name);
}

/** An InCoderError of that code, with these details among its own. */
export const fails = (promise, code, details = {}) =>
  assert.rejects(promise, (error) => {
    assert.equal(error.name, 'InCoderError', String(error?.stack));
    assert.equal(error.code, code, error.message);
    for (const [key, value] of Object.entries(details)) assert.deepEqual(error.details[key], value, `${key}: ${JSON.stringify(error.details)}`);
    structuredClone(error.details);
    return true;
  });

export const failsWith = (promise, reason) => assert.rejects(promise, (error) => error === reason);

export const failing = (options) => open(options).then((folder) => folder.finished());

/** The two calls of the cache that want a model for themselves. */
export const verify = async (id) => (await closeAll(), verifyModel(id, newHasher, [store]));
export const remove = async (id) => (await closeAll(), deleteModel(id, [store]));


export const COMMIT = 'c0ffee'.repeat(6) + 'c0ff';

export function serveHub({ commit = COMMIT, sizes = SIZES, revision = 'main', seed = 1 } = {}) {
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

export async function openHub({ beside = false, ...options } = {}) {
  if (!beside) await closeAll();
  return openModel('org/name', { endpoint: server.url, ...TRIED, ...options });
}
