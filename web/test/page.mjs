/** A blank page with the package on it (see page/page.js), and the models that it can load. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT, serve } from './support.mjs';

const ORACLE = 'tests/oracle/';

/** What is served where. */
export const FOLDERS = {
  '/': 'web/test/page',
  '/package/': 'web/package/dist',
  '/shaders/': 'shaders',
  '/demo/': 'examples/demo-model/weights',
  '/tiny-a/': `${ORACLE}tiny-a`,
  '/tiny-a/model.safetensors': `${ORACLE}tiny-a/model.fp16.safetensors`,
  '/tiny-a/tokenizer.json': `${ORACLE}tok-512/tokenizer.json`,
  '/gguf/': `${ORACLE}gguf`,
  '/small-b/': `${ORACLE}small-b`,
  '/small-b/model.safetensors': `${ORACLE}small-b/model.fp16.safetensors`,
  '/small-b/tokenizer.json': `${ORACLE}tok-2k/tokenizer.json`,
};

/** All that a page needs to be allowed; the engine asks for nothing else. */
const CSP = { 'Content-Security-Policy': "script-src 'self' 'wasm-unsafe-eval'" };

/** A file of the repository. */
export const file = (path) => readFileSync(join(ROOT, path));

/** A JSON file of the oracle. */
export const oracle = (path) => JSON.parse(file(ORACLE + path));

/** The server that every engine test uses. */
export const serveModels = () => serve(FOLDERS, CSP);

/** Answers with `size` bytes that `bytes(from, to)` gives piece by piece, as fast as they are taken. */
export async function pour(request, response, size, bytes) {
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
  let at = Number(first ?? 0);
  const end = last ? Number(last) + 1 : size;
  response.writeHead(first ? 206 : 200, { 'Content-Length': end - at, ...(first && { 'Content-Range': `bytes ${at}-${end - 1}/${size}` }) });
  if (request.method === 'HEAD') return response.end();
  while (at < end && !response.destroyed) {
    const piece = bytes(at, end);
    at += piece.length;
    if (!response.write(piece)) await new Promise((resolve) => response.once('drain', resolve).once('close', resolve));
  }
  response.end();
}

/** Lets `init` run in every worker of the package, too. */
export function inWorkers(server, init) {
  const text = `${file('web/package/dist/worker.js')}\n(${init})();\n`;
  server.fault = (path, _, response) => {
    if (path !== '/package/worker.js') return false;
    response.writeHead(200, { 'Content-Type': 'text/javascript' }).end(text);
    return true;
  };
}

/** The page; `init` runs in it before anything else. */
export async function openPage(context, server, init = () => {}) {
  const page = await context.newPage();
  await page.addInitScript(init);
  await page.goto(server.url);
  await page.waitForFunction(() => 'load' in globalThis);
  return page;
}
