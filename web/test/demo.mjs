/** What the tests of the built demo page share (`npx vite build` in web/demo first): a person at the page, with the real engine. */

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { ROOT, browser, serve } from './support.mjs';

export const DIST = 'web/demo/dist';
/** The page is never at the root of its server, so that every address in it has to be relative. */
export const BASE = '/some/where/';
export const WEIGHTS = `${BASE}model/model.safetensors`;
/** What the cache keeps at once: a download can be taken up only behind a whole part. */
export const PART = 4 << 20;
/** For screenshots: transitions at their end. */
export const STILL = { animations: 'disabled' };

/** The browser of a file's tests. Without service workers, which would answer in a server's stead. */
export let chromium;
before(async () => {
  assert.ok(existsSync(join(ROOT, DIST, 'index.html')), `${DIST} is not built`);
  chromium = await browser({ serviceWorkers: 'block' });
});
after(() => chromium?.close());

/** The page from a server of its own: another port is another origin, so each test begins with an empty cache. */
export async function open(t, { context = chromium, headers = {} } = {}) {
  const server = await serve({ [BASE]: DIST }, headers);
  const page = await context.newPage();
  t.after(async () => {
    await page.close();
    await server.close();
  });
  page.setDefaultTimeout(60_000);
  page.problems = [];
  page.on('console', (message) => {
    const blocked = message.text() === 'Service Worker registration blocked by Playwright';
    if (['error', 'warning'].includes(message.type()) && !blocked) page.problems.push(message.text());
  });
  page.on('pageerror', (error) => page.problems.push(String(error)));
  await page.goto(`${server.url}${BASE}`);
  return { server, page };
}

export const text = (page) => page.evaluate(() => window.incoderDemo.view.state.doc.toString());
export const says = (page, what) => page.waitForFunction((what) => document.getElementById('run-status').textContent.includes(what), what);
export const weightsAsked = (server) => server.requests.filter(({ path }) => path === WEIGHTS);

/** Loads the demo model with a click, and waits for it. */
export async function load(page) {
  await page.click('#load');
  await page.waitForSelector('#model-state[data-state=ready]');
}

/** Presses a button that writes into the editor, and waits until it is through. */
export async function run(page, button) {
  await page.click(button);
  await page.waitForFunction(() => document.getElementById('stop').disabled);
  assert.equal(await page.isHidden('#run-message'), true, await page.textContent('#run-message'));
}

/** Another text in the editor, the cursor behind its first `before` characters. */
export async function write(page, before, behind = '') {
  await page.click('.cm-content');
  await page.keyboard.press('Control+a');
  await page.keyboard.press('Delete');
  await page.keyboard.insertText(before + behind);
  await page.evaluate((at) => window.incoderDemo.view.dispatch({ selection: { anchor: at } }), before.length);
}

/** A slow GPU: every reading back takes `ms` longer, in the worker that the engine runs in. */
export const slow = (page, ms) =>
  page.workers().at(-1).evaluate((ms) => {
    const mapAsync = (self.mapAsync ??= GPUBuffer.prototype.mapAsync);
    GPUBuffer.prototype.mapAsync = async function (...args) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      return mapAsync.apply(this, args);
    };
  }, ms);

/** The numbers of the holes that are highlighted. */
export const highlighted = (page) =>
  page.evaluate(() => [...new Set([...document.querySelectorAll('.gen[data-hole]')].map((span) => span.dataset.hole))].sort());


/** Pulls the plug, or puts it back. */
export async function offline(t, off) {
  t.after(() => chromium.setOffline(false));
  await chromium.setOffline(off);
}

/** Waits for the message that loading failed, which has to say `title` and what to do. */
export async function failed(page, title) {
  await page.waitForSelector('#load-message', { state: 'visible' });
  assert.equal(await page.textContent('#load-message strong'), title);
  assert.notEqual(await page.textContent('#load-message p'), '');
  assert.equal(await page.textContent('#run-status'), 'The model could not be loaded.');
  assert.equal(await page.isEnabled('#load'), true);
}
