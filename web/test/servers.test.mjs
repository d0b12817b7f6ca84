/** Downloads from servers that break off, refuse, or send something else than they announced. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { listModels } from '../package/dist/files/cache.js';
import { openFolder } from '../package/dist/files/folder.js';
import {
  PART,
  SIZES,
  COMMIT,
  server,
  store,
  events,
  bytesOf,
  gate,
  sha256,
  json,
  navigate,
  serve,
  serveHub,
  open,
  openHub,
  readAll,
  assertWhole,
  fails,
  failsWith,
  failing,
  remove,
  newHasher,
  MemoryStore,
} from './files.mjs';

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

/** How servers answer when a download is to go on: right or wrong, it ends in the right file. */
const part = (bytes, start, more = {}) => [
  206,
  { 'Content-Range': `bytes ${start}-${bytes.length - 1}/${bytes.length}`, 'Content-Length': bytes.length - start, ...more },
  bytes.subarray(start),
];
const bare = (bytes, start) => [206, { 'Content-Length': bytes.length - start }, bytes.subarray(start)];
const RESUMED = {
  'from where it was': [(from, bytes) => part(bytes, from), [5000]],
  'from an earlier byte': [(from, bytes) => part(bytes, from - 700), [5000]],
  'from the first byte, as a part': [(_, bytes) => part(bytes, 0), [5000]],
  'without Content-Range': [(from, bytes) => bare(bytes, from), [5000]],
  'without Content-Range, from the first byte': [(_, bytes) => bare(bytes, 0), [5000]],
  'without Content-Range and another length': [(from, bytes) => bare(bytes, from - 10), [5000, 0]],
  'without Content-Range or a length': [(from, bytes) => [206, { 'Transfer-Encoding': 'chunked' }, bytes.subarray(from)], [5000]],
  'from a later byte': [(from, bytes) => part(bytes, from + 100), [5000, 0]],
  'without the file’s length': [(from, bytes) => part(bytes, from, { 'Content-Range': `bytes ${from}-${bytes.length - 1}/*` }), [5000]],
  'with all of it': [(_, bytes) => [200, { 'Content-Length': bytes.length }, bytes], [5000]],
  'with all of it, chunked': [(_, bytes) => [200, { 'Transfer-Encoding': 'chunked' }, bytes], [5000]],
  'with a circle': [(from) => [302, { Location: `/m/model.safetensors?${from}` }], null],
  'with another place': [() => [302, { Location: '/moved/model.safetensors' }], [5000]],
};

for (const hashes of [true, false]) {
  test(`a download that goes on, ${hashes ? 'its hash known' : 'its hash not known'}: whatever the server answers, the file is right`, async () => {
    for (const [what, [resume, asked]] of Object.entries(RESUMED)) {
      server.clear();
      store.clear();
      const made = serve({ hashes });
      serve({ folder: '/moved', hashes });
      server.rules.set('/m/model.safetensors', { until: 5000 });
      await fails(failing(), 'NETWORK');
      server.rules.set('/m/model.safetensors', { resume, etag: null });
      server.log.length = 0;
      await assertWhole(await open(), made);
      const requests = server.log.filter(({ path, method }) => path === '/m/model.safetensors' && method === 'GET');
      if (asked) assert.deepEqual(requests.map(({ range }) => range), asked.map((from) => `bytes=${from}-`), what);
    }
  });
}

test('a download that cannot go on: a clear refusal, and then the file begins anew', async () => {
  const cases = [
    [(_, bytes) => [416, { 'Content-Range': `bytes */${bytes.length}` }], 'INTEGRITY'],
    [(from, bytes) => part(bytes, from, { 'Content-Range': `bytes ${from}-${bytes.length}/${bytes.length + 1}` }), 'INTEGRITY'],
    [(from, bytes) => part(bytes.map((byte) => byte ^ 1), from), 'INTEGRITY'],
    [() => [403, {}], 'NETWORK'],
    [() => [200, { 'Content-Type': 'text/html' }, 'log in first'], 'NOT_FOUND'],
  ];
  for (const [resume, code] of cases) {
    server.clear();
    store.clear();
    const made = serve();
    server.rules.set('/m/model.safetensors', { until: 5000 });
    await fails(failing(), 'NETWORK');
    server.rules.set('/m/model.safetensors', { resume });
    await fails(failing(), code, { file: 'model.safetensors' });
    // An error of the server's is no reason to throw away what is here.
    if (code !== 'INTEGRITY') server.rules.clear();
    await assertWhole(await open(), made);
  }
});

test('a server that falls silent is asked again, and in the end given up', async () => {
  const made = serve();
  const never = gate().opened;
  server.rules.set('/m/model.safetensors', { hold: [4500, never], times: 2 });
  server.rules.set('/m/tokenizer.json', { hold: [0, never], times: 1 });
  await assertWhole(await open({ silentMs: 100 }), made);
  assert.deepEqual(server.of('model.safetensors').map(({ range }) => range), ['bytes=0-', 'bytes=4500-', 'bytes=9000-']);
  store.clear();
  server.rules.set('/m/model.safetensors', { hold: [0, never] });
  await assert.rejects(failing({ silentMs: 50 }), /model\.safetensors could not be downloaded after 0 of 10400 bytes: the server sent nothing for 0\.05 s/);
  // Slow is not silent.
  server.clear();
  serve();
  server.rules.set('/m/model.safetensors', { hold: [4500, new Promise((resolve) => setTimeout(resolve, 300))] });
  await assertWhole(await open({ silentMs: 1000 }), made);
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
    store.clear();
    serve();
    server.files.set('/m/model.safetensors', bytesOf(3, length));
    server.rules.set('/m/model.safetensors', rule);
    const actualSize = rule.noRange ? null : length;
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
    store.clear();
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
  await fails(failing(), 'CACHE_BUSY', { cause: 'NoModificationAllowedError' });
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
  for (const name of ['', 'a/b/c', '../b', 'a/..', 'a b/c', 'a/b?x']) await fails(openFolder(name, { endpoint: server.url, store }), 'INVALID_ARGUMENT');
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
  store.clear();
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
