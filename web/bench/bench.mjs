/**
 * How fast this engine is in Chromium, and beside it other engines of the same size of model. They are development only: nothing
 * of them is in the package, and what they need lies in this folder, with a lock file of its own.
 */

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ROOT, browser, serve } from '../test/support.mjs';

const HERE = join(ROOT, 'web/bench');
const DEMO = 'web/demo/dist';
/** What is timed. */
const PROMPT = 128;
const NEW = 32;
/** The small shape of `incoder bench`; GPT-2's architecture has a table of positions beside it. */
const SMALL = { layers: 8, d: 512, heads: 8, ffn: 2048, vocab: 8192, context: 2048 };
/** Longest time to load a model and warm up, or for all of our own page, milliseconds. */
const LOAD_MS = 300_000;
const OWN_MS = 1_800_000;

const json = (path) => JSON.parse(readFileSync(join(ROOT, path), 'utf8'));
const { dependencies } = json('web/bench/package.json');
const TRANSFORMERS = `transformers.js ${dependencies['@huggingface/transformers']}`;
const WLLAMA = `wllama ${dependencies['@wllama/wllama']}`;
const PEERS = {
  'transformers-webgpu': { engine: TRANSFORMERS, on: 'WebGPU', weights: 'fp32' },
  'transformers-wasm': { engine: TRANSFORMERS, on: 'wasm', weights: 'fp32' },
  'wllama-webgpu': { engine: WLLAMA, on: 'WebGPU', weights: 'fp16' },
  'wllama-wasm': { engine: WLLAMA, on: 'wasm', weights: 'fp16' },
};

const USAGE = `npm run bench -- [options]

  -r, --repetitions N   times that each counts; once more is done before, for warming up (3)
  -o, --output FORM     md or json (md)
      --shape SHAPE     small; or 1B, without peers (small)
      --peers LIST      some of ${Object.keys(PEERS).join(', ')} (all)
      --no-peers        none
      --seconds N       what a peer may take: it begins no repetition that is not done by then, and decodes no longer (60)
      --gpu             the machine's own GPU instead of SwiftShader
      --help            this text
`;

/** An error for people: its message is all there is to say. */
class Failure extends Error {}
/** A wrong command line. */
class Usage extends Failure {}

function options() {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        repetitions: { type: 'string', short: 'r', default: '3' },
        output: { type: 'string', short: 'o', default: 'md' },
        shape: { type: 'string', default: 'small' },
        peers: { type: 'string' },
        'no-peers': { type: 'boolean', default: false },
        seconds: { type: 'string', default: '60' },
        gpu: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new Usage(error.message);
  }
  const whole = (name) => {
    if (!/^[1-9]\d{0,4}$/.test(values[name])) throw new Usage(`--${name} is ${values[name]}, expected a whole number from 1 on`);
    return Number(values[name]);
  };
  const one = (name, ...allowed) => {
    if (!allowed.includes(values[name])) throw new Usage(`--${name} is ${values[name]}, expected ${allowed.join(' or ')}`);
    return values[name];
  };
  const { gpu, help } = values;
  const peers = values['no-peers'] ? [] : (values.peers ?? Object.keys(PEERS).join()).split(',').map((name) => name.trim());
  const unknown = peers.find((name) => !(name in PEERS));
  if (unknown !== undefined) throw new Usage(`there is no peer ${unknown}: ${Object.keys(PEERS).join(', ')}`);
  const shape = one('shape', 'small', '1B');
  if (shape !== 'small' && peers.length > 0) throw new Usage('peers have the small shape only: --no-peers');
  return { peers, shape, gpu, help, repetitions: whole('repetitions'), seconds: whole('seconds'), output: one('output', 'md', 'json') };
}

const note = (text) => process.stderr.write(`${text}\n`);

function command(program, ...args) {
  const { error, status, stdout, stderr } = spawnSync(program, args, { cwd: HERE, encoding: 'utf8' });
  if (error) throw new Failure(`${program}: ${error.message}`);
  const said = `${stdout}\n${stderr}`.trim().split('\n').at(-1);
  if (status !== 0) throw new Failure(`${program} ${args.slice(0, 3).join(' ')} failed: ${said}`);
}

/** Whether `made` is there and not older than what it was made from. */
const isNew = (made, ...from) => {
  const time = (path) => statSync(join(HERE, path)).mtimeMs;
  return existsSync(join(HERE, made)) && from.every((path) => time(path) <= time(made));
};

/** What the peers need: their packages, and a model for each of them. */
function prepare() {
  if (!isNew('node_modules/.package-lock.json', 'package-lock.json')) {
    note('installing the peers');
    command('npm', 'ci', '--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund');
  }
  if (!isNew('.venv/made', 'requirements.txt')) {
    note('installing what makes their models');
    command('python3', '-m', 'venv', '.venv');
    command('.venv/bin/pip', 'install', '--quiet', '--disable-pip-version-check', '-r', 'requirements.txt');
    writeFileSync(join(HERE, '.venv/made'), '');
  }
  if (!isNew('models/small/config.json', 'models.py')) {
    note('making their models');
    command('.venv/bin/python', 'models.py', 'models/small', JSON.stringify(SMALL));
  }
}

/** Runs `use` with a browser of its own, which is closed whatever happens, and ends it after `ms`. */
async function within(ms, gpu, use) {
  const context = await browser({ webgpu: gpu ? 'own' : true });
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Failure(`took longer than ${Math.round(ms / 1000)} s`)), ms);
  });
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(0);
    return await Promise.race([use(page), late]);
  } finally {
    clearTimeout(timer);
    await context.close();
  }
}

/** Our own page, with the settings of this run; its report. */
const own = (url, { shape, repetitions, gpu }) =>
  within(OWN_MS, gpu, async (page) => {
    await page.goto(`${url}/demo/bench.html?model=${shape}&p=${PROMPT}&n=${NEW}&d=${PROMPT}&r=${repetitions}&infill=0&start`);
    await page.waitForSelector('#bench-state[data-state=ready], #bench-state[data-state=error]');
    const made = await page.inputValue('#bench-json');
    if (made === '') throw new Failure(`the page says: ${await page.textContent('#bench-message')}`);
    return JSON.parse(made);
  });

/** A peer's times, as many as its time allows; the first ones are a warm-up. */
const timed = (url, name, { repetitions, seconds, gpu }) =>
  within(2 * LOAD_MS + 2000 * seconds, gpu, async (page) => {
    await page.goto(`${url}/`);
    await page.waitForFunction(() => 'load' in globalThis);
    const threads = await page.evaluate((name) => load(name), name);
    const run = (seed, count, ms) => page.evaluate((asked) => time(...asked), [PROMPT, seed, count, ms]);
    await run(1, 2, 0);
    const until = Date.now() + 1000 * seconds;
    const times = [];
    let longest = 0;
    // Another one is begun only if it fits: its time would cut it short.
    while (times.length < repetitions && (times.length === 0 || Date.now() + longest < until)) {
      const start = Date.now();
      times.push(await run(2 + times.length, NEW, 1000 * seconds));
      longest = Math.max(longest, Date.now() - start);
    }
    return { threads, times };
  });

/** Median, least and most. */
function spread(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const last = sorted.length - 1;
  return { median: (sorted[last >> 1] + sorted[(last + 1) >> 1]) / 2, min: sorted[0], max: sorted[last] };
}

/** The row of a peer; `ours` is what it is compared with. */
function peerRow(name, { threads, times }, ours) {
  const prefill = spread(times.map(({ promptMs }) => (PROMPT * 1e3) / promptMs));
  const decode = spread(times.map(({ decoded, decodeMs }) => (decoded * 1e3) / decodeMs));
  const ratio = { prefill: ours.prefill.median / prefill.median, decode: ours.decode.median / decode.median };
  return { ...PEERS[name], threads, prefill, decode, ratio, repetitions: times.length, new_tokens: times.map(({ decoded }) => decoded) };
}

const figure = (value) => value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3);

function markdown({ report, rows }) {
  const { device, limit, browser: agent } = report;
  const head = ['engine', 'on', 'weights', `prefill ${PROMPT}: tokens/s`, 'ours / it', `decode after ${PROMPT}: tokens/s`, 'ours / it', 'done'];
  const rate = ({ median, min, max }) => `${figure(median)} (${figure(min)} .. ${figure(max)})`;
  const lines = rows.map((row) => {
    const on = row.threads ? `${row.on}, ${row.threads} threads` : row.on;
    if (row.error) return [row.engine, on, row.weights, '', '', '', '', row.error];
    const news = [...new Set(row.new_tokens)].join(' and ');
    const done = `${row.repetitions} × (${PROMPT} + ${news} tokens)`;
    const [prefill, decode] = row.ratio ? [figure(row.ratio.prefill), figure(row.ratio.decode)] : ['', ''];
    return [row.engine, on, row.weights, rate(row.prefill), prefill, rate(row.decode), decode, done];
  });
  const table = [head, head.map((_, i) => (i < 3 || i === 7 ? '---' : '---:')), ...lines];
  return [
    `- model: ${report.model}, ${(report.parameters / 1e6).toFixed(1)}M parameters${rows.length > 1 ? "; the others': GPT-2's architecture in the same sizes" : ''}`,
    `- device: ${device.name} (${device.type}), reads ${figure(limit.read_gb_per_second)} GB/s; ${/Chrome\/[\d.]+/.exec(agent)?.[0] ?? agent}`,
    '- medians (least .. most), after one time that does not count; always the most probable token',
    '',
    ...table.map((cells) => `| ${cells.join(' | ')} |`),
    '',
  ].join('\n');
}

async function main() {
  const asked = options();
  if (asked.help) return process.stdout.write(USAGE);
  if (!existsSync(join(ROOT, DEMO, 'bench.html'))) throw new Failure(`${DEMO} is not built: cargo xtask web --build`);
  if (asked.peers.length > 0) prepare();
  const folders = {
    '/': 'web/bench/page',
    '/demo/': DEMO,
    '/models/peer/': 'web/bench/models/small',
    '/transformers/': 'web/bench/node_modules/@huggingface/transformers/dist',
    '/onnxruntime/': 'web/bench/node_modules/onnxruntime-web/dist',
    '/wllama/': 'web/bench/node_modules/@wllama/wllama/esm',
  };
  // Without isolation the peers would have one thread each.
  const isolated = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };
  const server = await serve(folders, isolated);
  try {
    note('incoder');
    const report = await own(server.url, asked);
    const of = (test) => report.rows.find((row) => row.test === test).tokens_per_second;
    const ours = {
      engine: `incoder ${json('web/package/package.json').version}`,
      on: 'WebGPU',
      weights: 'fp16',
      threads: null,
      prefill: of('prefill'),
      decode: of('decode'),
      repetitions: asked.repetitions,
      new_tokens: Array(asked.repetitions).fill(NEW),
    };
    const rows = [ours];
    for (const name of asked.peers) {
      note(name);
      const failed = (error) => ({ ...PEERS[name], error: error.message.split('\n')[0].replace(/^page\.\w+: (Error: )?/, '') });
      rows.push(await timed(server.url, name, asked).then((made) => peerRow(name, made, ours), failed));
    }
    const all = { prompt_tokens: PROMPT, new_tokens: NEW, report, rows };
    process.stdout.write(asked.output === 'json' ? `${JSON.stringify(all)}\n` : markdown(all));
  } finally {
    await server.close();
  }
}

main().catch((error) => {
  note(`bench: ${error instanceof Failure ? error.message : error.stack}`);
  process.exitCode = error instanceof Usage ? 2 : 1;
});
