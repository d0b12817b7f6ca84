/** The editor: colours, holes shown as chips, and the regions that were generated. It knows no model. */

import { indentWithTab } from '@codemirror/commands';
import { javascript } from '@codemirror/lang-javascript';
import { python } from '@codemirror/lang-python';
import {
  HighlightStyle,
  bracketMatching,
  defaultHighlightStyle,
  indentOnInput,
  indentUnit,
  syntaxHighlighting,
} from '@codemirror/language';
import { Compartment, EditorState, Prec, StateEffect, StateField } from '@codemirror/state';
import type { Extension, Range } from '@codemirror/state';
import { Decoration, EditorView, WidgetType, highlightActiveLine, keymap, lineNumbers } from '@codemirror/view';
import type { DecorationSet } from '@codemirror/view';
import { minimalSetup } from 'codemirror';
import type { Language } from './examples.js';

/** What stands in the text for a hole. */
export const MARKER = '<infill>';

/** A generated span. */
export interface Region {
  from: number;
  to: number;
  /** Counts from 1 within its run. */
  hole: number;
  /** Whether the last run made it; earlier ones are shown fainter. */
  current: boolean;
  writing: boolean;
  /** Shown behind it: why it ended, where that is worth a word. */
  note: string;
}

/** All regions, or only those of the run that goes on (its positions are those after the change they come with). */
export const setRegions = StateEffect.define<readonly Region[]>();
export const setCurrent = StateEffect.define<readonly Region[]>();
export const setRunning = StateEffect.define<boolean>();

export const runField = StateField.define<{ regions: readonly Region[]; running: boolean }>({
  create: () => ({ regions: [], running: false }),
  update(value, tr) {
    let { regions, running } = value;
    if (tr.docChanged) {
      // Text typed at the edges belongs to the author; spans that were deleted are gone.
      regions = regions
        .map((region) => ({ ...region, from: tr.changes.mapPos(region.from, 1), to: tr.changes.mapPos(region.to, -1) }))
        .filter((region) => region.from < region.to);
    }
    for (const effect of tr.effects) {
      if (effect.is(setRegions)) regions = effect.value;
      if (effect.is(setCurrent)) regions = [...regions.filter((region) => !region.current), ...effect.value];
      if (effect.is(setRunning)) running = effect.value;
    }
    return regions === value.regions && running === value.running ? value : { regions, running };
  },
  provide: (field) => [
    EditorView.decorations.from(field, ({ regions }) => regionDecorations(regions)),
    EditorState.readOnly.from(field, ({ running }) => running),
    EditorView.editorAttributes.from(field, ({ running }): Record<string, string> => (running ? { class: 'running' } : {})),
  ],
});

class NoteWidget extends WidgetType {
  constructor(
    readonly text: string,
    readonly kind: 'note' | 'caret',
  ) {
    super();
  }

  override eq(other: NoteWidget): boolean {
    return other.text === this.text && other.kind === this.kind;
  }

  override toDOM(): HTMLElement {
    const dom = document.createElement('span');
    dom.className = `gen-${this.kind}`;
    dom.textContent = this.text;
    return dom;
  }
}

function regionDecorations(regions: readonly Region[]): DecorationSet {
  const ranges: Range<Decoration>[] = [];
  for (const { from, to, hole, current, writing, note } of regions) {
    if (from < to) {
      const tint = hole % 2 === 0 ? 'even' : 'odd';
      const attributes = { 'data-hole': String(hole), title: `Written by the model, hole ${hole}` };
      ranges.push(Decoration.mark({ class: `gen gen-${current ? tint : 'old'}`, attributes }).range(from, to));
    }
    if (writing) ranges.push(Decoration.widget({ widget: new NoteWidget('', 'caret'), side: 1 }).range(to));
    if (note && current) ranges.push(Decoration.widget({ widget: new NoteWidget(note, 'note'), side: 1 }).range(to));
  }
  return Decoration.set(ranges, true);
}

class MaskWidget extends WidgetType {
  constructor(
    readonly hole: number,
    readonly next: boolean,
  ) {
    super();
  }

  override eq(other: MaskWidget): boolean {
    return other.hole === this.hole && other.next === this.next;
  }

  override toDOM(): HTMLElement {
    const dom = document.createElement('span');
    dom.className = this.next ? 'mask next' : 'mask';
    dom.textContent = `hole ${this.hole}`;
    dom.title = `The model writes here (${MARKER}). Backspace takes the hole away.`;
    // As one thing and not as two words of the text.
    dom.setAttribute('role', 'img');
    dom.setAttribute('aria-label', `hole ${this.hole}`);
    dom.dataset.testid = 'mask';
    return dom;
  }

  override ignoreEvent(): boolean {
    return false;
  }
}

/** Where the markers of `text` begin. */
export function markers(text: string): number[] {
  return [...text.matchAll(new RegExp(MARKER, 'g'))].map((match) => match.index);
}

function maskDecorations(state: EditorState): DecorationSet {
  const { regions, running } = state.field(runField);
  // While filling, the holes keep the numbers that they had before the first of them was filled.
  const filled = running ? regions.filter((region) => region.current).length : 0;
  return Decoration.set(
    markers(state.doc.toString()).map((from, i) =>
      Decoration.replace({ widget: new MaskWidget(filled + i + 1, running && i === 0) }).range(from, from + MARKER.length),
    ),
  );
}

const maskField = StateField.define<DecorationSet>({
  create: maskDecorations,
  update(masks, tr) {
    const changed = tr.docChanged || tr.state.field(runField) !== tr.startState.field(runField);
    return changed ? maskDecorations(tr.state) : masks;
  },
  provide: (field) => [
    EditorView.decorations.from(field),
    // The cursor steps over a chip, and Backspace takes it away whole.
    EditorView.atomicRanges.of((view) => view.state.field(field)),
  ],
});

// CodeMirror's own colours by name, so that the style sheet can give each theme its own.
const COLOURS: Record<string, string> = {
  '#404740': 'var(--code-meta)',
  '#708': 'var(--code-keyword)',
  '#219': 'var(--code-atom)',
  '#164': 'var(--code-number)',
  '#a11': 'var(--code-string)',
  '#e40': 'var(--code-escape)',
  '#00f': 'var(--code-name)',
  '#30a': 'var(--code-name)',
  '#085': 'var(--code-type)',
  '#167': 'var(--code-type)',
  '#256': 'var(--code-name)',
  '#00c': 'var(--code-name)',
  '#940': 'var(--code-comment)',
  '#f00': 'var(--code-meta)',
};

const colours = HighlightStyle.define(
  defaultHighlightStyle.specs.map((spec) => {
    const colour: unknown = spec['color'];
    return typeof colour === 'string' ? { ...spec, color: COLOURS[colour] ?? 'inherit' } : spec;
  }),
);

const theme = EditorView.theme({
  '&': { color: 'var(--text)', backgroundColor: 'var(--sheet)', fontSize: 'var(--code-size)' },
  '&.cm-focused': { outline: 'none' },
  '.cm-scroller': {
    fontFamily: 'var(--mono)',
    lineHeight: '1.65',
    minHeight: 'var(--editor-min)',
    maxHeight: 'var(--editor-max)',
  },
  '.cm-content': { padding: '14px 0', caretColor: 'var(--text)' },
  '.cm-line': { padding: '0 20px 0 10px' },
  '.cm-gutters': { backgroundColor: 'var(--sheet)', color: 'var(--faint)', border: 'none', paddingLeft: '10px' },
  '.cm-activeLine': { backgroundColor: 'transparent' },
  '&.cm-focused .cm-activeLine': { backgroundColor: 'var(--line)' },
  '.cm-cursor': { borderLeftColor: 'var(--text)', borderLeftWidth: '2px' },
  '.cm-selectionBackground': { backgroundColor: 'var(--selection) !important' },
  '.cm-matchingBracket, &.cm-focused .cm-matchingBracket': { backgroundColor: 'var(--selection)' },
  '.cm-ghostText': { opacity: '1', color: 'var(--faint)' },
});

const LANGUAGES: Record<Language, Extension> = {
  python: [python(), indentUnit.of('    ')],
  javascript: [javascript(), indentUnit.of('  ')],
};

const language = new Compartment();
const wrapping = new Compartment();
const ghost = new Compartment();

/** What the keys of the editor call. */
export interface EditorCommands {
  infill(): void;
  extend(): void;
  addMask(): void;
  /** False where nothing runs, so that Escape keeps its other meanings. */
  stop(): boolean;
  changed(): void;
}

export function createEditor(parent: HTMLElement, commands: EditorCommands): EditorView {
  const press = (run: () => void) => () => {
    run();
    return true;
  };
  // A phone shows whole lines, broken; a wide screen shows lines as they are, and scrolls.
  const narrow = matchMedia('(max-width: 560px)');
  const wrap = (): Extension => (narrow.matches ? EditorView.lineWrapping : []);
  const view = new EditorView({
    parent,
    extensions: [
      ghost.of([]),
      Prec.high(
        keymap.of([
          { key: 'Mod-Enter', run: press(commands.infill), shift: press(commands.extend) },
          { key: 'Alt-i', run: press(commands.addMask) },
          { key: 'Escape', run: () => commands.stop() },
        ]),
      ),
      keymap.of([indentWithTab]),
      minimalSetup,
      lineNumbers(),
      highlightActiveLine(),
      bracketMatching(),
      indentOnInput(),
      language.of(LANGUAGES.python),
      wrapping.of(wrap()),
      syntaxHighlighting(colours),
      theme,
      runField,
      maskField,
      // What scrolls has to be reached with the keyboard, and not every tool knows that one can write here.
      EditorView.contentAttributes.of({ 'aria-label': 'Code', 'aria-describedby': 'editor-help', tabindex: '0' }),
      EditorView.updateListener.of((update) => {
        if (update.docChanged) commands.changed();
      }),
    ],
  });
  narrow.addEventListener('change', () => view.dispatch({ effects: wrapping.reconfigure(wrap()) }));
  return view;
}

export function setLanguage(view: EditorView, name: Language): void {
  view.dispatch({ effects: language.reconfigure(LANGUAGES[name]) });
}

/** The ghost text extension, or nothing. */
export function setGhostText(view: EditorView, extension: Extension): void {
  view.dispatch({ effects: ghost.reconfigure(extension) });
}

/** A new text: no regions, the cursor at its end. */
export function replaceText(view: EditorView, text: string): void {
  view.dispatch({
    changes: { from: 0, to: view.state.doc.length, insert: text },
    selection: { anchor: text.length },
    effects: setRegions.of([]),
  });
}

/** Puts a marker where the cursor is, or over the selection. */
export function addMask(view: EditorView): void {
  if (view.state.readOnly) return;
  const { from, to } = view.state.selection.main;
  view.dispatch({
    changes: { from, to, insert: MARKER },
    selection: { anchor: from + MARKER.length },
    userEvent: 'mask',
    scrollIntoView: true,
  });
  view.focus();
}
