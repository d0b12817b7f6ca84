/** Extend, Infill, Stop and Undo all: the model's tokens on their way into the editor. */

import { isolateHistory } from '@codemirror/commands';
import { EditorView } from '@codemirror/view';
import type { FinishReason, GenerateOptions, Generation, InCoder, Infilling, TokenEvent, Window } from 'incoder';
import { duration, number, plural } from './dom.js';
import { MARKER, markers, runField, setCurrent, setRegions, setRunning } from './editor.js';
import type { Region } from './editor.js';
import { isAbort } from './messages.js';

export interface RunSettings {
  maxTokens: number;
  temperature: number;
  seed: number;
}

/** What the page shows of the run; everything but `status` changes too often to be read out. */
export interface RunReport {
  status: string;
  notes: string[];
  speed?: string;
  ttft?: string;
  reused?: string;
}

export interface RunHooks {
  report(report: RunReport): void;
  running(running: boolean): void;
  failed(error: unknown): void;
}

/** One place where the model writes. */
interface Slot {
  /** Where it begins in the editor now. */
  from: number;
  /** What stands there now. */
  shown: string;
  /** What the model wrote, or null while a hole has not been begun. */
  text: string | null;
  finish: FinishReason | null;
}

const NOTES: Partial<Record<FinishReason, string>> = {
  length: 'length limit',
  context: 'context full',
  time: 'time limit',
  cancelled: 'stopped',
};

/** Line breaks as the editor counts them; the last characters may change while a \r waits for its \n. */
const lines = (text: string): string => text.replace(/\r\n?/g, '\n');

/** One run in the editor; one step of the undo history, however long it takes. */
class Writing {
  private readonly dirty = new Set<Slot>();
  private frame = 0;
  private follow = true;
  private begun = false;

  constructor(
    private readonly view: EditorView,
    readonly slots: Slot[],
    private readonly placeholder: string,
  ) {
    // Someone who scrolls wants to read elsewhere.
    for (const event of ['wheel', 'touchmove', 'pointerdown'] as const) {
      view.scrollDOM.addEventListener(event, () => (this.follow = false), { once: true, passive: true });
    }
    const earlier = view.state.field(runField).regions.map((region) => ({ ...region, current: false, note: '' }));
    view.dispatch({ effects: [setRunning.of(true), setRegions.of(earlier), setCurrent.of(this.regions(slots[0]))] });
  }

  add(slot: Slot, text: string): void {
    slot.text = (slot.text ?? '') + text;
    this.touch(slot);
  }

  /** An infill begins anew: the holes are holes again. */
  restart(): void {
    for (const slot of this.slots) {
      Object.assign(slot, { text: null, finish: null });
      this.touch(slot);
    }
  }

  finish(): void {
    for (const slot of this.slots) this.dirty.add(slot);
    cancelAnimationFrame(this.frame);
    this.flush();
    const { main } = this.view.state.selection;
    const [only] = this.slots;
    this.view.dispatch({
      effects: [setRunning.of(false), setCurrent.of(this.regions())],
      // After Extend the cursor stands behind the new text, so that it can be pressed again.
      selection: this.placeholder === '' && only ? { anchor: only.from + only.shown.length } : main,
      annotations: isolateHistory.of('full'),
    });
  }

  private touch(slot: Slot): void {
    this.dirty.add(slot);
    // One update a frame is all that can be seen.
    if (this.frame === 0) this.frame = requestAnimationFrame(() => this.flush());
  }

  private flush(): void {
    this.frame = 0;
    for (const slot of this.dirty) this.replace(slot, slot.text === null ? this.placeholder : lines(slot.text));
    this.dirty.clear();
  }

  private replace(slot: Slot, next: string): void {
    if (next === slot.shown) return;
    const kept = next.startsWith(slot.shown) ? slot.shown.length : 0;
    const change = { from: slot.from + kept, to: slot.from + slot.shown.length, insert: next.slice(kept) };
    for (const later of this.slots.slice(this.slots.indexOf(slot) + 1)) later.from += next.length - slot.shown.length;
    slot.shown = next;
    const end = EditorView.scrollIntoView(slot.from + next.length, { y: 'nearest' });
    this.view.dispatch({
      changes: change,
      // The one kind of event that the history joins to the one before it however much later it comes.
      ...(this.begun ? { userEvent: 'input.type.compose' } : { annotations: isolateHistory.of('before') }),
      effects: [setCurrent.of(this.regions(slot)), ...(this.follow ? [end] : [])],
    });
    this.begun = true;
  }

  /** The regions as they are; without `writing` the run is over. */
  private regions(writing?: Slot): Region[] {
    return this.slots.flatMap((slot, i): Region[] => {
      if (slot.text === null) return [];
      const { from, shown, finish } = slot;
      const note = (!writing && finish && NOTES[finish]) || '';
      return [{ from, to: from + shown.length, hole: i + 1, current: true, writing: slot === writing, note }];
    });
  }
}

export class Runner {
  private abort: AbortController | null = null;
  /** The text before the first generation. */
  private baseline: string | null = null;

  constructor(
    private readonly view: EditorView,
    private readonly hooks: RunHooks,
  ) {}

  get canUndo(): boolean {
    return this.baseline !== null;
  }

  /** Continues at the cursor; at the end where nothing stands before the cursor. */
  async extend(engine: InCoder, settings: RunSettings): Promise<void> {
    const { doc, selection } = this.view.state;
    const before = doc.sliceString(0, selection.main.to);
    const at = before.trim() === '' ? doc.length : selection.main.to;
    const prompt = doc.sliceString(0, at);
    if (prompt.trim() === '') return this.say('Type something first: Extend continues the text before the cursor.');
    if (prompt.includes(MARKER)) {
      return this.say('There are holes before the cursor: Infill fills them. Extend continues text without holes.');
    }
    await this.run([at], '', settings, async (options, onEvent) => {
      const generation = await drain(engine.generateStream(prompt, options), onEvent);
      return { result: generation, finals: [generation], notes: windowNotes([generation.window]) };
    });
  }

  /** Fills every hole. */
  async infill(engine: InCoder, settings: RunSettings): Promise<void> {
    const text = this.view.state.doc.toString();
    const holes = markers(text);
    if (holes.length === 0) return this.say('There is no hole. Put the cursor where one should be and press Add hole.');
    await this.run(holes, MARKER, settings, async (options, onEvent) => {
      const input = { text, marker: MARKER };
      const infilling = await drain(engine.infillStream(input, options), onEvent);
      return { result: infilling, finals: infilling.infills, notes: windowNotes(infilling.windows) };
    });
  }

  /** Ends the run; what was written stays. False where nothing runs. */
  stop(): boolean {
    if (!this.abort) return false;
    this.abort.abort();
    return true;
  }

  /** Back to the text before the first generation (itself a step that Ctrl+Z takes back). */
  undoAll(): void {
    if (this.baseline === null || this.abort) return;
    this.view.dispatch({
      changes: { from: 0, to: this.view.state.doc.length, insert: this.baseline },
      selection: { anchor: Math.min(this.view.state.selection.main.head, this.baseline.length) },
      annotations: isolateHistory.of('full'),
      effects: setRegions.of([]),
      userEvent: 'undo-all',
    });
    this.baseline = null;
    this.say('Back to the text before the first generation.');
  }

  /** Another text is in the editor: there is nothing to go back to. */
  forget(): void {
    this.baseline = null;
  }

  private say(status: string): void {
    this.hooks.report({ status, notes: [] });
  }

  private async run(
    places: number[],
    placeholder: string,
    settings: RunSettings,
    call: (
      options: GenerateOptions,
      onEvent: (event: TokenEvent) => void,
    ) => Promise<{ result: Generation | Infilling; finals: { text: string; finishReason: FinishReason }[]; notes: string[] }>,
  ): Promise<void> {
    if (this.abort) return;
    const abort = new AbortController();
    this.abort = abort;
    this.hooks.running(true);
    const before = this.view.state.doc.toString();
    const text = placeholder === '' ? '' : null;
    const slots = places.map((from): Slot => ({ from, shown: placeholder, text, finish: null }));
    const writing = new Writing(this.view, slots, placeholder);
    const what = placeholder === '' ? 'Extending' : `Filling ${plural(slots.length, 'hole')}`;
    this.hooks.report({ status: `${what} …`, notes: [] });
    const started = performance.now();
    let first = 0;
    let tokens = 0;
    const onEvent = (event: TokenEvent): void => {
      if (event.attempt !== undefined && event.attempt > 0 && tokens > 0) {
        tokens = 0;
        writing.restart();
      }
      const slot = slots[event.index];
      if (!slot) return;
      if (event.id !== null) {
        tokens += 1;
        first ||= performance.now();
      }
      slot.finish = event.finishReason ?? slot.finish;
      if (event.text || event.finishReason) writing.add(slot, event.text);
      const seconds = (performance.now() - first) / 1000;
      // The first token belongs to the prompt's time; a rate needs two more to mean anything.
      const speed = tokens > 2 && seconds > 0 ? { speed: number((tokens - 1) / seconds) } : {};
      const ttft = first > 0 ? { ttft: duration(first - started) } : {};
      this.hooks.report({ status: `${what} …`, notes: [], ...ttft, ...speed });
    };
    let report: RunReport;
    try {
      const { result, finals, notes } = await call({ ...settings, supersede: true, signal: abort.signal }, onEvent);
      finals.forEach(({ text, finishReason }, i) => Object.assign(slots[i] ?? {}, { text, finish: finishReason }));
      report = {
        status: done(slots, placeholder, tokens),
        notes: [...notes, ...limitNotes(slots, placeholder, settings.maxTokens)],
        speed: number(result.timings.tokensPerSecond),
        ttft: duration(result.timings.ttftMs),
        reused: `${number(result.cachedTokens)} of ${number(result.promptTokens)}`,
      };
    } catch (error) {
      // What was written so far stays; holes that were not begun stay holes.
      for (const slot of slots) if (slot.text !== null) slot.finish ??= 'cancelled';
      const wanted = abort.signal.aborted || isAbort(error);
      report = { status: `${wanted ? 'Stopped' : 'Failed'}. ${done(slots, placeholder, tokens)}`, notes: [] };
      if (!wanted) this.hooks.failed(error);
    }
    writing.finish();
    if (this.view.state.doc.toString() !== before) this.baseline ??= before;
    this.abort = null;
    this.hooks.running(false);
    this.hooks.report(report);
  }
}

/** Every event to `onEvent`, and what the stream returns in the end. */
async function drain<T>(stream: AsyncGenerator<TokenEvent, T>, onEvent: (event: TokenEvent) => void): Promise<T> {
  for (;;) {
    const step = await stream.next();
    if (step.done) return step.value;
    onEvent(step.value);
  }
}

/** Which part of the text the model was shown, where that is not all of it. */
function windowNotes(windows: (Window | null)[]): string[] {
  const shown = windows.filter((window) => window !== null).filter((window) => window.leftOutTokens > 0);
  const lines = new Set(shown.map(({ firstLine, lastLine }) => `lines ${firstLine} to ${lastLine}`));
  return lines.size === 0 ? [] : [`The text is longer than the context window: the model was shown ${[...lines].join(', ')}.`];
}

function done(slots: Slot[], placeholder: string, tokens: number): string {
  const filled = slots.filter((slot) => slot.text !== null).length;
  const amount = plural(tokens, 'token');
  if (placeholder === '') return `${amount} written.`;
  return `${filled} of ${plural(slots.length, 'hole')} filled, ${amount}.`;
}

function limitNotes(slots: Slot[], placeholder: string, maxTokens: number): string[] {
  const ended = (reason: FinishReason): number[] => slots.flatMap(({ finish }, i) => (finish === reason ? [i + 1] : []));
  const where = (holes: number[]): string =>
    placeholder === '' ? 'The text' : `Hole${holes.length > 1 ? 's' : ''} ${holes.join(', ')}`;
  const notes: string[] = [];
  const long = ended('length');
  const full = ended('context');
  if (long.length > 0) notes.push(`${where(long)} reached the length limit of ${plural(maxTokens, 'token')}.`);
  if (full.length > 0) notes.push(`${where(full)} ended because the model’s context is full.`);
  return notes;
}
