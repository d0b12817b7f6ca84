/** The built demo page, driven as a person would, with the real engine on SwiftShader. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { BASE, DIST, PART, STILL, WEIGHTS, chromium, failed, highlighted, load, offline, open, run, says, slow, text, weightsAsked, write } from './demo.mjs';
import { ROOT, shoot } from './support.mjs';

test('one click loads the demo model; two holes, Extend and Undo all', async (t) => {
  const { server, page } = await open(t);
  const original = await text(page);
  const parts = original.split('<infill>');
  assert.equal(parts.length, 3);
  assert.equal(await page.locator('[data-testid=mask]').count(), 2);
  await shoot(page, 'light', STILL);
  await page.click('#theme-toggle');
  await shoot(page, 'dark', STILL);
  await page.click('#theme-toggle');

  // Everything the bar shows, as it comes.
  await page.evaluate(() => {
    window.seen = { values: [], phases: [], bytes: '' };
    const look = () => {
      window.seen.values.push(document.getElementById('load-bar').value);
      window.seen.phases.push(document.getElementById('load-phase').textContent);
      window.seen.bytes = document.getElementById('load-bytes').textContent;
    };
    const options = { subtree: true, childList: true, characterData: true, attributes: true };
    new MutationObserver(look).observe(document.getElementById('load-progress'), options);
  });
  await page.click('#quick-load');
  await page.waitForSelector('#load-progress', { state: 'visible' });
  await page.waitForSelector('#model-state[data-state=ready]');
  const seen = await page.evaluate(() => window.seen);
  assert.ok(seen.values.some((value) => value > 0 && value < 1), 'the bar moves');
  assert.deepEqual(seen.values, [...seen.values].sort((a, b) => a - b), 'the bar never goes back');
  assert.equal(seen.values.at(-1), 1);
  assert.ok(seen.phases.includes('Downloading'), String(new Set(seen.phases)));
  assert.match(seen.bytes, /^(\S+ MB) of \1$/);
  assert.match(await page.textContent('[data-testid=info-parameters]'), /^[\d.]+ million$/);
  assert.equal(await page.textContent('[data-testid=info-worker]'), 'a worker');

  // Two holes. An empty infill is no mistake, and has no highlight: other seeds then.
  for (let seed = 0; seed < 4 && (await highlighted(page)).length < 2; seed += 1) {
    if (seed > 0) await page.click('#undo-all');
    await page.fill('#seed', String(seed));
    await run(page, '#infill');
  }
  assert.deepEqual(await highlighted(page), ['1', '2']);
  const filled = await text(page);
  assert.ok(filled.startsWith(parts[0]) && filled.endsWith(parts[2]), filled);
  assert.ok(filled.slice(parts[0].length, filled.length - parts[2].length).includes(parts[1]), filled);
  assert.match(await page.textContent('#run-status'), /^2 of 2 holes filled, \d+ tokens?\.$/);
  assert.match(await page.textContent('#stat-speed'), /^\d+(\.\d)?$/);
  assert.match(await page.textContent('#stat-ttft'), /^[\d.]+ m?s$/);
  assert.match(await page.textContent('#stat-reused'), /^\d+ of \d+$/);
  t.diagnostic(
    `${await page.textContent('#run-status')} ${await page.textContent('#stat-speed')} tokens a second, ` +
      `${await page.textContent('#stat-ttft')} to the first token`,
  );
  await shoot(page, 'filled', STILL);

  // Extend writes behind the cursor, which then stands behind what was written.
  await page.click('.cm-content');
  await page.keyboard.press('Control+End');
  await run(page, '#extend');
  assert.ok((await text(page)).startsWith(filled));
  assert.match(await page.textContent('#run-status'), /^\d+ tokens? written\.$/);

  await page.click('#undo-all');
  assert.equal(await text(page), original);
  assert.equal(await page.isDisabled('#undo-all'), true);
  assert.equal(weightsAsked(server).length, 1);
  assert.deepEqual(page.problems, []);
});

test('Stop keeps what there is, and the engine goes on working', async (t) => {
  const { page } = await open(t);
  await load(page);
  await page.selectOption('#example', { label: 'A class' });
  const original = await text(page);
  await shoot(page, 'holes', STILL);
  await slow(page, 300);
  await page.click('#infill');
  await page.waitForSelector('.gen');
  await shoot(page, 'generating', STILL);
  await page.click('#stop');
  await says(page, 'Stopped.');
  const stopped = await text(page);
  const before = original.split('<infill>')[0];
  assert.ok(stopped.startsWith(before) && stopped.length > before.length);
  assert.notEqual(stopped, original);
  assert.ok(stopped.includes('<infill>'), 'holes that were not begun are holes still');
  await slow(page, 0);
  await page.fill('#length', '4');
  await run(page, '#infill');
  assert.equal((await text(page)).includes('<infill>'), false);
  await page.click('#undo-all');
  assert.equal(await text(page), original);
  assert.deepEqual(page.problems, []);
});

/** Types text for the ghost to go on with, until the model has something to suggest: not every text gets an answer. */
async function suggestion(page) {
  const fresh = ['def add(a, b):\n    return ', 'import os\nimport ', 'for i in range(10):\n    print', 'class Stack:\n    def '];
  for (const before of fresh) {
    await write(page, before.slice(0, -1), '\n');
    await page.keyboard.type(before.slice(-1));
    const ghost = await page.waitForSelector('.cm-ghostText', { timeout: 8000 }).catch(() => null);
    if (!ghost) continue;
    // Until it is whole, which is when a screen reader is told.
    await page.waitForFunction(() => document.querySelector('.cm-ghostTextLive').textContent !== '');
    const shown = await page.textContent('.cm-ghostText');
    if (/^[\w\s]/.test(shown)) return { before, shown: shown.replace('\u200b', '') };
  }
  throw new Error('the model suggested nothing for any of the texts');
}

test('ghost text: after the debounce, Tab, Escape, typing through it', async (t) => {
  const { page } = await open(t);
  await load(page);
  await page.click('#ghost-toggle');
  // When suggestions are asked for.
  await page.evaluate(() => {
    const { engine } = window.incoderDemo;
    const { infillStream } = engine;
    window.asked = [];
    window.typed = 0;
    engine.infillStream = (...args) => (window.asked.push(performance.now()), infillStream.apply(engine, args));
    document.addEventListener('keydown', () => (window.typed = performance.now()), true);
  });

  await write(page, '', '\n');
  await page.evaluate(() => (window.asked = []));
  await page.keyboard.type('x = so', { delay: 20 });
  await page.waitForFunction(() => window.asked.length > 0);
  const { asked, typed } = await page.evaluate(() => ({ asked: window.asked, typed: window.typed }));
  assert.equal(asked.length, 1, 'one request for quick typing');
  assert.ok(asked[0] - typed >= 240, `${asked[0] - typed} ms after the last key`);

  // Tab takes all of it.
  let { before, shown } = await suggestion(page);
  assert.equal(await text(page), `${before}\n`);
  await shoot(page, 'ghost', STILL);
  await page.keyboard.press('Tab');
  assert.equal(await text(page), `${before}${shown}\n`);
  assert.equal(await page.locator('.cm-ghostText').count(), 0);

  // Escape takes it away, and leaves the text.
  ({ before, shown } = await suggestion(page));
  await page.keyboard.press('Escape');
  assert.equal(await page.locator('.cm-ghostText').count(), 0);
  assert.equal(await text(page), `${before}\n`);

  // Typing what it says leaves the rest of it, without another request.
  ({ before, shown } = await suggestion(page));
  await page.evaluate(() => (window.asked = []));
  const head = shown.slice(0, 1);
  await page.keyboard.insertText(head);
  assert.equal(await text(page), `${before}${head}\n`);
  if (shown.slice(1).trim() !== '') assert.equal((await page.textContent('.cm-ghostText')).replace('\u200b', ''), shown.slice(1));
  await page.waitForTimeout(400);
  assert.deepEqual(await page.evaluate(() => window.asked), []);

  // Typing something else takes it away.
  await page.keyboard.insertText('§');
  assert.equal(await page.locator('.cm-ghostText').count(), 0);
  assert.deepEqual(page.problems, []);
});

test('masks: at the cursor, over a selection, away with Backspace', async (t) => {
  const { page } = await open(t);
  await write(page, 'total = ', '\nprint(total)');
  await page.click('#add-mask');
  assert.equal(await text(page), 'total = <infill>\nprint(total)');
  assert.equal(await page.textContent('[data-testid=mask]'), 'hole 1');
  // The focus is back in the editor, behind the mask, which goes away whole.
  await page.keyboard.press('Backspace');
  assert.equal(await text(page), 'total = \nprint(total)');
  await page.keyboard.press('Control+End');
  await page.keyboard.press('Shift+Home');
  await page.keyboard.press('Alt+i');
  assert.equal(await text(page), 'total = \n<infill>');
  assert.deepEqual(page.problems, []);
});

test('a cached model loads without a request for it, and without a network', async (t) => {
  // Without a service worker the page's own files have to be in the browser's HTTP cache, as they are on most servers.
  const { server, page } = await open(t, { headers: { 'Cache-Control': 'max-age=600' } });
  await load(page);
  await page.reload();
  await page.waitForFunction(() => document.getElementById('model-size').textContent.includes('in this browser already'));
  server.requests.length = 0;
  await load(page);
  assert.deepEqual(server.requests.filter(({ path }) => /tokenizer|safetensors|config/.test(path)), []);

  await page.reload();
  await offline(t, true);
  await load(page);
  await page.fill('#length', '4');
  await run(page, '#infill');
  assert.match(await page.textContent('#run-status'), /^2 of 2 holes filled/);
  assert.deepEqual(page.problems, []);

  // Deleted, it is gone, and offline it cannot come back.
  await page.click('#unload');
  await page.click('#cache summary');
  await page.click('[data-testid=cache-delete]');
  await page.waitForSelector('#cache-empty', { state: 'visible' });
  await page.click('#load');
  await failed(page, 'You are offline, and this model is not in this browser yet.');
});

test('a demo model that was replaced on the server is loaded anew', async (t) => {
  const { server, page } = await open(t);
  await load(page);
  await page.reload();
  const config = Buffer.concat([readFileSync(join(ROOT, DIST, 'model/config.json')), Buffer.from('\n')]);
  const manifest = JSON.parse(readFileSync(join(ROOT, DIST, 'model/manifest.json'), 'utf8'));
  const entry = manifest.files.find(({ name }) => name === 'config.json');
  Object.assign(entry, { size: config.length, sha256: createHash('sha256').update(config).digest('hex') });
  const now = { [`${BASE}model/config.json`]: config, [`${BASE}model/manifest.json`]: JSON.stringify(manifest) };
  server.fault = (path, _, response) => path in now && Boolean(response.writeHead(200, { 'Content-Length': now[path].length }).end(now[path]));
  await page.reload();
  await page.waitForFunction(() => document.getElementById('cache-size').textContent !== '');
  assert.doesNotMatch(await page.textContent('#model-size'), /already/);
  server.requests.length = 0;
  await load(page);
  assert.ok(server.requests.some(({ path }) => path.endsWith('config.json')));
  assert.deepEqual(page.problems, []);
});

test('offline before the engine itself came', async (t) => {
  const { page } = await open(t);
  await offline(t, true);
  await page.click('#load');
  await failed(page, 'You are offline.');
  await offline(t, false);
  await load(page);
});

const weights = () => readFileSync(join(ROOT, DIST, 'model/model.safetensors'));

test('a download that is cancelled goes on where it ended', async (t) => {
  const { server, page } = await open(t);
  const file = weights();
  assert.ok(file.length > PART, 'weights of one part alone cannot be taken up');
  // A little more than a part, and then the connection hangs.
  server.fault = (path, _, response) => {
    if (path !== WEIGHTS) return false;
    response.writeHead(206, { 'Content-Range': `bytes 0-${file.length - 1}/${file.length}`, 'Content-Length': file.length });
    response.write(file.subarray(0, PART + 100_000));
    return true;
  };
  await page.click('#load');
  await page.waitForFunction((part) => parseFloat(document.getElementById('load-bytes').textContent) * 1e6 > part, PART);
  await page.waitForFunction(() => document.getElementById('load-rate').textContent === 'waiting for the server');
  assert.equal(await page.textContent('#load-phase'), 'Downloading');
  assert.ok((await page.locator('[data-testid=load-file]').count()) > 0);
  await shoot(page, 'loading', STILL);
  await page.click('#cancel-load');
  await says(page, 'Loading was cancelled.');
  await page.waitForFunction(() => document.getElementById('load').textContent === 'Continue loading');

  server.fault = undefined;
  server.requests.length = 0;
  await load(page);
  assert.deepEqual(weightsAsked(server).map(({ range }) => range), [`bytes=${PART}-`]);
  assert.match(await page.textContent('#load-bytes'), /\(continued\)$/);
  assert.deepEqual(page.problems, []);
});

test('a lost device: the page says so, and the next run works', async (t) => {
  const { page } = await open(t);
  await load(page);
  await page.fill('#length', '4');
  // The device that the engine uses, caught in its worker as it goes by.
  const worker = page.workers().at(-1);
  await worker.evaluate(() => {
    const { createCommandEncoder } = GPUDevice.prototype;
    GPUDevice.prototype.createCommandEncoder = function (...args) {
      self.device = this;
      return createCommandEncoder.apply(this, args);
    };
  });
  const lose = () => worker.evaluate(() => self.device.destroy());
  await run(page, '#infill');
  await lose();
  await says(page, 'The browser took the GPU away.');
  await page.click('#undo-all');
  await run(page, '#infill');
  assert.match(await page.textContent('#run-status'), /^2 of 2 holes filled/);

  // In the middle of a run: what was written stays.
  await page.selectOption('#example', { label: 'A class' });
  await slow(page, 300);
  const before = (await text(page)).split('<infill>')[0];
  await page.click('#infill');
  await page.waitForSelector('.gen');
  await lose();
  await page.waitForSelector('#run-message', { state: 'visible' });
  assert.equal(await page.textContent('#run-message strong'), 'The browser took the GPU away.');
  assert.ok((await text(page)).length > before.length);
  await slow(page, 0);
  await run(page, '#infill');
  assert.match(await page.textContent('#run-status'), /holes? filled/);
  assert.deepEqual(page.problems, []);
});

/** Answers a path with something else. */
const instead = (name, answer) => (path, request, response) => {
  if (path !== `${BASE}model/${name}`) return false;
  answer(response, request);
  return true;
};
const missing = (response) => response.writeHead(404, { 'Content-Type': 'text/plain' }).end('not found');
const garbage = (response) => response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': 6 }).end('{"oops');

const FAULTS = {
  'cut-short': {
    title: 'A downloaded file is damaged.',
    fault: instead('model.safetensors', (response) => {
      const half = weights().subarray(0, 3_000_000);
      response.writeHead(206, { 'Content-Range': `bytes 0-${half.length - 1}/${half.length}` }).end(half);
    }),
  },
  'breaks-off': { title: 'The download broke off.', fault: instead('model.safetensors', (response) => response.destroy()) },
  missing: { title: 'A file of the model is not there.', fault: instead('model.safetensors', missing) },
  manifest: {
    title: 'These files are not a model that this version can read.',
    fault: instead('manifest.json', garbage),
  },
  config: {
    title: 'These files are not a model that this version can read.',
    // Without a manifest there is no hash that would find out earlier.
    fault: (...args) => instead('manifest.json', missing)(...args) || instead('config.json', garbage)(...args),
  },
  'no-room': { title: 'The browser gives this page no more storage.', quotaSize: 1_000_000 },
};

test('whatever goes wrong with a download has a message of its own, and loading again works', async (t) => {
  const { server, page } = await open(t);
  const cdp = await chromium.newCDPSession(page);
  const details = new Set();
  for (const [name, { title, fault, quotaSize }] of Object.entries(FAULTS)) {
    server.fault = fault;
    await cdp.send('Storage.overrideQuotaForOrigin', { origin: server.url, quotaSize });
    await page.click('#load');
    await failed(page, title);
    details.add(await page.textContent('#load-message .detail'));
    await shoot(page, `error-${name}`, STILL);
  }
  assert.equal(details.size, Object.keys(FAULTS).length);
  server.fault = undefined;
  await cdp.send('Storage.overrideQuotaForOrigin', { origin: server.url });
  await load(page);
  assert.equal(await page.isHidden('#load-message'), true);
});

test('the page proposes the largest type of weights that takes half of the memory at most', async (t) => {
  const { page } = await open(t);
  const proposals = [];
  for (const [source, gib] of [['1b', 8], ['1b', 4], ['1b', 2], ['6b', 32], ['6b', 16], ['6b', 8], ['6b', undefined]]) {
    await page.evaluate((value) => Object.defineProperty(navigator, 'deviceMemory', { value, configurable: true }), gib);
    for (const choice of ['demo', source]) {
      await page.check(`#source-${choice}`, { force: true });
      await page.waitForFunction((choice) => document.getElementById('weights').dataset.proposedFor === choice, choice);
    }
    proposals.push(`${source} ${gib}: ${await page.inputValue('#weights')}`);
  }
  assert.deepEqual(proposals, ['1b 8: ', '1b 4: q8', '1b 2: q4', '6b 32: ', '6b 16: q8', '6b 8: q4', '6b undefined: ']);
  for (const type of ['q8', 'q4']) assert.match(await page.textContent('#model-fit'), new RegExp(`GB in ${type}`));
});
