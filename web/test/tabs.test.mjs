/** Several tabs that load the same model at about the same time. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, afterEach, before, test } from 'node:test';
import { file, openPage, serveModels } from './page.mjs';
import { browser } from './support.mjs';

const ORACLE = 'tests/oracle/';
const TINY = {
  'config.json': file(`${ORACLE}tiny-a/config.json`),
  'tokenizer.json': file(`${ORACLE}tok-512/tokenizer.json`),
  'model.safetensors': file(`${ORACLE}tiny-a/model.fp16.safetensors`),
};
const OFFSETS = 20;

let server;
let chromium;
let tabs;
before(async () => {
  server = await serveModels();
  chromium = await browser();
  tabs = await Promise.all([openPage(chromium, server), openPage(chromium, server)]);
});
afterEach(() => {
  server.fault = undefined;
});
after(async () => {
  await chromium?.close();
  await server?.close();
});

/**
 * Serves the model under `/<name>/`: every answer begins after `latency` ms, and the weights come in `pieces` so many ms
 * apart. Counts the weights' bytes that were sent.
 */
function slow(name, { latency = 0, pieces = 1, every = 0 } = {}) {
  const sent = { bytes: 0 };
  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const answer = async (request, response, bytes, weights) => {
    await sleep(latency);
    const from = Number(/^bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const range = request.headers.range && { 'Content-Range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` };
    response.writeHead(range ? 206 : 200, { 'Content-Length': bytes.length - from, ETag: '"1"', ...range });
    if (request.method === 'HEAD') return response.end();
    const length = Math.ceil(bytes.length / (weights ? pieces : 1));
    for (let at = from; at < bytes.length && !response.destroyed; at += length) {
      const piece = bytes.subarray(at, at + length);
      response.write(piece);
      if (weights) sent.bytes += piece.length;
      if (weights) await sleep(every);
    }
    response.end();
  };
  server.fault = (path, request, response) => {
    if (!path.startsWith(`/${name}/`)) return false;
    const of = path.slice(name.length + 2);
    if (TINY[of]) void answer(request, response, TINY[of], of === 'model.safetensors');
    else setTimeout(() => response.writeHead(404).end(), latency);
    return true;
  };
  return sent;
}

/** Brings the model into the cache in that tab after a while; the SHA-256 of its weights, or what went wrong. */
const fetching = (tab, name, after = 0) =>
  tab.evaluate(
    async ([name, after]) => {
      await sleep(after);
      const { value, code, message } = await outcome(bring(`/${name}/`));
      return value ?? `${code} ${message}`;
    },
    [name, after],
  );

/** Loads the model in that tab and writes two tokens; the text, or what went wrong. */
const loading = (tab, name) =>
  tab.evaluate(async (name) => {
    globalThis.told = [];
    const onProgress = (event) => event.phase === 'download' && told.push(event);
    const { value, code, message } = await outcome(load(name, { contextLength: 64, onProgress }));
    const text = value && (await value.generate('class A:\n', { maxTokens: 2, temperature: 0 })).text;
    await value?.dispose();
    return text ?? `${code} ${message}`;
  }, name);

test(`two tabs that begin at ${OFFSETS} offsets: both have the model, one downloads it, and it stays in the cache`, async () => {
  const expected = createHash('sha256').update(TINY['model.safetensors']).digest('hex');
  for (let i = 0; i < OFFSETS; i += 1) {
    const name = `m${i}`;
    const sent = slow(name, { latency: 50, pieces: 4, every: 25 });
    const ends = await Promise.all([fetching(tabs[0], name), fetching(tabs[1], name, i * 20)]);
    assert.deepEqual(ends, [expected, expected], `offset ${i}`);
    assert.equal(sent.bytes, TINY['model.safetensors'].length, `offset ${i}`);
    server.fault = (path, _, response) => path.startsWith(`/${name}/`) && (response.destroy(), true);
    assert.equal(await fetching(tabs[1], name), expected, `offset ${i}, without a network`);
  }
});

test('two tabs that load at once have the same model; whoever waits is told of the other one', async () => {
  const sent = slow('both', { latency: 50, pieces: 6, every: 300 });
  const [first, second] = await Promise.all([loading(tabs[0], 'both'), loading(tabs[1], 'both')]);
  assert.equal(first, second);
  assert.doesNotMatch(first, /^[A-Z_]+ /);
  assert.equal(sent.bytes, TINY['model.safetensors'].length);
  const waited = await Promise.all(tabs.map((tab) => tab.evaluate(() => told.filter(({ waiting }) => waiting))));
  const told = waited.flat();
  assert.ok(told.length > 0 && waited.some((events) => events.length === 0));
  for (const { done, total, file } of told) assert.ok(done < total && file in TINY, JSON.stringify(told));
});

test('a tab that is closed while it downloads: the one that waits does the rest', async () => {
  const sent = slow('left', { pieces: 20, every: 500 });
  const closing = await openPage(chromium, server);
  const lost = loading(closing, 'left').catch(() => 'closed');
  while (sent.bytes === 0) await new Promise((resolve) => setTimeout(resolve, 20));
  const waiting = loading(tabs[0], 'left');
  await tabs[0].waitForFunction(() => told.some((event) => event.waiting));
  slow('left');
  await closing.close();
  assert.equal(await lost, 'closed');
  assert.equal(await waiting, await loading(tabs[1], 'left'));
});
