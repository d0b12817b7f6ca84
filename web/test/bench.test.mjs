/** The built benchmark page on SwiftShader, with settings so small that its figures say nothing. */

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { ROOT, browser, serve, shoot } from './support.mjs';

const DIST = 'web/demo/dist';
/** The page is never at the root of its server, so that every address in it has to be relative. */
const BASE = '/some/where/';

let chromium;
before(async () => {
  assert.ok(existsSync(join(ROOT, DIST, 'bench.html')), `${DIST} is not built`);
  chromium = await browser();
});
after(() => chromium?.close());

async function open(t, query) {
  const server = await serve({ [BASE]: DIST });
  const page = await chromium.newPage();
  t.after(async () => {
    await page.close();
    await server.close();
  });
  // The demo model takes a minute on a busy machine.
  page.setDefaultTimeout(240_000);
  page.problems = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) page.problems.push(message.text());
  });
  page.on('pageerror', (error) => page.problems.push(String(error)));
  await page.goto(`${server.url}${BASE}bench.html?${query}`);
  return page;
}

const positive = ({ median, min, max }) => min > 0 && min <= median && median <= max;

test('the demo model is measured, shown as a table and as JSON', async (t) => {
  const page = await open(t, 'model=demo&p=16&n=4&d=0,24,2044&r=2&start');
  await page.waitForSelector('#bench-state[data-state=ready], #bench-state[data-state=error]');
  assert.equal(await page.textContent('#bench-message'), '');
  assert.equal(await page.textContent('#bench-status'), 'Medians of 2 repetitions.');

  const report = JSON.parse(await page.inputValue('#bench-json'));
  const { limit, rows, device, left_out: left } = report;
  assert.deepEqual([report.model, report.repetitions, report.context_tokens, device.type], ['demo', 2, 2048, 'software']);
  assert.equal(report.parameters, 12_485_760);
  assert.ok(limit.read_gb_per_second > 0.01 && limit.dispatch_us > 0 && limit.round_trip_us > 0, JSON.stringify(limit));
  assert.equal(limit.read_gb_per_second, Math.max(limit.buffer.gb_per_second, limit.texture.gb_per_second));
  const shown = await page.$$eval('#bench-table tbody tr', (lines) => lines.map((line) => [...line.cells].map((cell) => cell.textContent)));
  assert.deepEqual(
    shown.map(([label]) => label),
    ['prefill 16', 'first token after 16', 'decode 4 at 0', 'decode 4 at 24', 'infill 256 _ 128, 32 new', 'infill, a token typed', 'infill, a token typed in it', 'infill, a line typed in it'],
  );
  assert.deepEqual(rows.map(({ label }) => label), shown.map(([label]) => label));
  assert.deepEqual(left, [{ row: 'decode 4 at 2044', need_tokens: 2049, have_tokens: 2048 }]);
  assert.match(await page.textContent('#bench-notes'), /^Left out: decode 4 at 2044 takes 2,049 tokens/);

  for (const row of rows) {
    assert.ok(positive(row.ms) && (row.ttft_ms === null || positive(row.ttft_ms)), JSON.stringify(row));
    // All of the weights are read for a token, and no faster than memory is.
    assert.ok(row.gb_per_second > 0 && row.limit_percent > 0 && row.limit_percent < 150, JSON.stringify(row));
  }
  const [prefill, first, decode, , infill, typed, begun] = rows;
  // A prompt of one step reads the weights once, and 16 rows of keys and values in 8 layers of 320 values, fp16.
  const read = report.weight_bytes + 16 * 2 * 8 * 320 * 2;
  assert.ok(Math.abs((prefill.gb_per_second * 1e6 * prefill.ms.median) / read - 1) < 1e-9);
  assert.ok(Math.abs(prefill.tokens_per_second.median - 16_000 / prefill.ms.median) < 1e-6);
  assert.ok(Math.abs(decode.ms_per_token - decode.ms.median / 4) < 1e-6);
  assert.ok(first.ms.min >= prefill.ms.min);
  // 387 tokens are read for the hole, and 132 of them for one typed.
  assert.ok(typed.ttft_ms.median < infill.ttft_ms.median && infill.ttft_ms.median < infill.ms.median);
  assert.ok(begun.ttft_ms.median < typed.ttft_ms.median && begun.depth_tokens === 395);
  assert.deepEqual(page.problems, []);
  await shoot(page, 'bench', { fullPage: true, animations: 'disabled' });
});

test('this GPU is checked, and the report can be copied', async (t) => {
  const page = await open(t, '');
  await page.click('#check-start');
  await page.waitForSelector('#check-state[data-state=ready], #check-state[data-state=error]', { timeout: 120_000 });
  const report = await page.inputValue('#check-report');
  assert.equal(await page.textContent('#check-status'), 'This GPU computes right.', report);
  assert.match(report, /^InCoder, Mozilla.*\ngoogle, swiftshader, software\nlimits \{.*maxBufferSize.*\n\nkernels with subgroups: right; farthest off: /);
  const { ids } = JSON.parse(readFileSync(join(ROOT, 'examples/demo-model/greedy.json'), 'utf8'));
  for (const way of ['with subgroups, f16', 'with subgroups, f32', 'without subgroups, f16', 'without subgroups, f32']) {
    assert.ok(report.includes(`greedy tokens of the demo model ${way} cache: right, ${ids.length} of ${ids.length}\n`), report);
  }
  assert.ok(report.endsWith('\n\nThis GPU computes right.\n'), report);
  await page.click('#check-copy');
  assert.deepEqual(page.problems, []);
});

test('Cancel ends it at once, and the next run begins anew', async (t) => {
  const page = await open(t, 'model=small&p=8&n=2&d=0&r=1&start');
  /** Clicks Cancel, and says how it stands right after that. */
  const cancel = () =>
    page.evaluate(async () => {
      document.getElementById('bench-cancel').click();
      await new Promise((resolve) => setTimeout(resolve));
      const { textContent } = document.getElementById('bench-status');
      return [document.getElementById('bench-state').dataset.state, textContent, document.getElementById('bench-start').hidden];
    });
  await page.waitForFunction(() => document.getElementById('bench-step').textContent === 'What the GPU reads at most');
  assert.deepEqual(await cancel(), ['warn', 'Cancelled.', false]);

  // Random weights; in the middle of the hole, which takes seconds.
  await page.click('#bench-more summary');
  await page.uncheck('#bench-limit');
  await page.click('#bench-start');
  await page.waitForFunction(() => document.getElementById('bench-step').textContent.startsWith('infill'));
  assert.deepEqual(await cancel(), ['warn', 'Cancelled. The rows that were done stay.', false]);
  assert.equal(await page.locator('#bench-table tbody tr').count(), 3);
  assert.equal(await page.isHidden('#bench-export'), true);

  await page.uncheck('#bench-infill');
  await page.click('#bench-start');
  await page.waitForSelector('#bench-state[data-state=ready], #bench-state[data-state=error]');
  const report = JSON.parse(await page.inputValue('#bench-json'));
  assert.deepEqual([report.model, report.parameters, report.limit], ['small, random weights', 29_414_400, null]);
  assert.deepEqual(report.rows.map(({ test }) => test), ['prefill', 'first_token', 'decode']);
  assert.equal(report.rows[2].limit_percent, null);
  assert.deepEqual(page.problems, []);

  await page.fill('#bench-depths', '0, many');
  await page.click('#bench-start');
  assert.match(await page.textContent('#bench-status'), /whole numbers with commas/);
});
