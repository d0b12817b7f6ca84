/** `InCoder.load(…, { server })` in a browser without WebGPU, with the real `incoder serve`: the texts are the command's. */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { openPage, serveModels } from './page.mjs';
import { ROOT, browser, serve, shoot } from './support.mjs';

/** `cargo xtask test` builds it before it comes here. */
const PROGRAM = resolve(ROOT, process.env.INCODER_PROGRAM ?? join(process.env.CARGO_TARGET_DIR ?? 'target', 'debug/incoder'));
const KEY = 'a-key';
const BEFORE = 'def add(a, b):\n    ';
const BEHIND = '\n\n\nprint(add(1, 2))\n';

let server, url, pages, demo, chromium, page, folder;

before(async () => {
  assert.ok(existsSync(PROGRAM), `${PROGRAM} is not built; INCODER_PROGRAM says where another one is`);
  folder = mkdtempSync(join(tmpdir(), 'incoder-server-'));
  server = spawn(PROGRAM, ['serve', '--port', '0', '-d', 'cpu', '--api-key', KEY, '--allow-origin', 'https://allowed.test'], { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = new Promise((_, reject) => server.once('exit', (code) => reject(new Error(`incoder serve ended with ${code}`))));
  ended.catch(() => undefined);
  const listening = new Promise((found) => {
    createInterface({ input: server.stderr }).on('line', (line) => found(/http:\/\/127\.0\.0\.1:\d+/.exec(line)?.[0] ?? line));
  });
  url = await Promise.race([listening, ended]);
  pages = await serveModels();
  demo = await serve({ '/': 'web/demo/dist' });
  chromium = await browser({ webgpu: false, serviceWorkers: 'block' });
  page = await openPage(chromium, pages);
  await page.evaluate(
    async ([server, apiKey]) => {
      globalThis.model = await InCoder.load({ server, apiKey });
      globalThis.drain = async (stream) => {
        const events = [];
        for (;;) {
          const { done, value } = await stream.next();
          if (done) return { events, result: value };
          events.push(value);
        }
      };
    },
    [url, KEY],
  );
});

after(async () => {
  await chromium?.close();
  await pages?.close();
  await demo?.close();
  if (server?.exitCode === null) {
    const ended = once(server, 'exit');
    server.kill();
    await ended;
  }
  if (folder) rmSync(folder, { recursive: true, force: true });
});

/** What the command prints for an input, as an object. */
function command(name, text, ...options) {
  const file = join(folder, 'input.py');
  writeFileSync(file, text);
  return JSON.parse(execFileSync(PROGRAM, [name, '--json', '-q', '-d', 'cpu', ...options, '-f', file], { encoding: 'utf8' }));
}

const run = (act, argument) => page.evaluate(act, argument);
const joined = (events, index = 0) => events.filter((event) => event.index === index).map(({ text }) => text).join('');

/** Asks until something holds. */
async function soon(holds) {
  const end = Date.now() + 5000;
  while (!(await holds())) {
    assert.ok(Date.now() < end, String(holds));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test('it says what it is, and neither the engine nor a worker was loaded', async () => {
  const { probe, info, heap } = await run(async () => ({ probe: (await InCoder.probe()).ok, info: model.info, heap: await model.heapBytes() }));
  assert.equal(probe, false);
  assert.deepEqual([info.model, info.server, info.worker, heap], ['incoder-demo', `${url}/`, false, 0]);
  assert.ok(info.parameters > 1e6 && info.contextLength >= 256 && info.vocabSize > 1000, JSON.stringify(info));
  assert.deepEqual(pages.requests.filter(({ path }) => /incoder(_bg)?\.|worker\.js|\.safetensors/.test(path)), []);
});

test('infill, in pieces: the text is the command’s', async () => {
  const { events, result } = await run(
    ([prefix, suffix]) => drain(model.infillStream({ prefix, suffix }, { temperature: 0, maxTokens: 24 })),
    [BEFORE, BEHIND],
  );
  const expected = command('infill', `${BEFORE}<infill>${BEHIND}`, '--temp', '0', '-n', '24');
  assert.equal(result.text, expected.text);
  assert.deepEqual(result.infills.map(({ text, finishReason }) => [text, finishReason]), expected.infills.map((one) => [one.text, one.finish_reason]));
  assert.deepEqual([result.complete, result.retriesAttempted], [expected.complete, 1]);
  assert.ok(events.filter(({ text }) => text).length > 2, JSON.stringify(events));
  assert.equal(joined(events), result.infills[0].text);
  assert.equal(events.at(-1).finishReason, result.infills[0].finishReason);
  assert.ok(result.promptTokens > 0 && result.timings.decodeMs > 0 && result.timings.ttftMs > 0, JSON.stringify(result));

  // The same with what is typed of the hole, for the rest of the line, and through the source that editors use.
  const [begun, line, ghost] = await run(
    async ([prefix, suffix]) => {
      const options = { temperature: 0, maxTokens: 24 };
      const { infillSource } = await import('/package/ghost.js');
      let ghost = '';
      const source = infillSource(() => model, { infill: options, singleLine: true });
      for await (const text of source({ prefix, suffix, signal: new AbortController().signal })) ghost += text;
      const begun = await model.infill({ prefix, begun: 'return ', suffix }, options);
      return [begun.text, (await model.infill({ text: `${prefix}<infill>${suffix}` }, { ...options, end: 'line' })).text, ghost];
    },
    [BEFORE, BEHIND],
  );
  assert.equal(begun, command('infill', `${BEFORE}return <infill>${BEHIND}`, '--temp', '0', '-n', '24').text);
  const short = command('infill', `${BEFORE}<infill>${BEHIND}`, '--temp', '0', '-n', '24', '--single-line');
  assert.deepEqual([line, ghost], [short.text, short.infills[0].text]);
});

test('generate, in pieces: the text is the command’s; sampling, candidates and token ids as in the browser', async () => {
  const { greedy, seen, sampled, again, ids, none } = await run(async (prompt) => {
    const { events, result } = await drain(model.generateStream(prompt, { temperature: 0, maxTokens: 16, stop: ['zzz'] }));
    const options = { temperature: 0.9, topK: 40, topP: 0.9, seed: 5, candidates: 3, maxTokens: 8, ignoreEos: true };
    const sampled = await model.generate(prompt, options);
    const again = await model.generate(prompt, options);
    const ids = await model.generate(await model.tokenizer.encode('x = 1\ny ='), { temperature: 0, maxTokens: 4 });
    return { greedy: result, seen: events, sampled, again, ids, none: await model.generate(prompt, { maxTokens: 0 }) };
  }, BEFORE);
  const expected = command('generate', BEFORE, '--temp', '0', '-n', '16');
  const [{ text, finish_reason }] = expected.candidates ?? [expected];
  assert.deepEqual([greedy.text, greedy.finishReason], [text, finish_reason]);
  assert.ok(seen.filter((event) => event.text).length > 2);
  assert.equal(joined(seen), greedy.text);
  assert.equal(sampled.candidates.length, 3);
  assert.deepEqual(again.candidates.map((one) => one.text), sampled.candidates.map((one) => one.text));
  assert.ok(sampled.candidates.every((one) => one.finishReason === 'length'));
  assert.ok(ids.text.length > 0);
  assert.deepEqual([none.text, none.finishReason], ['', 'length']);
});

test('the tokenizer, and scores', async () => {
  const [ids, text, count, score] = await run(async (text) => {
    const ids = await model.tokenizer.encode(text);
    return [ids, await model.tokenizer.decode(ids.slice(1)), await model.tokenizer.count(text), await model.score(text)];
  }, BEFORE);
  assert.deepEqual([text, count, score.ids, score.logprobs[0]], [BEFORE, ids.length, ids, null]);
  const { sum } = command('score', BEFORE);
  assert.ok(Math.abs(score.sum - sum) < 1e-3, `${score.sum}, ${sum}`);
});

test('an abort ends the request, here and on the server; time and a newer call do so, too', async () => {
  const ended = await run(async () => {
    const long = { maxTokens: 400, temperature: 0, ignoreEos: true };
    const abort = new AbortController();
    const seen = [];
    const onToken = (event) => seen.push(event) === 2 && abort.abort(new Error('enough'));
    const aborted = await outcome(model.generate('x = 1\n', { ...long, signal: abort.signal, onToken }));
    const atAborted = seen.length;
    for await (const _ of model.generateStream('y = 1\n', long)) break;
    const timed = await model.generate('z = 1\n', { ...long, maxTimeMs: 150 });
    const first = outcome(model.generate('a = 1\n', long));
    const second = await model.generate('b = 1\n', { ...long, maxTokens: 2, supersede: true });
    await sleep(100);
    return { aborted, after: seen.length - atAborted, timed: timed.finishReason, first: await first, second: second.finishReason };
  });
  assert.deepEqual([ended.aborted.message, ended.after, ended.timed, ended.second], ['enough', 0, 'time', 'length']);
  assert.deepEqual([ended.first.name, ended.first.message], ['AbortError', 'superseded by a newer request']);
  const headers = { Authorization: `Bearer ${KEY}` };
  await soon(async () => !(await (await fetch(`${url}/slots`, { headers })).json()).some((slot) => slot.is_processing));
  // Four answers of 400 tokens were asked for, and nobody waited for them.
  const [, predicted] = /llamacpp:tokens_predicted_total (\d+)/.exec(await (await fetch(`${url}/metrics`, { headers })).text());
  assert.ok(Number(predicted) < 400, predicted);
});

test('what does not work is an error of its own', async () => {
  const fails = await run(
    async ([server, apiKey]) => {
      const input = { prefix: 'a', suffix: 'b' };
      return {
        'nobody there': await outcome(InCoder.load({ server: 'http://127.0.0.1:9', apiKey })),
        'a wrong key': await outcome(InCoder.load('demo', { server, apiKey: 'another' })),
        'no key': await outcome(InCoder.load({ server })),
        'another server': await outcome(InCoder.load({ server: '/' })),
        'no server': await outcome(InCoder.load({ server: 'data:,x' })),
        'a model': await outcome(InCoder.load('demo', { server, apiKey, quantize: 'q8' })),
        'a key alone': await outcome(InCoder.load('demo', { apiKey })),
        'two holes': await outcome(model.infill({ text: '<infill>, <infill>' })),
        parts: await outcome(model.infill({ parts: ['a', 'b'] })),
        lookback: await outcome(model.infill(input, { lookback: 0 })),
        end: await outcome(model.infill(input, { end: 'mask' })),
        'a prompt of few tokens': await outcome(model.generate('a', { maxPromptTokens: 8 })),
        'too many candidates': await outcome(model.generate('a', { candidates: 9 })),
        'an error where the text is long': await outcome(model.generate('a', { onOverflow: 'error' })),
        'too long': await outcome(model.generate(Array(model.info.contextLength + 1).fill(100), { maxTokens: 1 })),
        aborted: await outcome(InCoder.load({ server, apiKey, signal: AbortSignal.abort(new Error('no')) })),
      };
    },
    [url, KEY],
  );
  const codes = {
    'nobody there': ['NETWORK', /nothing answers at http:\/\/127\.0\.0\.1:9\/ .*--allow-origin http:\/\/localhost/],
    'a wrong key': ['SERVER_ERROR', /wants another key/],
    'no key': ['SERVER_ERROR', /wants another key/],
    'another server': ['SERVER_ERROR', /404|no JSON/],
    'no server': ['INVALID_ARGUMENT', /not the URL of a server/],
    'a model': ['NOT_SUPPORTED', /option quantize$/],
    'a key alone': ['INVALID_ARGUMENT', /'server'/],
    'two holes': ['NOT_SUPPORTED', /one hole at a time, and there are 2$/],
    parts: ['NOT_SUPPORTED', /\{ parts \}/],
    lookback: ['NOT_SUPPORTED', /^with a server, lookback can only be 8$/],
    end: ['NOT_SUPPORTED', /^with a server, end can only be 'auto' or 'block' or 'line'$/],
    'a prompt of few tokens': ['NOT_SUPPORTED', /^with a server, maxPromptTokens cannot be chosen$/],
    'too many candidates': ['INVALID_ARGUMENT', /n_cmpl.* between 1/],
    'an error where the text is long': ['NOT_SUPPORTED', /^with a server, onOverflow can only be 'window'$/],
    'too long': ['CONTEXT_OVERFLOW', /context/],
    aborted: [undefined, /^no$/],
  };
  assert.deepEqual(Object.keys(fails), Object.keys(codes));
  for (const [what, [code, message]] of Object.entries(codes)) {
    assert.equal(fails[what].code, code, `${what}: ${JSON.stringify(fails[what])}`);
    assert.match(fails[what].message, message, what);
  }
});

test('a page elsewhere needs --allow-origin', async (t) => {
  const tab = await chromium.newPage();
  t.after(() => tab.close());
  await tab.route('https://*.test/**', async (route) => {
    const { pathname } = new URL(route.request().url());
    await route.fulfill({ response: await route.fetch({ url: pages.url + pathname }) });
  });
  const loaded = {};
  for (const origin of ['https://allowed.test', 'https://other.test']) {
    // Chromium asks its user before a page elsewhere reaches a server on this machine.
    await chromium.grantPermissions(['local-network-access'], { origin });
    await tab.goto(origin);
    await tab.waitForFunction(() => 'load' in globalThis);
    const load = async ([server, apiKey]) => outcome(InCoder.load({ server, apiKey }).then(({ info }) => info.model));
    loaded[origin] = await tab.evaluate(load, [url, KEY]);
  }
  assert.equal(loaded['https://allowed.test'].value, 'incoder-demo', JSON.stringify(loaded));
  assert.equal(loaded['https://other.test'].code, 'NETWORK');
  assert.match(loaded['https://other.test'].message, /--allow-origin https:\/\/other\.test/);
});

test('a disposed one ends its calls, and refuses others', async () => {
  const seen = await run(
    async ([server, apiKey]) => {
      const other = await InCoder.load({ server, apiKey });
      const running = outcome(other.generate('x = 1\n', { maxTokens: 400, ignoreEos: true }));
      await sleep(50);
      await other.dispose();
      const ends = [await running, await outcome(other.generate('x')), await outcome(other.tokenizer.count('x'))];
      return [...ends.map(({ code }) => code), (await other.lost).reason];
    },
    [url, KEY],
  );
  assert.deepEqual(seen, ['DISPOSED', 'DISPOSED', 'DISPOSED', 'disposed']);
});

test('the demo page offers a server where there is no WebGPU', async (t) => {
  assert.ok(existsSync(join(ROOT, 'web/demo/dist/index.html')), 'web/demo/dist is not built');
  const tab = await chromium.newPage();
  t.after(() => tab.close());
  const problems = [];
  tab.on('pageerror', (error) => problems.push(String(error)));
  await tab.goto(demo.url);
  await tab.waitForSelector('#server-form', { state: 'visible' });
  assert.equal(await tab.textContent('#server-command'), 'incoder serve');
  assert.equal(await tab.inputValue('#server-url'), 'http://127.0.0.1:8012');
  await shoot(tab, 'server', { animations: 'disabled', fullPage: true });
  const fails = async (address, key, title) => {
    await tab.fill('#server-url', address);
    await tab.fill('#server-key', key);
    await tab.click('#use-server');
    await tab.waitForFunction((title) => document.querySelector('#load-message strong')?.textContent === title, title);
    await tab.waitForFunction(() => document.activeElement.id === 'use-server');
  };
  await fails('http://127.0.0.1:9', '', 'No server answers there.');
  await fails(url, 'another', 'The server refused this.');
  await tab.fill('#server-key', KEY);
  await tab.click('#use-server');
  await tab.waitForSelector('#model-state[data-state=ready]');
  assert.equal(await tab.textContent('[data-testid=info-server]'), `${url}/`);
  await tab.waitForFunction(() => /^[\d,]+ of [\d,]+ tokens$/.test(document.getElementById('meter-text').textContent));

  // The page opened with two holes, and shows an example that a server can fill instead. One with two is refused.
  const fill = (insert) => tab.evaluate((insert) => {
    const { view } = window.incoderDemo;
    view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert } });
  }, insert);
  const shown = await tab.evaluate(() => window.incoderDemo.view.state.doc.toString());
  assert.equal(shown.split('<infill>').length, 2, shown);
  await fill('a = <infill>\nb = <infill>\n');
  await tab.click('#infill');
  await tab.waitForSelector('#run-message', { state: 'visible' });
  assert.equal(await tab.textContent('#run-message strong'), 'A server cannot do this.');
  // One hole is filled as the command fills it.
  const document = `${BEFORE}<infill>${BEHIND}`;
  await fill(document);
  await tab.fill('#length', '24');
  await tab.fill('#temperature', '0');
  await tab.click('#infill');
  await tab.waitForFunction(() => document.getElementById('run-status').textContent.startsWith('1 of 1 hole filled'));
  const expected = command('infill', document, '--temp', '0', '-n', '24').text;
  assert.equal(await tab.evaluate(() => window.incoderDemo.view.state.doc.toString()), expected);

  await tab.click('#unload');
  await tab.waitForSelector('#use-server', { state: 'visible' });
  assert.deepEqual(problems, []);
  assert.deepEqual(demo.requests.filter(({ path }) => /\.safetensors|worker/.test(path)), []);
});
