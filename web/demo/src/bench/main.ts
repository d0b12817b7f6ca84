/** The benchmark page: what is asked for, one run at a time, and its figures as they come. */

import { InCoder } from 'incoder';
import type { LoadOptions, Probe } from 'incoder';
import { deviceName, fitText } from '../device.js';
import { byId, bytes, fact, make, number, offerCopy, plural } from '../dom.js';
import { isAbort, ofError, ofProbe, show } from '../messages.js';
import { PHASES } from '../progress.js';
import { followTheme } from '../theme.js';
import { offerCheck } from './check.js';
import { jobs } from './jobs.js';
import type { Settings } from './jobs.js';
import { SHAPES, configJson, randomModel } from './random.js';
import { figure, limitOf, tableHead, tableRow } from './report.js';
import type { Report } from './report.js';
import { Work } from './work.js';

type Name = keyof typeof SHAPES;
type Adapter = Extract<Probe, { ok: true }>;

/** What is said of each model, and what stands in the results. */
const MODELS: Record<Name, { title: string; about: string }> = {
  small: { title: 'small, random weights', about: 'Random weights, 29.4 million of them: a quick look at any GPU.' },
  '1B': { title: '1B, random weights', about: 'Random weights in the shape of InCoder-1B: 2.6 GB of them, made on the GPU.' },
  demo: { title: 'demo', about: 'The demo model, which this page brings along.' },
};

const DEMO_URL = new URL('./model/', document.baseURI).href;

const status = byId('bench-status', HTMLElement);
const pill = byId('bench-state', HTMLElement);
const message = byId('bench-message', HTMLElement);
const start = byId('bench-start', HTMLButtonElement);
const cancel = byId('bench-cancel', HTMLButtonElement);
const table = byId('bench-table', HTMLTableElement);
const json = byId('bench-json', HTMLTextAreaElement);
const inputs = {
  prompt: byId('bench-prompt', HTMLInputElement),
  new: byId('bench-new', HTMLInputElement),
  depths: byId('bench-depths', HTMLInputElement),
  repetitions: byId('bench-repetitions', HTMLInputElement),
  infill: byId('bench-infill', HTMLInputElement),
  limit: byId('bench-limit', HTMLInputElement),
};
const radios = [...document.querySelectorAll<HTMLInputElement>('input[name=model]')];
const probe: Promise<Probe> = InCoder.probe();

let abort: AbortController | null = null;
/** The model of the run before, on its way out: two at once may not fit. */
let leaving: Promise<void> = Promise.resolve();

const chosen = (): Name => radios.find(({ checked }) => checked)?.value as Name;

function say(text: string, state: 'none' | 'busy' | 'ready' | 'warn' | 'error', label: string): void {
  status.textContent = text;
  pill.dataset['state'] = state;
  pill.textContent = label;
}

/** The settings in the form; a sentence where one is wrong. */
function settings(): Settings | string {
  const whole = (input: HTMLInputElement): number => (input.validity.valid ? input.valueAsNumber : Number.NaN);
  const depths = inputs.depths.value.split(',').map((text) => (/^\s*\d+\s*$/.test(text) ? Number(text) : Number.NaN));
  const read = { prompt: whole(inputs.prompt), new: whole(inputs.new), repetitions: whole(inputs.repetitions) };
  if (Object.values(read).some(Number.isNaN)) return 'One of the numbers is not a whole number in its range.';
  if (depths.some(Number.isNaN)) return 'The depths are whole numbers with commas between them, such as 0, 512.';
  return { ...read, depths, infill: inputs.infill.checked };
}

/** One bar for all of it: every step counts the same. */
class Steps {
  private done = 0;
  constructor(private readonly total: number) {}

  begin(what: string): void {
    byId('bench-step', HTMLElement).textContent = what;
    this.draw(0);
  }

  /** How far the present step is. */
  draw(share: number): void {
    const part = (this.done + share) / this.total;
    byId('bench-bar', HTMLProgressElement).value = part;
    byId('bench-percent', HTMLElement).textContent = `${Math.round(100 * part)} %`;
  }

  end(): void {
    this.done += 1;
    this.draw(0);
  }
}

/** Measures, and shows each row as it comes. */
async function measure(found: Adapter, name: Name, asked: Settings, withLimit: boolean, signal: AbortSignal): Promise<Report> {
  const { repetitions } = asked;
  const jobCount = Number(asked.prompt > 0) + (asked.new > 0 ? asked.depths.length : 0) + (asked.infill ? 2 : 0);
  const steps = new Steps(Number(withLimit) + 1 + jobCount * (repetitions + 1));
  byId('bench-facts', HTMLElement).replaceChildren(fact('GPU', `${deviceName(found)}${found.software ? ', software' : ''}`, 'bench-device'));

  let limit: Report['limit'] = null;
  if (withLimit) {
    steps.begin('What the GPU reads at most');
    limit = limitOf(await InCoder.measure({ signal }));
    const { buffer, texture, dispatch_us, round_trip_us } = limit;
    const ways = `buffers ${figure(buffer.gb_per_second)}, textures ${figure(texture.gb_per_second)}`;
    byId('bench-facts', HTMLElement).append(
      fact('Reads at most', `${figure(limit.read_gb_per_second)} GB/s (${ways})`, 'bench-read'),
      fact('A dispatch, a round trip', `${figure(dispatch_us)} µs, ${figure(round_trip_us)} µs`, 'bench-costs'),
    );
    steps.end();
  }

  steps.begin('Loading the model');
  // What an earlier run left is freed first.
  await leaving;
  signal.throwIfAborted();
  let copied = 0;
  const options: LoadOptions = {
    signal,
    onProgress: ({ phase, done, total }) => {
      byId('bench-step', HTMLElement).textContent = `Loading the model: ${PHASES[phase].replace(/^./, (first) => first.toLowerCase())}`;
      if (phase === 'upload' && total > 0) copied = done / total;
      steps.draw(copied);
    },
  };
  const source = name === 'demo' ? { baseUrl: DEMO_URL } : { files: randomModel(SHAPES[name]), randomWeights: true };
  const engine = await InCoder.load(name === 'demo' ? 'demo' : 'random', { ...options, ...source });
  try {
    steps.end();
    const { info } = engine;
    const { weightBytes } = await found.fits({ config: configJson(SHAPES[name]) });
    const report: Report = {
      model: MODELS[name].title,
      parameters: info.parameters,
      weight_bytes: weightBytes,
      kv: info.kv,
      context_tokens: info.contextLength,
      repetitions,
      device: { name: deviceName(found), backend: 'webgpu', type: found.software ? 'software' : 'gpu', driver: '' },
      browser: navigator.userAgent,
      limit,
      rows: [],
      left_out: [],
    };
    byId('bench-facts', HTMLElement).append(
      fact('Model', `${report.model}; ${(info.parameters / 1e6).toFixed(1)} million parameters, ${bytes(weightBytes)}`),
      fact('Cache', `${info.kv}, ${number(info.contextLength)} tokens`),
    );
    const work = new Work(SHAPES[name], weightBytes, info.kv === 'f16' ? 2 : 4, info.prefillChunk);
    for (const job of jobs(asked, engine, work, limit?.read_gb_per_second ?? null, signal)) {
      if (job.need > info.contextLength) {
        report.left_out.push({ row: job.label, need_tokens: job.need, have_tokens: info.contextLength });
        for (let i = 0; i <= repetitions; i += 1) steps.end();
        continue;
      }
      const times = [];
      for (let repetition = 0; repetition <= repetitions; repetition += 1) {
        steps.begin(`${job.label}: ${repetition === 0 ? 'warming up' : `${repetition} of ${repetitions}`}`);
        times.push(await job.time(repetition));
        steps.end();
      }
      // The first one is the warm-up.
      const rows = job.rows(times.slice(1));
      report.rows.push(...rows);
      table.hidden = false;
      table.tBodies[0]?.append(...rows.map(tableRow));
    }
    return report;
  } finally {
    leaving = engine.dispose();
  }
}

async function run(): Promise<void> {
  const asked = settings();
  if (abort) return;
  if (typeof asked === 'string') return say(asked, 'error', 'not measured');
  abort = new AbortController();
  const name = chosen();
  show(message, null);
  table.hidden = true;
  table.tBodies[0]?.replaceChildren();
  byId('bench-notes', HTMLElement).hidden = true;
  byId('bench-export', HTMLElement).hidden = true;
  json.value = '';
  render(true);
  say(`Measuring with ${plural(asked.repetitions, 'repetition')} …`, 'busy', 'measuring');
  cancel.focus({ preventScroll: true });
  try {
    const found = await probe;
    if (found.ok) shown(await measure(found, name, asked, inputs.limit.checked, abort.signal));
    else {
      show(message, ofProbe(found));
      say('It could not be measured.', 'error', 'no WebGPU');
    }
  } catch (error) {
    if (abort.signal.aborted || isAbort(error)) {
      say(table.hidden ? 'Cancelled.' : 'Cancelled. The rows that were done stay.', 'warn', 'cancelled');
    } else {
      show(message, ofError(error));
      say('It could not be measured.', 'error', 'failed');
    }
  }
  abort = null;
  render(false);
  if ([cancel, document.body].includes(document.activeElement as HTMLElement)) start.focus({ preventScroll: true });
}

/** What comes after the last row. */
function shown(report: Report): void {
  const notes = report.left_out.map(
    ({ row, need_tokens, have_tokens }) => `Left out: ${row} takes ${number(need_tokens)} tokens, the context holds ${number(have_tokens)}.`,
  );
  byId('bench-notes', HTMLElement).replaceChildren(...notes.map((note) => make('li', {}, note)));
  byId('bench-notes', HTMLElement).hidden = notes.length === 0;
  json.value = `${JSON.stringify(report, null, 2)}\n`;
  byId('bench-export', HTMLElement).hidden = false;
  say(`Medians of ${plural(report.repetitions, 'repetition')}.`, 'ready', 'measured');
}

function render(running: boolean): void {
  start.hidden = running;
  cancel.hidden = !running;
  byId('bench-progress', HTMLElement).hidden = !running;
  for (const input of [...radios, ...Object.values(inputs)]) input.disabled = running;
}

async function describe(): Promise<void> {
  const name = chosen();
  byId('bench-about', HTMLElement).textContent = MODELS[name].about;
  const text = await fitText(await probe, { config: configJson(SHAPES[name]) });
  if (chosen() === name) byId('bench-fit', HTMLElement).textContent = `This GPU: ${text}`;
}

/** `?model=1B&p=128&n=32&d=0,512&r=3&infill=0&limit=0&start`: the form, filled in. */
function readAddress(): void {
  const query = new URLSearchParams(location.search);
  const texts = { p: inputs.prompt, n: inputs.new, d: inputs.depths, r: inputs.repetitions };
  for (const [key, input] of Object.entries(texts)) input.value = query.get(key) ?? input.value;
  for (const key of ['infill', 'limit'] as const) inputs[key].checked = query.get(key) !== '0';
  const model = radios.find(({ value }) => value === query.get('model'));
  if (model) model.checked = true;
  if (query.has('start')) void run();
}

table.tHead?.append(tableHead());
start.addEventListener('click', () => void run());
cancel.addEventListener('click', () => abort?.abort(new DOMException('cancelled', 'AbortError')));
for (const radio of radios) radio.addEventListener('change', () => void describe());
offerCopy(byId('bench-copy', HTMLButtonElement), json);
offerCheck(DEMO_URL);
followTheme();
readAddress();
void describe();
