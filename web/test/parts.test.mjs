/** What the cache keeps of a model, and who may write it. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deleteModel, listModels, verifyModel } from '../package/dist/files/cache.js';
import {
  server,
  store,
  events,
  gate,
  json,
  navigate,
  serve,
  serveHub,
  open,
  openHub,
  closeAll,
  newHasher,
  readAll,
  assertWhole,
  fails,
  failing,
  verify,
  remove,
} from './files.mjs';

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

// The cache

test('verify finds a flipped byte and deletes the file; the next load brings that file only', async () => {
  const made = serve({ hashes: false });
  const { id, finished } = await open();
  await finished();
  assert.deepEqual(await verify(id), { id, ok: true, problems: [] });
  store.values.get(store.parts('model.safetensors')[4])[17] ^= 64;
  const found = await verify(id);
  assert.deepEqual([found.id, found.ok, found.problems.length], [id, false, 1]);
  assert.match(found.problems[0], /^model\.safetensors: SHA-256 .*deleted$/);
  assert.deepEqual(store.parts('model.safetensors'), []);
  const again = await verify(id);
  assert.match(again.problems[0], /^model\.safetensors: 0 of 10400 bytes/);
  server.log.length = 0;
  await assertWhole(await open(), made);
  assert.deepEqual(server.log.map(({ path }) => path), ['/m/manifest.json', '/m/model.safetensors']);
  store.values.delete(store.parts('tokenizer.json')[1]);
  assert.match((await verify(id)).problems[0], /^tokenizer\.json: unreadable after 1000 of 2500 bytes/);
  await fails(verify('nothing'), 'NOT_FOUND');
});

test('delete takes one model and all of it', async () => {
  serve();
  serveHub();
  const { id, finished } = await open();
  await finished();
  await (await openHub()).finished();
  assert.deepEqual((await listModels([store])).map((model) => model.id).sort(), [id, 'org/name@main'].sort());
  assert.equal(await remove('org/name@main'), true);
  assert.equal(await remove('org/name@main'), false);
  assert.deepEqual((await listModels([store])).map((model) => model.id), [id]);
  assert.equal(await remove(id), true);
  assert.equal(store.values.size, 0);
  assert.equal(await deleteModel(id), false);
});

// Several loads of one model

const load = async () => {
  const folder = await open({ beside: true });
  await folder.finished();
  const bytes = await readAll(folder, 'model.safetensors');
  await folder.close();
  return bytes;
};

test('two loads of one model, begun at 20 offsets: one of them downloads, the other waits and shares', async () => {
  for (let offset = 0; offset < 20; offset += 1) {
    for (const manifest of [true, false]) {
      store.clear();
      server.clear();
      const made = serve({ manifest });
      server.latency = 5;
      const later = new Promise((resolve) => setTimeout(resolve, 2 * offset)).then(load);
      for (const bytes of await Promise.all([load(), later])) assert.deepEqual(bytes, made['model.safetensors']);
      for (const name of Object.keys(made)) assert.equal(server.of(name).length, 1, `${name} at offset ${offset}`);
      assert.equal((await verify(`${server.url}/m/`)).ok, true);
    }
  }
});

test('who waits is told how far the other load is, and may leave; what remains goes to the next one', async () => {
  const made = serve();
  const held = gate();
  server.rules.set('/m/model.safetensors', { hold: [6500, held.opened] });
  const first = await open();
  await (await first.open('model.safetensors')).read(0, 6000);
  const abort = new AbortController();
  const reason = new Error('enough');
  const told = gate();
  const leaving = open({ beside: true, signal: abort.signal, onDownload: (event) => told.open(event) });
  const waiting = open({ beside: true });
  const { waiting: isWaiting, file, fileDone, done, total } = await told.opened;
  assert.deepEqual([isWaiting, file, fileDone, done, total], [true, 'model.safetensors', 6000, 8800, 13_200]);
  abort.abort(reason);
  await assert.rejects(leaving, (error) => error === reason);
  // The first load ends before its time: a closed tab, say.
  first.cancel();
  await first.close();
  server.rules.clear();
  await assertWhole(await waiting, made);
  assert.deepEqual(server.of('model.safetensors').map(({ range }) => range), ['bytes=0-', 'bytes=6000-']);
});

test('a model that is being loaded is neither deleted nor verified: CACHE_BUSY', async () => {
  const made = serve();
  const held = gate();
  server.rules.set('/m/model.safetensors', { hold: [100, held.opened] });
  const { id, finished, open: file } = await open();
  const busy = async () => {
    await fails(deleteModel(id, [store], 20), 'CACHE_BUSY', { id, waitedMs: 20 });
    await fails(verifyModel(id, newHasher, [store], 20), 'CACHE_BUSY', { id });
  };
  await busy();
  held.open();
  await finished();
  // The engine has not read it yet.
  await busy();
  assert.deepEqual(await readAll({ open: file }, 'model.safetensors'), made['model.safetensors']);
  await closeAll();
  const readers = await Promise.all([open({ beside: true }), open({ beside: true })]);
  await busy();
  await readers[0].close();
  await busy();
  await readers[1].close();
  assert.equal(await deleteModel(id, [store], 20), true);
});

test('locks: readers share, a writer waits for them, and nobody overtakes', async () => {
  const { locks } = store;
  const never = new AbortController().signal;
  const order = [];
  const hold = async (name, mode, signal = never) => {
    const release = await locks.hold('m', mode, signal);
    order.push(name);
    return release;
  };
  const readers = await Promise.all([hold('a', 'shared'), hold('b', 'shared')]);
  const abort = new AbortController();
  const left = hold('left', 'exclusive', abort.signal);
  const writer = hold('writer', 'exclusive');
  const late = hold('late', 'shared');
  const other = await locks.hold('other model', 'exclusive', never);
  abort.abort();
  await assert.rejects(left, { name: 'AbortError' });
  for (const release of readers) {
    assert.deepEqual(order, ['a', 'b']);
    release();
    release();
  }
  (await writer)();
  (await late)();
  other();
  assert.deepEqual(order, ['a', 'b', 'writer', 'late']);
  await assert.rejects(hold('gone', 'shared', AbortSignal.abort()), { name: 'AbortError' });
});
