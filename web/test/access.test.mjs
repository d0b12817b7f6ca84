/** The built demo page for everybody: with the keyboard alone, on a phone, without a network, without WebGPU, read aloud. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { STILL, load, open, run, says, slow, text, write } from './demo.mjs';
import { browser, shoot } from './support.mjs';

test('no WebGPU: the page says so, and the editor works', async (t) => {
  const bare = await browser({ webgpu: false });
  t.after(() => bare.close());
  const { page } = await open(t, { context: bare });
  await page.waitForSelector('#device-message', { state: 'visible' });
  assert.equal(await page.textContent('#device-state'), 'no WebGPU');
  assert.match(await page.textContent('#device-message strong'), /^(This browser has no WebGPU|The browser found no GPU)/);
  // Nothing is offered that cannot work, and beside the editor it is said why.
  assert.deepEqual([await page.isDisabled('#load'), await page.isHidden('#quick-load')], [true, true]);
  assert.match(await page.textContent('#run-status'), /^No model can be loaded here\. (This browser has no WebGPU|The browser found no GPU)/);
  await page.check('#source-1b', { force: true });
  assert.equal(await page.isDisabled('#load'), true);
  await write(page, 'x = 1');
  assert.equal(await text(page), 'x = 1');
  await shoot(page, 'no-webgpu', STILL);
});

test('the keyboard alone loads a model, fills the holes and stops', async (t) => {
  const { page } = await open(t);
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.className);
  /** Tab after Tab until `id` has the focus, out of the editor the way that the page tells. */
  const reach = async (id) => {
    const way = [];
    while (way.at(-1) !== id && way.length < 40) {
      if (/cm-content/.test(way.at(-1))) await page.keyboard.press('Escape');
      await page.keyboard.press('Tab');
      way.push(await focused());
    }
    assert.equal(way.at(-1), id, way.join(' → '));
    assert.ok(await page.evaluate(() => document.activeElement.matches(':focus-visible')));
  };
  await reach('quick-load');
  await page.keyboard.press('Enter');
  await page.waitForSelector('#model-state[data-state=ready]');
  await page.waitForFunction(() => document.activeElement.id === 'infill');
  await page.fill('#length', '4');
  await reach('infill');
  await page.keyboard.press('Enter');
  await says(page, '2 of 2 holes filled');
  assert.equal(await focused(), 'infill', 'the focus is where it was');

  // From a run, the next Tab leads to Stop.
  await page.click('#undo-all');
  await slow(page, 300);
  await reach('infill');
  await page.keyboard.press('Enter');
  await page.waitForSelector('.gen');
  await reach('stop');
  await page.keyboard.press('Enter');
  await says(page, 'Stopped.');
  assert.equal(await focused(), 'infill');
  assert.deepEqual(page.problems, []);
});

test('360 pixels wide: nothing sticks out', async (t) => {
  const { page } = await open(t);
  await page.setViewportSize({ width: 360, height: 740 });
  await page.waitForFunction(() => document.getElementById('device-state').textContent === 'software');
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  await shoot(page, 'phone', { ...STILL, fullPage: true });
  await load(page);
  await page.fill('#length', '4');
  await run(page, '#infill');
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
  await shoot(page, 'phone-filled', STILL);
  assert.deepEqual(page.problems, []);
});

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core'), 'utf8');

/** What axe-core finds on the page as it is: the rule, and where. */
const violations = (page) =>
  page.evaluate(async () => {
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
    const { violations } = await axe.run(document, { runOnly: { type: 'tag', values: tags } });
    return violations.map(({ id, nodes }) => [id, nodes.slice(0, 3).map(({ target, any }) => `${target}: ${any[0]?.message ?? ''}`)]);
  });

test('axe-core finds nothing: both themes, wide and on a phone, every panel open', async (t) => {
  const { server, page } = await open(t);
  await page.evaluate(AXE);
  await page.waitForFunction(() => document.getElementById('device-state').textContent === 'software');
  const look = async (what) => {
    for (const theme of ['light', 'dark']) {
      await page.evaluate((theme) => (document.documentElement.dataset.theme = theme), theme);
      for (const [width, height] of [[1280, 900], [390, 844]]) {
        await page.setViewportSize({ width, height });
        assert.deepEqual(await violations(page), [], `${what}, ${theme}, ${width} pixels`);
      }
    }
  };
  await look('as it opens');
  await page.evaluate(() => document.querySelectorAll('details').forEach((panel) => (panel.open = true)));
  await page.check('#ghost-toggle', { force: true });
  for (const source of ['1b', 'disk']) {
    await page.check(`#source-${source}`, { force: true });
    await look(`the source ${source}`);
  }
  await page.check('#source-demo', { force: true });
  server.fault = (path, _, response) => path.includes('/model/') && Boolean(response.writeHead(404).end());
  await page.click('#load');
  await page.waitForSelector('#load-message', { state: 'visible' });
  await look('with an error');
  server.fault = undefined;
  // A text that is longer than the editor is high, with what the model wrote in it.
  await load(page);
  await page.fill('#length', '4');
  await write(page, `x = <infill>\n${'value = 1\n'.repeat(80)}y = `, '<infill>\n');
  await run(page, '#infill');
  await look('loaded');
  await page.goto(page.url() + 'bench.html');
  await page.evaluate(AXE);
  await look('the measurement');
});

test('the meter says what the model reads of a text that is too long, and the run does it', async (t) => {
  const { page } = await open(t);
  await load(page);
  const meter = (what) => page.waitForFunction((what) => new RegExp(what).test(document.getElementById('meter-text').textContent), what);
  await page.fill('#temperature', '0');
  await meter('^[\\d,]+ of 2,048 tokens$');
  // As little room for the text as can be, which then is soon computed; the model ends the hole long before its length.
  await page.evaluate(() => (document.getElementById('length').max = '1024'));
  await page.fill('#length', '1024');
  const [before, after] = ['def add(a, b):\n    return a + b\n\n', '\n\ndef mul(a, b):\n    return a * b'];
  await write(page, `${before.repeat(50)}def sub(a, b):\n    return `, `<infill>${after.repeat(50)}\n`);
  await meter('^[\\d,]+ tokens; the model reads about 1,024, those nearest to the hole$');
  const [, used] = /^([\d,]+) tokens/.exec(await page.textContent('#meter-text'));
  assert.ok(Number(used.replaceAll(',', '')) > 1024, used);
  await run(page, '#infill');
  assert.match(await page.textContent('#run-notes'), /the model was shown lines \d+ to \d+\.$/);
  const [, read] = /of ([\d,]+)$/.exec(await page.textContent('#stat-reused'));
  assert.ok(Math.abs(Number(read.replaceAll(',', '')) - 1024) < 60, read);
});

test('without a network the page opens again, with the model', async (t) => {
  const context = await browser();
  t.after(() => context.close());
  const { server, page } = await open(t, { context });
  await page.evaluate(() => navigator.serviceWorker.ready);
  await load(page);
  await context.setOffline(true);
  await server.close();
  for (const address of [page.url(), `${page.url()}bench.html`]) {
    await page.goto(address);
    assert.notEqual(await page.title(), '');
  }
  await page.goBack();
  await page.waitForFunction(() => document.getElementById('model-size').textContent.includes('in this browser already'));
  assert.match(await page.textContent('#model-size'), /^[\d.]+ MB, in this browser already$/);
  await load(page);
  await page.fill('#length', '4');
  await run(page, '#infill');
  assert.match(await page.textContent('#run-status'), /^2 of 2 holes filled/);
});
