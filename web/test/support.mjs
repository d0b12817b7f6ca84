/** What the browser tests share: a static server that can misbehave, and headless Chromium with software WebGPU. */

import { createReadStream, existsSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

/** The repository's root, with a slash at its end. */
export const ROOT = fileURLToPath(new URL('../../', import.meta.url));
/** Where screenshots and other artefacts of a run go; not in git. */
export const OUT = join(ROOT, 'web/test/out');

const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};

/**
 * Serves folders: `{ '/': 'web/demo/dist', '/weights/': 'crates/…' }`, paths from the repository's root, the longest
 * prefix first; a prefix without a slash at its end is a file. `server.fault = (path, request, response) => true` may answer a request itself; `server.requests`
 * lists `{ path, range }` of what was asked. Ranges work; nothing is cached by the browser.
 */
export async function serve(folders, headers = {}) {
  const prefixes = Object.keys(folders).sort((a, b) => b.length - a.length);
  const server = { requests: [], fault: undefined };
  const listener = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
    server.requests.push({ path, range: request.headers.range });
    for (const [name, value] of Object.entries({ 'Cache-Control': 'no-store', ...headers })) response.setHeader(name, value);
    if (server.fault?.(path, request, response)) return;
    const prefix = prefixes.find((p) => path.startsWith(p));
    const rest = prefix?.endsWith('/') ? normalize(path.slice(prefix.length) || 'index.html') : '';
    const file = prefix && !rest.startsWith('..') ? join(ROOT, folders[prefix], rest) : '';
    if (!file || !existsSync(file) || !statSync(file).isFile()) {
      response.writeHead(404, { 'Content-Type': 'text/plain' }).end('not found');
      return;
    }
    send(request, response, file);
  });
  await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
  server.url = `http://localhost:${listener.address().port}`;
  server.close = () => new Promise((resolve) => (listener.closeAllConnections(), listener.close(resolve)));
  return server;
}

function send(request, response, file) {
  const size = statSync(file).size;
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const start = range ? Number(range[1]) : 0;
  const end = range?.[2] ? Math.min(Number(range[2]), size - 1) : size - 1;
  const head = { 'Content-Type': TYPES[extname(file)] ?? 'application/octet-stream', 'Accept-Ranges': 'bytes' };
  if (range && start >= size) {
    response.writeHead(416, { ...head, 'Content-Range': `bytes */${size}` }).end();
    return;
  }
  if (range) head['Content-Range'] = `bytes ${start}-${end}/${size}`;
  response.writeHead(range ? 206 : 200, { ...head, 'Content-Length': Math.max(0, end + 1 - start) });
  if (request.method === 'HEAD' || size === 0) response.end();
  else createReadStream(file, { start, end }).pipe(response);
}

const QUIET = ['--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const WEBGPU = ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'];
const OWN_GPU = ['--enable-unsafe-webgpu', '--enable-features=Vulkan', '--use-angle=vulkan', '--ignore-gpu-blocklist'];
const NO_WEBGPU = ['--disable-features=WebGPU', '--disable-gpu'];

/** Chromium with an empty profile that goes with it; `webgpu: false` leaves WebGPU off, `'own'` takes the machine's GPU. */
export async function browser({ webgpu = true, viewport = { width: 1280, height: 900 }, ...context } = {}) {
  const profile = mkdtempSync(join(tmpdir(), 'incoder-chromium-'));
  const opened = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    viewport,
    args: ['--no-sandbox', '--disable-gpu-sandbox', ...QUIET, ...(webgpu === 'own' ? OWN_GPU : webgpu ? WEBGPU : NO_WEBGPU)],
    ...context,
  });
  const close = opened.close.bind(opened);
  opened.close = async () => {
    await close();
    rmSync(profile, { recursive: true, force: true });
  };
  return opened;
}

/** A screenshot among the run's artefacts. */
export async function shoot(page, name, options = {}) {
  mkdirSync(OUT, { recursive: true });
  await page.screenshot({ path: join(OUT, `${name}.png`), ...options });
}
