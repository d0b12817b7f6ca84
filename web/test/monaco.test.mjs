/** The web IDE of examples/web-ide, built as its author would: Monaco shows what the model writes, and Tab accepts it. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, test } from 'node:test';
import { browser, ROOT, serve, shoot } from './support.mjs';

const FOLDER = 'examples/web-ide';

let server;
let chromium;
before(async () => {
  const npm = (...args) => execFileSync('npm', args, { cwd: ROOT + FOLDER, stdio: ['ignore', 'ignore', 'inherit'] });
  npm('ci', '--no-audit', '--no-fund', '--prefer-offline');
  npm('run', '--silent', 'build', '--', '--logLevel', 'error');
  server = await serve({ '/': `${FOLDER}/dist` });
  chromium = await browser();
});
after(async () => {
  await chromium?.close();
  await server?.close();
});

test('Monaco shows the suggestion, keeps it while it is typed, and Tab accepts it', async () => {
  const page = await chromium.newPage();
  const errors = [];
  // Monaco leaves the promise of a request that it gave up itself without anybody who waits for it.
  page.on('pageerror', (error) => error.message === 'Canceled' || errors.push(error.message));
  await page.goto(server.url);
  await page.getByText('Ready').waitFor({ timeout: 60_000 });
  const shown = page.locator('[class*="ghost-text"]').first();
  // Monaco renders blanks as such that do not break.
  const lines = async () => (await page.locator('.view-lines').innerText()).replaceAll('\u00a0', ' ');
  await page.keyboard.type('r');
  await shown.waitFor({ timeout: 60_000 });
  const [suggestion] = (await shown.innerText()).replaceAll('\u00a0', ' ').split('\n');
  assert.ok(suggestion.startsWith('e'), suggestion);
  await page.keyboard.type('e');
  await page.waitForFunction((rest) => document.querySelector('[class*="ghost-text"]')?.textContent.replaceAll('\u00a0', ' ').startsWith(rest), suggestion.slice(1));
  await shoot(page, 'web-ide');
  await page.keyboard.press('Tab');
  await shown.waitFor({ state: 'detached' });
  assert.match(await lines(), /multiply\(a, b\):\n? *return/);
  assert.deepEqual(errors, []);
  await page.close();
});
