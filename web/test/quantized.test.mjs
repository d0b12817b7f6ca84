/** Models that the cache keeps quantized: what is asked for, what is kept, and how a load goes on. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { listModels } from '../package/dist/files/cache.js';
import { SIZES, assertWhole, events, fails, json, open, readAll, remove, serve, server, sha256, store, verify } from './files.mjs';

/** Bytes of the original that become one, and of what stands for a tensor. */
const [EACH, TENSOR] = [4, 500];

/** What stands for the engine's: every fourth byte of the weights, and of the config what it is. */
const small = (weights) => weights.filter((_, i) => i % EACH === 0);
const quantizer = (to = 'q4') => ({
  to,
  version: 1,
  async run(folder, sink) {
    const weights = await folder.open('model.safetensors');
    const size = Math.ceil(weights.size / EACH);
    const kept = await sink.begin('{"quantized": true}', size);
    for (let at = kept - (kept % TENSOR); at < size; at += TENSOR) {
      const end = Math.min(at + TENSOR, size);
      const original = await weights.read(at * EACH, Math.min(end * EACH, weights.size) - at * EACH);
      await sink.put(at, small(original));
    }
  },
});

/** A model whose config can be read, and what the cache is to make of it. */
function serveModel({ config = {}, hashes = true, ...options } = {}) {
  const made = serve({ manifest: false, ...options });
  server.files.set('/m/config.json', json(config));
  const files = ['config.json', 'tokenizer.json', 'model.safetensors'].map((name) => {
    const bytes = server.files.get(`/m/${name}`);
    return { name, size: bytes.length, ...(hashes && { sha256: sha256(bytes) }) };
  });
  server.files.set('/m/manifest.json', json({ files }));
  const text = new TextEncoder().encode('{"quantized": true}');
  return { 'config.json': text, 'tokenizer.json': made['tokenizer.json'], 'model.safetensors': small(made['model.safetensors']) };
}

const openQuantized = (options = {}) => open({ quantizer: quantizer(), ...options });
const ids = async () => (await listModels([store])).map(({ id }) => id.replace(`${server.url}/m/`, ''));
/** Bytes in the store, without the records. */
const bytes = () => [...store.values].reduce((sum, [key, { length }]) => sum + (key.includes('@') ? 0 : length), 0);
const total = (files) => Object.values(files).reduce((sum, { length }) => sum + length, 0);

test('the cache keeps what was quantized, never the original, and the next load reads that alone', async () => {
  const made = serveModel();
  let most = 0;
  store.before = async () => void (most = Math.max(most, bytes()));
  await assertWhole(await openQuantized(), made);
  const original = SIZES['tokenizer.json'] + SIZES['model.safetensors'] + 2;
  assert.deepEqual([events.at(-1).done, events.at(-1).total], [original, original]);
  assert.ok(most <= total(made), `${most} bytes were kept`);
  assert.deepEqual([await ids(), bytes()], [['#q4-v1'], total(made)]);
  // Everything is asked for once, and from its beginning.
  const asked = server.log.map(({ path, range }) => `${path} ${range}`);
  assert.deepEqual(asked.filter((each) => each.includes('weights') || each.includes('safetensors')), ['/m/model.safetensors bytes=0-']);

  server.log.length = 0;
  const again = await openQuantized();
  assert.deepEqual(again.files, Object.entries(made).map(([name, { length }]) => ({ name, size: length })));
  await assertWhole(again, made);
  assert.deepEqual(server.log, []);
  assert.equal(events.at(-1).cached, true);
  const [{ id }] = await listModels([store]);
  assert.deepEqual(await verify(id), { id, ok: true, problems: [] });

  // Another type, and another version of the format, are other models.
  await assertWhole(await openQuantized({ quantizer: quantizer('q8') }), made);
  await assertWhole(await openQuantized({ quantizer: { ...quantizer(), version: 2 } }), made);
  assert.deepEqual((await ids()).sort(), ['#q4-v1', '#q4-v2', '#q8-v1']);
  assert.equal(await remove(id), true);
  assert.deepEqual((await ids()).sort(), ['#q4-v2', '#q8-v1']);
});

test('a connection that breaks: within a load it goes on, and after one every tensor that was whole is kept', async () => {
  const made = serveModel();
  server.rules.set('/m/model.safetensors', { until: 6000, times: 2 });
  await assertWhole(await openQuantized(), made);
  assert.deepEqual(server.of('model.safetensors').map(({ range }) => range), ['bytes=0-', 'bytes=6000-', 'bytes=6000-']);
  await remove(`${server.url}/m/#q4-v1`);

  // Where a hash is known, a file of less than a megabyte is read from its beginning again.
  serveModel({ hashes: false });
  server.rules.set('/m/model.safetensors', { until: 9000 });
  const broken = await openQuantized();
  await fails(broken.finished(), 'NETWORK', { file: 'model.safetensors', total: SIZES['model.safetensors'] });
  server.rules.clear();
  server.log.length = 0;
  await assertWhole(await openQuantized(), made);
  const [{ range }] = server.of('model.safetensors');
  // Parts of 1,000 bytes are kept; the tensor in which the last one ends begins here.
  assert.equal(range, `bytes=${2000 * EACH}-`);
  assert.ok(events.at(-1).resumed);
});

test('another original, or a damaged one: nothing of it stays', async () => {
  serveModel();
  server.rules.set('/m/model.safetensors', { until: 9000 });
  await fails((await openQuantized()).finished(), 'NETWORK');
  server.rules.clear();
  const made = serveModel({ seed: 7 });
  server.log.length = 0;
  await assertWhole(await openQuantized(), made);
  assert.deepEqual(server.of('model.safetensors').map(({ range }) => range), ['bytes=0-']);

  await remove(`${server.url}/m/#q4-v1`);
  const damaged = server.files.get('/m/model.safetensors').slice();
  damaged[5000] ^= 1;
  server.files.set('/m/model.safetensors', damaged);
  await fails((await openQuantized()).finished(), 'INTEGRITY', { file: 'model.safetensors' });
  assert.deepEqual(store.parts('model.safetensors'), []);
});

test('an original that is in the cache is not downloaded again, and one that is quantized is kept as it is', async () => {
  const made = serveModel();
  await assertWhole(await open(), {});
  server.log.length = 0;
  await assertWhole(await openQuantized(), made);
  assert.deepEqual([server.log.map(({ path }) => path), (await ids()).sort()], [[], ['', '#q4-v1']]);

  for (const id of await ids()) await remove(`${server.url}/m/${id}`);
  serveModel({ config: { quantization_config: { quant_method: 'incoder' } } });
  for (const requests of [true, false]) {
    server.log.length = 0;
    const folder = await openQuantized();
    await folder.finished();
    assert.deepEqual([(await readAll(folder, 'model.safetensors')).length, server.log.length > 0], [SIZES['model.safetensors'], requests]);
    assert.deepEqual(await ids(), ['']);
  }
});

test('an abort ends everything, and what the engine says of a model is what the load says', async () => {
  serveModel();
  const controller = new AbortController();
  const reason = { why: 'mine' };
  server.rules.set('/m/model.safetensors', { hold: [3000, new Promise(() => {})] });
  const folder = await openQuantized({ signal: controller.signal });
  const read = readAll(folder, 'model.safetensors').catch((error) => error);
  controller.abort(reason);
  assert.deepEqual([await folder.finished().catch((error) => error), await read], [reason, reason]);
  server.rules.clear();
  const refused = new Error('holds NaN at row 3');
  await assert.rejects(openQuantized({ quantizer: { ...quantizer(), run: () => Promise.reject(refused) } }), refused);
  const refusing = { ...quantizer(), run: async (_, sink) => (await sink.begin('{}', 10), Promise.reject(refused)) };
  assert.equal(await (await openQuantized({ quantizer: refusing })).finished().catch((error) => error), refused);
});
