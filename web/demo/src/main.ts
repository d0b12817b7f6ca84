/** Wiring: what the panels report becomes one state, and the state is drawn. */

import { undo } from '@codemirror/commands';
import type { EditorView } from '@codemirror/view';
import { InCoder } from 'incoder';
import type { Probe } from 'incoder';
import { ghostText } from 'incoder/codemirror';
import { showDevice } from './device.js';
import { byId, make, number } from './dom.js';
import { addMask, createEditor, markers, replaceText, setGhostText, setLanguage } from './editor.js';
import { examples } from './examples.js';
import type { Language } from './examples.js';
import { ModelPanel } from './loading.js';
import { isAbort, ofError, show } from './messages.js';
import { Runner } from './run.js';
import type { RunReport, RunSettings } from './run.js';
import { followTheme } from './theme.js';

declare global {
  interface Window {
    /** For browser tests. */
    incoderDemo: { readonly view: EditorView; readonly engine: InCoder | null };
  }
}

const state = { engine: null as InCoder | null, loading: false, running: false };

const status = byId('run-status', HTMLElement);
const message = byId('run-message', HTMLElement);
const length = byId('length', HTMLInputElement);
const temperature = byId('temperature', HTMLInputElement);
const seed = byId('seed', HTMLInputElement);
const language = byId('language', HTMLSelectElement);

/** Says it once: a status line that is set to the same text again would be read out again. */
function say(text: string): void {
  if (status.textContent !== text) status.textContent = text;
}

function settings(): RunSettings {
  return {
    maxTokens: length.valueAsNumber,
    temperature: temperature.valueAsNumber,
    seed: Math.min(4294967295, Math.max(0, Math.trunc(seed.valueAsNumber) || 0)),
  };
}

/** Everything that depends on the state, drawn anew. */
function render(): void {
  const { engine, loading, running } = state;
  const ready = engine !== null && !running;
  byId('infill', HTMLButtonElement).disabled = !ready;
  byId('extend', HTMLButtonElement).disabled = !ready;
  byId('add-mask', HTMLButtonElement).disabled = running;
  byId('stop', HTMLButtonElement).disabled = !running;
  byId('undo-all', HTMLButtonElement).disabled = running || !runner.canUndo;
  byId('unload', HTMLButtonElement).disabled = running;
  byId('example', HTMLSelectElement).disabled = running;
  byId('editor', HTMLElement).ariaBusy = String(running);
  byId('sheet', HTMLElement).classList.toggle('busy', running);
  if (!engine && !loading && status.textContent === '') say('No model is loaded yet.');
  byId('length-value', HTMLElement).textContent = `${length.value} tokens`;
  byId('temperature-value', HTMLElement).textContent =
    temperature.valueAsNumber === 0 ? 'most probable' : temperature.valueAsNumber.toFixed(2);
}

function report({ status: text, notes, speed, ttft, reused }: RunReport): void {
  say(text);
  const list = byId('run-notes', HTMLElement);
  list.hidden = notes.length === 0;
  list.replaceChildren(...notes.map((note) => make('li', {}, note)));
  if (ttft !== undefined) byId('run-stats', HTMLElement).hidden = false;
  if (speed !== undefined) byId('stat-speed', HTMLElement).textContent = speed;
  if (ttft !== undefined) byId('stat-ttft', HTMLElement).textContent = ttft;
  if (reused !== undefined) byId('stat-reused', HTMLElement).textContent = reused;
}

/** A server that is not there is no download that broke off. */
const during = (): 'run' | 'connect' => (state.engine?.info.server === undefined ? 'run' : 'connect');

// The editor, and the runs that write into it.

const run = (kind: 'infill' | 'extend'): void => {
  if (state.running) return;
  if (!state.engine) return say('Load a model first.');
  void runner[kind](state.engine, settings());
};

const view = createEditor(byId('editor', HTMLElement), {
  infill: () => run('infill'),
  extend: () => run('extend'),
  addMask: () => addMask(view),
  stop: () => runner.stop(),
  changed: () => measureSoon(),
});

const runner: Runner = new Runner(view, {
  report,
  running(running) {
    state.running = running;
    if (running) show(message, null);
    render();
    // Disabled buttons lose the focus, at once or a little later.
    const held = document.activeElement;
    const lost = held === document.body || (held instanceof HTMLButtonElement && held.disabled);
    if (lost && !running) byId('infill', HTMLButtonElement).focus({ preventScroll: true });
    measureSoon();
  },
  failed: (error) => show(message, ofError(error, during())),
});

byId('infill', HTMLButtonElement).addEventListener('click', () => run('infill'));
byId('extend', HTMLButtonElement).addEventListener('click', () => run('extend'));
byId('add-mask', HTMLButtonElement).addEventListener('click', () => addMask(view));
byId('stop', HTMLButtonElement).addEventListener('click', () => runner.stop());
byId('undo-all', HTMLButtonElement).addEventListener('click', () => {
  runner.undoAll();
  render();
});

// Undo works after a press of a button, too, which keeps the focus: no field of the page has text of its own to undo.
document.addEventListener('keydown', (event) => {
  const focused = event.target as HTMLElement;
  if (event.defaultPrevented || focused.closest('.cm-editor, input, select')) return;
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === 'z' && undo(view)) event.preventDefault();
});

// Examples.

const choice = byId('example', HTMLSelectElement);
choice.append(...examples.map(({ name }, i) => make('option', { value: String(i) }, name)));

function open(index: number): void {
  const example = examples[index];
  if (!example) return;
  language.value = example.language;
  setLanguage(view, example.language);
  length.value = String(example.length);
  byId('example-hint', HTMLElement).textContent = example.hint;
  replaceText(view, example.text);
  runner.forget();
  show(message, null);
  render();
}

choice.addEventListener('change', () => open(Number(choice.value)));

/** A server fills one hole at a time: an example with more makes room for one that it can fill, unless somebody edited it. */
function openForServer(): void {
  const shown = examples[Number(choice.value)];
  if (!shown || view.state.doc.toString() !== shown.text || markers(shown.text).length < 2) return;
  const fillable = examples.findIndex(({ text }) => markers(text).length === 1);
  choice.value = String(fillable);
  open(fillable);
}
language.addEventListener('change', () => setLanguage(view, language.value as Language));

// Settings.

for (const input of [length, temperature]) {
  input.addEventListener('input', () => {
    render();
    measureSoon();
  });
}
byId('seed-random', HTMLButtonElement).addEventListener('click', () => {
  seed.value = String(crypto.getRandomValues(new Uint16Array(1))[0]);
});

const ghostToggle = byId('ghost-toggle', HTMLInputElement);
const ghostLine = byId('ghost-line', HTMLInputElement);
for (const input of [ghostToggle, ghostLine]) {
  input.addEventListener('change', () => {
    byId('ghost-options', HTMLElement).hidden = !ghostToggle.checked;
    setGhostText(view, ghostToggle.checked ? suggestions() : []);
  });
}

function suggestions(): ReturnType<typeof ghostText> {
  return ghostText({
    // While a run has the engine, a suggestion would end it.
    engine: () => (state.running ? null : state.engine),
    singleLine: ghostLine.checked,
    onError: (error) => {
      if (!isAbort(error)) show(message, ofError(error, during()));
    },
  });
}

// The context meter.

let measuring: ReturnType<typeof setTimeout> | undefined;

function measureSoon(): void {
  clearTimeout(measuring);
  measuring = setTimeout(() => void measure(), 300);
}

async function measure(): Promise<void> {
  const { engine } = state;
  const meter = byId('meter', HTMLElement);
  const caption = byId('meter-text', HTMLElement);
  if (!engine) {
    caption.textContent = '';
    meter.hidden = true;
    return;
  }
  if (state.running) return;
  const text = view.state.doc.toString();
  const holes = markers(text).length;
  let used: number;
  try {
    // A marker is not text: in its place come two sentinels, and one more at the end.
    used = (await engine.tokenizer.count(text.replaceAll('<infill>', ''))) + (holes > 0 ? 2 * holes + 1 : 0);
  } catch {
    caption.textContent = ''; // a text that spells a sentinel: the run says so
    return;
  }
  const context = engine.info.contextLength;
  // Each hole is filled by itself, with what is around it in view; a new text has at most half of the context kept for it.
  const reserved = Math.min(length.valueAsNumber, context / 2);
  // Of a text that is too long the model reads what is nearest to the hole, or to the cursor.
  const room = context - reserved;
  const read = Math.min(used, room);
  const percent = (count: number): string => `${Math.min(100, (100 * count) / context)}%`;
  meter.hidden = false;
  meter.ariaValueMax = String(context);
  meter.ariaValueNow = String(read);
  byId('meter-used', HTMLElement).style.width = percent(read);
  byId('meter-reserved', HTMLElement).style.width = percent(Math.min(reserved, context - read));
  caption.textContent = meterText(used, room, context, holes);
  meter.ariaValueText = caption.textContent;
}

function meterText(used: number, room: number, context: number, holes: number): string {
  if (used <= room) return `${number(used)} of ${number(context)} tokens`;
  const where = holes > 1 ? 'to each hole' : holes === 1 ? 'to the hole' : 'before the cursor';
  return `${number(used)} tokens; the model reads about ${number(room)}, those nearest ${where}`;
}

// The model and the device.

function watch(engine: InCoder): void {
  void engine.lost.then(({ reason }) => {
    if (reason !== 'lost' || state.engine !== engine) return;
    say('The browser took the GPU away. The next run loads the model again by itself.');
    watch(engine); // by now `lost` is the promise of the next loss
  });
}

const probe: Promise<Probe> = InCoder.probe();
void probe.then(showDevice);
new ModelPanel(probe, {
  engine(engine) {
    state.engine = engine;
    if (engine) watch(engine);
    if (engine?.info.server !== undefined) openForServer();
    render();
    measureSoon();
  },
  loading(loading) {
    state.loading = loading;
    render();
  },
  status: say,
});

followTheme();

if (/Mac|iPhone|iPad/.test(navigator.platform)) {
  for (const key of document.querySelectorAll('kbd.mod, #word-key')) key.textContent = '⌘';
}

// From the second visit on the page opens without a network, too. A browser that forbids it loses nothing else.
if (import.meta.env.PROD) void navigator.serviceWorker?.register('./offline.js').catch(() => undefined);

open(0);
window.incoderDemo = {
  view,
  get engine() {
    return state.engine;
  },
};
