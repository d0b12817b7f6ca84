/** The layer between a model's name and the bytes of its files: loads, reads, the hub, files from disk. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { listModels } from '../package/dist/files/cache.js';
import {
  SIZES,
  COMMIT,
  server,
  store,
  events,
  random,
  bytesOf,
  gate,
  sha256,
  json,
  serve,
  serveHub,
  open,
  openHub,
  openModel,
  readAll,
  assertWhole,
  fails,
  failsWith,
  failing,
} from './files.mjs';

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
  await assertWhole(await openHub(), { ...made, 'model.safetensors': old['model.safetensors'] });
  const first = (name) => server.log.find(({ path }) => path === `/org/name/resolve/${commit}/${name}`).range;
  assert.notEqual(first('model.safetensors'), 'bytes=0-');
  assert.equal(first('tokenizer.json'), 'bytes=0-');
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
    [() => open(), 300],
    [() => open(), 300],
    [() => open({ cache: false }), 60],
    [() => openModel('disk', { files: disk }), 300],
  ];
  const next = random(7);
  for (const [opening, times] of kinds) {
    const folder = await opening();
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
  const folder = await openModel('mine', { files, store });
  assert.equal(folder.id, 'mine');
  assert.deepEqual(folder.files.map(({ name }) => name), ['config.json', 'tokenizer.json', 'model.safetensors.index.json', 'x.safetensors']);
  await assertWhole(folder, { 'config.json': bytesOf(3, 9), 'x.safetensors': weights });
  assert.equal(await folder.open('README.md'), null);
  assert.equal(server.log.length + store.values.size, 0);
  folder.cancel();
  await assert.rejects((await folder.open('config.json')).read(0, 1), { name: 'AbortError' });
  await fails(openModel('mine', { files: files.slice(0, 3) }), 'NOT_FOUND', { file: 'model.safetensors' });
  await fails(openModel('mine', { files: [] }), 'NOT_FOUND', { file: 'config.json' });
  const random = await openModel('mine', { files, randomWeights: true });
  assert.deepEqual(random.files.map(({ name }) => name), ['config.json', 'tokenizer.json']);
  await fails(openModel('mine', { files: files.slice(0, 2), randomWeights: true }), 'NOT_FOUND', { file: 'tokenizer.json' });
  const broken = [...files.slice(0, 3), picked('m/model.safetensors.index.json', bytesOf(1, 5))];
  await fails(openModel('mine', { files: broken }), 'BAD_CHECKPOINT');
});
