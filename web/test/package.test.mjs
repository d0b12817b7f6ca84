/** The package as npm gets it: what is in the tarball, what it weighs, and that an app made from it fills a hole. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { after, before, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { publint } from 'publint';
import { build, createServer } from 'vite';
import webpack from 'webpack';
import { ROOT, browser, serve } from './support.mjs';

const PACKAGE = join(ROOT, 'web/package');
const TSC = join(ROOT, 'web/node_modules/typescript/bin/tsc');
const WEIGHTS = 'examples/demo-model/weights';
/** A growth that nobody meant is to be noticed. */
const MOST_ENGINE_BYTES = 1_100_000;

/** All of an app: what the readme's first example does, with greedy text, kept for the tests. */
const APP = `
import { InCoder } from 'incoder';

globalThis.filled = (async () => {
  const model = await InCoder.load('demo', { baseUrl: './model/' });
  const input = { prefix: 'def add(a, b):\\n    ', suffix: '\\n\\n\\nprint(add(1, 2))\\n' };
  const { text, infills, complete } = await model.infill(input, { temperature: 0, maxTokens: 12 });
  await model.dispose();
  return { text, ids: infills[0].ids, complete };
})();
`;
const page = (script, head = '') => `<!doctype html>
<meta charset="utf-8"><title>app</title><link rel="icon" href="data:,">${head}
<script type="module" src="${script}"></script>`;

/** A project with nothing but the tarball installed, where that lies, and the files in it. */
let project, installed, files, chromium;

const run = (command, args, cwd) => execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
const all = (folder) => readdirSync(folder, { recursive: true }).map(String).filter((name) => statSync(join(folder, name)).isFile());
const gzipped = (name) => gzipSync(readFileSync(join(installed, name)), { level: 9 }).length;

before(async () => {
  assert.ok(existsSync(join(PACKAGE, 'dist/wasm/incoder_bg.wasm')), 'web/package is not built');
  project = mkdtempSync(join(tmpdir(), 'incoder-app-'));
  installed = join(project, 'node_modules/incoder');
  const [{ filename }] = JSON.parse(run('npm', ['pack', '--json', '--silent', '--pack-destination', project], PACKAGE));
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'app', private: true, type: 'module' }));
  run('npm', ['install', '--offline', '--no-audit', '--no-fund', `./${filename}`], project);
  files = all(installed).sort();
  writeFileSync(join(project, 'index.html'), page('./app.js'));
  writeFileSync(join(project, 'app.js'), APP);
  chromium = await browser();
});

after(async () => {
  await chromium?.close();
  if (project) rmSync(project, { recursive: true, force: true });
});

test('the tarball holds the build, the licences and the readme, and nothing else', () => {
  const other = files.filter((name) => !name.startsWith('dist/'));
  assert.deepEqual(other, ['LICENSE-APACHE', 'LICENSE-MIT', 'README.md', 'package.json']);
  const odd = files.filter((name) => name.startsWith('dist/') && !/(\.js|\.d\.ts|dist\/wasm\/incoder_bg\.wasm)$/.test(name));
  assert.deepEqual(odd, []);
  assert.deepEqual(files.filter((name) => /test|\.map$|tsbuildinfo/.test(name)), []);
  // Every source has its output, and no output outlives its source.
  const sources = all(join(PACKAGE, 'src')).filter((name) => /\.ts$/.test(name) && !/\.d\.ts$/.test(name));
  const outputs = files.filter((name) => /\.js$/.test(name) && name !== 'dist/wasm/incoder.js');
  assert.deepEqual(outputs, sources.map((name) => `dist/${name.replace(/\.ts$/, '.js')}`).sort());
  for (const name of ['LICENSE-MIT', 'LICENSE-APACHE']) {
    assert.equal(readFileSync(join(installed, name), 'utf8'), readFileSync(join(ROOT, name), 'utf8'));
  }
});

test('what it weighs', (t) => {
  const sum = (pattern) => files.filter((name) => pattern.test(name)).reduce((total, name) => total + gzipped(name), 0);
  const wasm = gzipped('dist/wasm/incoder_bg.wasm');
  const glue = gzipped('dist/wasm/incoder.js');
  t.diagnostic(`bytes, each file gzipped: wasm ${wasm}, its JavaScript ${glue}, together ${wasm + glue}`);
  t.diagnostic(`downloads and cache ${sum(/^dist\/files\/.*\.js$/)}, ghost text ${sum(/^dist\/(codemirror|ghost)\.js$/)}`);
  t.diagnostic(`the rest ${sum(/^dist\/(?!codemirror|ghost)\w+\.js$/)}`);
  assert.ok(wasm + glue <= MOST_ENGINE_BYTES, `${wasm + glue} bytes`);
});

test('publint finds nothing', async () => {
  const { messages } = await publint({ pkgDir: installed, pack: false, strict: true });
  assert.deepEqual(messages, []);
});

test('every export is there, with its types', () => {
  const { exports } = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'));
  const { resolve } = createRequire(join(project, 'app.js'));
  for (const [name, target] of Object.entries(exports)) {
    const path = resolve(join('incoder', name));
    assert.equal(path, join(installed, target.default ?? target));
    if (target.types) assert.ok(existsSync(join(installed, target.types)), target.types);
  }
});

test('nothing in it comes from elsewhere', () => {
  const known = /^https?:\/\/(huggingface\.co|www\.w3\.org|incoder\.invalid)(\/|$)/;
  for (const name of files.filter((each) => /\.js$/.test(each))) {
    const code = readFileSync(join(installed, name), 'utf8').replace(/^\s*(\/\/|\/?\*).*$/gm, '');
    const addresses = code.match(/https?:\/\/[^\s'"`)]+/g) ?? [];
    assert.deepEqual(addresses.filter((address) => !known.test(address)), [], name);
  }
});

/** Opens an app, and gives what it filled in. */
async function filled(url) {
  const tab = await chromium.newPage();
  const problems = [];
  tab.on('console', (message) => {
    // A folder without a manifest.json is as good, but the browser reports that it was asked for.
    const expected = message.location().url.endsWith('/manifest.json');
    if (['error', 'warning'].includes(message.type()) && !expected) problems.push(message.text());
  });
  tab.on('pageerror', (error) => problems.push(String(error)));
  try {
    await tab.goto(url);
    await tab.waitForFunction(() => 'filled' in globalThis);
    const result = await tab.evaluate(() => globalThis.filled);
    assert.deepEqual(problems, []);
    return result;
  } finally {
    await tab.close();
  }
}

/** Serves a folder of the project with the demo model beside it, under a path that is not the root. */
async function served(t, folder) {
  const server = await serve({ '/app/': relative(ROOT, join(project, folder)), '/app/model/': WEIGHTS });
  t.after(() => server.close());
  return `${server.url}/app/`;
}

/** All ways of building an app give the same text. */
let first;
function same(result) {
  assert.ok(result.ids.length > 0);
  assert.ok(result.text.startsWith('def add(a, b):\n    ') && result.text.endsWith('\n\n\nprint(add(1, 2))\n'));
  first ??= result;
  assert.deepEqual(result, first);
}

test('a plain page with an import map', async (t) => {
  const map = JSON.stringify({ imports: { incoder: './node_modules/incoder/dist/index.js' } });
  writeFileSync(join(project, 'plain.html'), page('./app.js', `<script type="importmap">${map}</script>`));
  same(await filled(`${await served(t, '.')}plain.html`));
});

/** No settings: what an author has who has written none. */
const VITE = () => ({ root: project, configFile: false, logLevel: 'error' });

test('Vite, built', async (t) => {
  await build({ ...VITE(), base: './', build: { outDir: 'vite' } });
  same(await filled(await served(t, 'vite')));
});

test('Vite, its development server', async (t) => {
  mkdirSync(join(project, 'public'));
  // Served by Vite itself, as an author would have it.
  symlinkSync(join(ROOT, WEIGHTS), join(project, 'public/model'));
  const server = await createServer({ ...VITE(), server: { host: '127.0.0.1', port: 0, hmr: false } });
  t.after(() => server.close());
  await server.listen();
  same(await filled(`http://localhost:${server.httpServer.address().port}/`));
});

test('webpack', async (t) => {
  const output = { path: join(project, 'webpack'), filename: 'app.js', publicPath: 'auto' };
  const compiler = webpack({ mode: 'production', context: project, entry: './app.js', output, target: 'web' });
  const stats = await new Promise((resolve, reject) => compiler.run((error, result) => (error ? reject(error) : resolve(result))));
  await new Promise((resolve) => compiler.close(resolve));
  const { errors, warnings } = stats.toJson({ all: false, errors: true, warnings: true });
  assert.deepEqual(errors, []);
  // It finds the engine large, and nothing else.
  assert.deepEqual(warnings.map(({ message }) => message).filter((message) => !/size limit/.test(message)), []);
  for (const name of all(output.path).filter((each) => /\.js$/.test(each))) {
    assert.ok(!readFileSync(join(output.path, name), 'utf8').includes('file:///'), `${name} tells where it was built`);
  }
  writeFileSync(join(output.path, 'index.html'), page('./app.js'));
  same(await filled(await served(t, 'webpack')));
});

/** A use of most of the public types, as authors write them. */
const TYPED = `
import { InCoder, InCoderError } from 'incoder';
import type { ErrorCode, Fit, Infilling, LoadProgress, Probe, TokenEvent } from 'incoder';
import { ghostText } from 'incoder/codemirror';
import { infillSource, trimOverlap, type Complete } from 'incoder/ghost';
import { EditorView } from '@codemirror/view';

let loaded: InCoder | null = null;
export const view = new EditorView({ extensions: [ghostText({ engine: () => loaded, singleLine: true })] });

export async function complete(prefix: string, suffix: string): Promise<Infilling | ErrorCode> {
  const probe: Probe = await InCoder.probe();
  if (!probe.ok) throw new Error(probe.reason);
  const fit: Fit = await probe.fits('facebook/incoder-1B');
  const onProgress = ({ phase, done, total }: LoadProgress): void => console.log(phase, done / total, fit.gpuBytes);
  try {
    await using model = await InCoder.load('demo', { baseUrl: '/model/', kv: 'f16', onProgress });
    loaded = model;
    const seen: TokenEvent[] = [];
    for await (const event of model.infillStream({ prefix, suffix }, { maxTokens: 8 })) seen.push(event);
    const { sum } = await model.score([1, 2, 3], { topLogprobs: 2 });
    console.log(sum?.toFixed(), model.info.adapter.limits.maxBufferSize, (await InCoder.cache.list()).length);
    return await model.infill({ text: 'x = <infill>' }, { onOverflow: 'error', signal: AbortSignal.timeout(1000) });
  } catch (error) {
    if (error instanceof InCoderError) return error.code;
    throw error;
  }
}

export const source: Complete = infillSource(() => loaded, { singleLine: true });
export const rest: string = trimOverlap('a)', ')');

// What may be undefined is handed on as it is, with exactOptionalPropertyTypes too.
export async function maybe(model: InCoder, signal?: AbortSignal, suffix?: string, options?: { maxTokens?: number }): Promise<void> {
  await model.infill({ prefix: '', suffix, begun: undefined }, { signal, maxTokens: options?.maxTokens, stop: undefined });
  await model.score('x', { signal });
  await InCoder.load('demo', { baseUrl: new URL('https://example.org/model/'), worker: () => new Worker('worker.js'), signal });
  await InCoder.load({ server: 'http://127.0.0.1:8012', apiKey: options?.maxTokens?.toString(), signal });
  await InCoder.load('demo', { server: new URL('http://127.0.0.1:8012') });
  await InCoder.load('demo', { worker: '/incoder/worker.js', wasm: new Uint8Array(), onProgress: undefined });
  new EditorView({ extensions: [ghostText({ engine: () => model, debounceMs: options?.maxTokens, infill: undefined })] });
}

// @ts-expect-error: there is no such option
void InCoder.load('demo', { basePath: '/model/' });
// @ts-expect-error: nor does a model without a name come from anywhere but a server
void InCoder.load({ baseUrl: '/model/' });
// @ts-expect-error: a result is no string
export const text: Promise<string> = complete('', '');
`;

for (const moduleResolution of ['Bundler', 'NodeNext']) {
  test(`its types, checked with moduleResolution ${moduleResolution}`, () => {
    writeFileSync(join(project, 'typed.ts'), TYPED);
    // Only the types of the ghost text need it, which is for those who have CodeMirror.
    if (!existsSync(join(project, 'node_modules/@codemirror'))) {
      symlinkSync(join(ROOT, 'web/node_modules/@codemirror'), join(project, 'node_modules/@codemirror'));
    }
    const compilerOptions = {
      ...{ target: 'ES2022', module: moduleResolution === 'NodeNext' ? 'NodeNext' : 'ESNext', moduleResolution },
      ...{ lib: ['ES2022', 'DOM'], types: [], strict: true, exactOptionalPropertyTypes: true },
      ...{ noEmit: true, skipLibCheck: false },
    };
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['typed.ts'] }));
    try {
      run(process.execPath, [TSC, '-p', 'tsconfig.json'], project);
    } catch (error) {
      assert.fail(error.stdout || String(error));
    }
  });
}
