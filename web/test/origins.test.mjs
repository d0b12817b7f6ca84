/** The package from a CDN, in a sandboxed frame, under policies: its worker starts, or an error says what to do. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { FOLDERS } from './page.mjs';
import { browser, serve } from './support.mjs';

let cdn;
let server;
let chromium;
/** What the page at /<name> is: its body, and its headers. */
const pages = new Map();
before(async () => {
  cdn = await serve(FOLDERS, { 'Access-Control-Allow-Origin': '*' });
  server = await serve(FOLDERS, { 'Access-Control-Allow-Origin': '*' });
  server.fault = (path, _, response) => {
    const page = pages.get(path.slice(1));
    if (!page) return false;
    response.writeHead(200, { 'Content-Type': 'text/html', ...page.headers }).end(`<!doctype html><link rel="icon" href="data:,">${page.body}`);
    return true;
  };
  chromium = await browser();
});
after(async () => {
  await chromium?.close();
  await server?.close();
  await cdn?.close();
});

/** A script that leaves how a load with those options ends in `result`. */
const loading = (from, options) => `<script type="module">
  const { InCoder } = await import('${from}/index.js');
  const end = async () => {
    const model = await InCoder.load('tiny-a', { baseUrl: '${server.url}/tiny-a/', contextLength: 64, cache: false, ...(await (${options})()) });
    const { text } = await model.generate('class A:', { maxTokens: 2, temperature: 0 });
    await model.dispose();
    return { text, worker: model.info.worker };
  };
  globalThis.result = await end().catch(({ name, code, message, details }) => ({ name, code, message, details }));
</script>`;

const here = () => `${server.url}/package`;
const elsewhere = () => `${cdn.url}/package`;
const framed = (body) => `<iframe sandbox="allow-scripts" srcdoc="${body.replaceAll('&', '&amp;').replaceAll('"', '&quot;')}"></iframe>`;
const csp = (policy) => ({ 'Content-Security-Policy': policy });
const engine = (more) => () => `async () => {
    const wasm = await (await fetch('${server.url}/package/wasm/incoder_bg.wasm')).arrayBuffer();
    return ${more};
  }`;

/** Where the package comes from, the page's headers, the options (in the page's words), and what is to come of it. */
const CASES = {
  'from the page’s own server': { from: here, works: { worker: true } },
  'from another origin': { from: elsewhere, works: { worker: true } },
  'from another origin, on the page': { from: elsewhere, options: '() => ({ worker: false })', works: { worker: false } },
  'in a sandboxed frame': { from: here, frame: true, works: { worker: true } },
  'in a sandboxed frame, from another origin': { from: elsewhere, frame: true, works: { worker: true } },
  'under Trusted Types': { from: here, headers: csp("require-trusted-types-for 'script'"), works: { worker: true } },
  'under Trusted Types that name the policy, from another origin': {
    from: elsewhere,
    headers: csp("require-trusted-types-for 'script'; trusted-types incoder"),
    works: { worker: true },
  },
  'under Trusted Types without the policy': {
    from: here,
    headers: csp("require-trusted-types-for 'script'; trusted-types other"),
    fails: ['WORKER_FAILED', /incoder[^]*`worker: false`/],
  },
  'under Trusted Types without the policy, on the page': {
    from: here,
    headers: csp("require-trusted-types-for 'script'; trusted-types other"),
    options: '() => ({ worker: false })',
    works: { worker: false },
  },
  'from another origin, under the policy that the readme names': {
    from: elsewhere,
    headers: () => csp(`default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' ${cdn.url}; worker-src blob: ${cdn.url}; connect-src 'self' ${cdn.url}`),
    works: { worker: true },
  },
  'where workers are forbidden': { from: here, headers: csp("worker-src 'none'"), fails: ['WORKER_FAILED', /worker-src[^]*`worker: false`/] },
  'from another origin, where workers from blobs are forbidden': {
    from: elsewhere,
    headers: csp("worker-src 'self'"),
    fails: ['WORKER_FAILED', /worker-src[^]*`worker: false`/],
  },
  'without workers': { from: here, options: '() => (delete globalThis.Worker, {})', fails: ['WORKER_FAILED', /no workers here[^]*`worker: false`/] },
  'the worker’s address': { from: here, options: "() => ({ worker: '/package/worker.js' })", works: { worker: true } },
  'the worker’s address, elsewhere': { from: here, options: () => `() => ({ worker: new URL('${cdn.url}/package/worker.js') })`, works: { worker: true } },
  'an address without a worker': { from: here, options: "() => ({ worker: '/nothing.js' })", fails: ['WORKER_FAILED', /`worker: false`/] },
  'a function that makes the worker': {
    from: here,
    options: "() => ({ worker: () => new Worker('/package/worker.js', { type: 'module' }) })",
    works: { worker: true },
  },
  'a function that fails': { from: here, options: "() => ({ worker: () => { throw new Error('mine') } })", fails: ['WORKER_FAILED', /^mine$/] },
  'a function that makes none': { from: here, options: '() => ({ worker: () => ({}) })', fails: ['INVALID_ARGUMENT', /no Worker/] },
  'the engine as bytes': { from: here, options: engine('{ wasm }'), works: { worker: true } },
  'the engine as a module, on the page': { from: here, options: engine('{ wasm: new WebAssembly.Module(wasm), worker: false }'), works: { worker: false } },
  'an engine that is none': { from: here, options: '() => ({ wasm: new Uint8Array(8) })', fails: ['WASM_LOAD', /the engine did not load: /] },
  'no engine there': { from: here, options: "() => ({ wasm: '/nothing.wasm' })", fails: ['WASM_LOAD', /from http.*\/nothing\.wasm: /] },
};

let number = 0;
let text;
for (const [what, { from, headers = {}, frame, options = '() => ({})', works, fails }] of Object.entries(CASES)) {
  test(`${what}: ${works ? 'works' : fails[0]}`, async () => {
    const name = `page-${(number += 1)}.html`;
    const wanted = typeof options === 'function' ? options() : options;
    const body = loading(from(), wanted);
    pages.set(name, { headers: typeof headers === 'function' ? headers() : headers, body: frame ? framed(body) : body });
    const page = await chromium.newPage();
    await page.goto(`${server.url}/${name}`);
    const [inner = page] = page.frames().slice(1);
    const result = await (await inner.waitForFunction(() => globalThis.result, undefined, { timeout: 60_000 })).jsonValue();
    await page.close();
    if (fails) {
      assert.deepEqual([result.name, result.code], ['InCoderError', fails[0]], result.message);
      assert.match(result.message, fails[1]);
      return;
    }
    assert.equal(result.message, undefined);
    assert.equal(result.worker, works.worker);
    assert.equal(result.text, (text ??= result.text));
  });
}
