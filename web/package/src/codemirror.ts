/**
 * Ghost text for CodeMirror 6: what a model would write at the cursor, shown in grey and taken with Tab.
 * The suggestion is a state field (pure), the request a view plugin (timers, aborting); one widget shows it.
 */

import { Annotation, EditorSelection, Prec, StateEffect, StateField, Text } from '@codemirror/state';
import type { EditorState, Extension, Transaction } from '@codemirror/state';
import { Decoration, EditorView, ViewPlugin, WidgetType, keymap, logException } from '@codemirror/view';
import type { Command, DecorationSet, PluginValue, Rect, ViewUpdate } from '@codemirror/view';
import { consumeTyped, firstLine, firstWord, infillSource, normalizeBreaks, trimOverlap } from './ghost.js';
import type { Complete, Infiller, InfillSourceOptions } from './ghost.js';

export { infillSource, type Complete, type GhostContext, type Infiller, type InfillSourceOptions } from './ghost.js';

interface GhostSettings {
  /** Milliseconds without a keystroke before a suggestion is asked for; 250. */
  debounceMs?: number | undefined;
  /** Ask while typing; true. Where false, only Alt+\ asks. */
  automatic?: boolean | undefined;
  /** Told of a request that failed (never of one that was aborted); CodeMirror's exception sink when left out. */
  onError?: ((error: unknown) => void) | undefined;
}

/** Where suggestions come from: a function, or an engine that may not be loaded yet. */
export type GhostTextOptions = GhostSettings &
  ({ complete: Complete } | ({ engine: () => Infiller | null } & InfillSourceOptions));

interface Ghost {
  /** The cursor; the suggestion begins here. */
  pos: number;
  /** All that came so far. */
  raw: string;
  /** How many characters of it have been typed or taken. */
  consumed: number;
  /** Whether more may come. */
  done: boolean;
  /** What is offered: the rest, less what stands after the cursor already. */
  shown: string;
}

/** More text has come (or the last), or with null: away with it. */
const setGhost = StateEffect.define<{ raw: string; done: boolean } | null>();
/** On changes that take a part of the suggestion: how much. */
const taken = Annotation.define<number>();

const isVisible = (ghost: Ghost | null): ghost is Ghost => ghost !== null && ghost.shown.trim() !== '';

/** The ghost with what it shows worked out anew; null where there is nothing to show and nothing more comes. */
function settled(ghost: Omit<Ghost, 'shown'>, state: EditorState): Ghost | null {
  const rest = normalizeBreaks(ghost.raw).slice(ghost.consumed);
  const after = state.doc.sliceString(ghost.pos, Math.min(state.doc.length, ghost.pos + rest.length));
  const shown = trimOverlap(rest, after);
  return ghost.done && shown.trim() === '' ? null : { ...ghost, shown };
}

/** The ghost after a change: moved on where the change typed the head of it, otherwise gone. */
function afterChange(ghost: Ghost, tr: Transaction): Ghost | null {
  const head = tr.newSelection.main.head;
  let typed = null as string | null; // the cast: TypeScript does not see assignments inside callbacks
  let changes = 0;
  tr.changes.iterChanges((from, to, _fromB, toB) => {
    changes += 1;
    // What an editor adds behind the cursor (a closing bracket) is text after it, not typed text.
    if (from === ghost.pos && to === from && head > from && head <= toB) typed = tr.newDoc.sliceString(from, head);
  });
  if (changes !== 1 || typed === null || !tr.newSelection.main.empty) return null;
  const { length } = typed;
  const rest = normalizeBreaks(ghost.raw).slice(ghost.consumed);
  if (tr.annotation(taken) !== length && consumeTyped(rest, typed) === null) return null;
  return settled({ ...ghost, pos: head, consumed: ghost.consumed + length }, tr.state);
}

const ghostField = StateField.define<Ghost | null>({
  create: () => null,
  update(ghost, tr) {
    if (ghost && tr.docChanged) ghost = afterChange(ghost, tr);
    else if (ghost && tr.selection && !tr.selection.eq(EditorSelection.single(ghost.pos))) ghost = null;
    for (const effect of tr.effects) {
      if (!effect.is(setGhost)) continue;
      const { pos, consumed } = ghost ?? { pos: tr.newSelection.main.head, consumed: 0 };
      ghost = effect.value && settled({ pos, consumed, ...effect.value }, tr.state);
    }
    return ghost;
  },
  provide: (field) =>
    EditorView.decorations.from(field, (ghost): DecorationSet =>
      isVisible(ghost)
        ? Decoration.set(Decoration.widget({ widget: new GhostWidget(ghost.shown), side: 1 }).range(ghost.pos))
        : Decoration.none,
    ),
});

/** The suggestion in the line, with line breaks of its own: the text after the cursor stands where it will stand. */
class GhostWidget extends WidgetType {
  constructor(readonly text: string) {
    super();
  }

  override eq(other: GhostWidget): boolean {
    return other.text === this.text;
  }

  override get lineBreaks(): number {
    return this.text.split('\n').length - 1;
  }

  override toDOM(view: EditorView): HTMLElement {
    const dom = document.createElement('span');
    dom.className = 'cm-ghostText';
    // Touch screens have no Tab key.
    dom.addEventListener('pointerdown', (event) => {
      if (event.pointerType === 'touch' && acceptSuggestion(view)) event.preventDefault();
    });
    // Screen readers get the announcement; the widget would be read as if it were in the document.
    dom.setAttribute('aria-hidden', 'true');
    return this.fill(dom);
  }

  override updateDOM(dom: HTMLElement): boolean {
    this.fill(dom);
    return true;
  }

  /** The cursor stands before the suggestion, on its first line, whichever side is asked for. */
  override coordsAt(dom: HTMLElement): Rect | null {
    const first = dom.getClientRects()[0];
    return first ? { left: first.left, right: first.left, top: first.top, bottom: first.bottom } : null;
  }

  /** A click of the mouse on it is a click into the editor. */
  override ignoreEvent(): boolean {
    return false;
  }

  private fill(dom: HTMLElement): HTMLElement {
    // A last line break alone makes no line in HTML: something without width has to stand after it.
    dom.textContent = this.text.endsWith('\n') ? `${this.text}\u200b` : this.text;
    return dom;
  }
}

/** Asks, listens, and stops asking. What is shown is the field's business. */
class Requester implements PluginValue {
  private timer: ReturnType<typeof setTimeout> | undefined;
  private request: AbortController | null = null;
  /** What a screen reader says: the suggestion, politely, once it is whole. */
  private readonly live = document.createElement('div');

  constructor(
    private readonly view: EditorView,
    private readonly complete: Complete,
    private readonly settings: GhostSettings,
  ) {
    this.live.className = 'cm-ghostTextLive';
    this.live.setAttribute('aria-live', 'polite');
    view.dom.append(this.live);
  }

  update(update: ViewUpdate): void {
    const before = update.startState.field(ghostField);
    // As long as the suggestion lives, whatever happened consumed it or made it grow.
    if (update.state.field(ghostField)) return;
    if (!before && !update.docChanged && !update.selectionSet) return;
    this.cancel();
    this.live.textContent = '';
    // A suggestion that was taken is text like any other, after which the next one may come.
    const typed = update.transactions.some((tr) => tr.docChanged && (tr.isUserEvent('input') || tr.isUserEvent('delete')));
    if (typed && this.settings.automatic !== false) this.schedule();
  }

  destroy(): void {
    this.cancel();
    this.live.remove();
  }

  cancel(): void {
    clearTimeout(this.timer);
    this.request?.abort();
    this.request = null;
  }

  /** Cancels, and takes away what is shown. */
  clear(): void {
    this.cancel();
    if (this.view.state.field(ghostField)) this.view.dispatch({ effects: setGhost.of(null) });
  }

  schedule(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.ask(), this.settings.debounceMs ?? 250);
  }

  async ask(): Promise<void> {
    this.clear();
    const { view } = this;
    const { main, ranges } = view.state.selection;
    if (!main.empty || ranges.length > 1 || view.state.readOnly || this.composing) return;
    const request = new AbortController();
    this.request = request;
    const { signal } = request;
    const { doc } = view.state;
    try {
      let raw = '';
      const answer = this.complete({ prefix: doc.sliceString(0, main.head), suffix: doc.sliceString(main.head), signal });
      if (Symbol.asyncIterator in answer) {
        for await (const text of answer) {
          if (signal.aborted) return;
          if (!this.composing) view.dispatch({ effects: setGhost.of({ raw: (raw += text), done: false }) });
        }
      } else {
        raw = await answer;
      }
      if (signal.aborted || this.composing) return;
      view.dispatch({ effects: setGhost.of({ raw, done: true }) });
      const ghost = view.state.field(ghostField);
      // A screen reader that reads every token helps nobody.
      if (isVisible(ghost)) this.live.textContent = view.state.phrase('Suggestion: $', ghost.shown.trim());
    } catch (error) {
      if (signal.aborted) return;
      this.clear();
      if (this.settings.onError) this.settings.onError(error);
      else logException(view.state, error, 'ghost text');
    } finally {
      if (this.request === request) this.request = null;
    }
  }

  private get composing(): boolean {
    return this.view.composing || this.view.compositionStarted;
  }
}

const requesters = new WeakMap<EditorView, Requester>();

/** Inserts what `part` takes of the suggestion; false, so that the next key binding gets its turn, where none is shown. */
function take(part: (shown: string) => string, rest: 'keep' | 'drop'): Command {
  return (view) => {
    const ghost = view.state.field(ghostField, false) ?? null;
    if (!isVisible(ghost) || view.state.readOnly) return false;
    const text = part(ghost.shown);
    view.dispatch({
      // A Text, because a string would be split at the document's own line separator only.
      changes: { from: ghost.pos, insert: Text.of(text.split('\n')) },
      selection: { anchor: ghost.pos + text.length },
      annotations: taken.of(text.length),
      effects: rest === 'drop' ? setGhost.of(null) : [],
      userEvent: 'input.complete',
      scrollIntoView: true,
    });
    return true;
  };
}

/** Takes all of the suggestion (Tab). */
export const acceptSuggestion: Command = take((shown) => shown, 'drop');
/** Takes one line of it (Shift+Tab). */
export const acceptLine: Command = take(firstLine, 'keep');
/** Takes one word of it (Ctrl/Cmd+ArrowRight). */
export const acceptWord: Command = take(firstWord, 'keep');

/** Takes it away (Escape). */
export const rejectSuggestion: Command = (view) => {
  if (!isVisible(view.state.field(ghostField, false) ?? null)) return false;
  view.dispatch({ effects: setGhost.of(null) });
  return true;
};

/** Asks for one now (Alt+\). */
export const requestSuggestion: Command = (view) => {
  const requester = requesters.get(view);
  if (!requester) return false;
  void requester.ask();
  return true;
};

/** The suggestion that is shown, or null. */
export function currentSuggestion(state: EditorState): string | null {
  const ghost = state.field(ghostField, false) ?? null;
  return isVisible(ghost) ? ghost.shown : null;
}

/** Ghost text. Its keys come before all others, and let every press pass while no suggestion is shown. */
export function ghostText(options: GhostTextOptions): Extension {
  const complete = 'complete' in options ? options.complete : infillSource(options.engine, options);
  const plugin = ViewPlugin.define(
    (view) => {
      const requester = new Requester(view, complete, options);
      requesters.set(view, requester);
      return requester;
    },
    {
      eventObservers: {
        compositionstart() {
          this.clear();
        },
        compositionend() {
          if (options.automatic !== false) this.schedule();
        },
        blur() {
          this.clear();
        },
      },
    },
  );
  const keys = keymap.of([
    { key: 'Tab', run: acceptSuggestion, shift: acceptLine },
    { key: 'Mod-ArrowRight', run: acceptWord },
    { key: 'Escape', run: rejectSuggestion },
    { key: 'Alt-\\', run: requestSuggestion },
  ]);
  const theme = EditorView.baseTheme({
    '.cm-ghostText': { opacity: '0.55', fontStyle: 'italic' },
    '.cm-ghostTextLive': { position: 'fixed', top: '-10000px' },
  });
  return [ghostField, plugin, Prec.highest(keys), theme];
}
