/** Inline completions for the Monaco editor: what the model would write at the cursor, as ghost text that Tab accepts. */

import { infillSource, offered, TypingAlong } from './ghost.js';
import type { Complete, Infiller, InfillSourceOptions } from './ghost.js';

export { infillSource, type Complete, type GhostContext, type Infiller, type InfillSourceOptions } from './ghost.js';

// The part of Monaco's types that is used: the package works with every version from 0.52 on and installs none.

interface Position {
  readonly lineNumber: number;
  readonly column: number;
}

interface Range {
  readonly startLineNumber: number;
  readonly startColumn: number;
  readonly endLineNumber: number;
  readonly endColumn: number;
}

interface TextModel {
  getValueInRange(range: Range, endOfLine?: number): string;
  getFullModelRange(): Range;
  getLineMaxColumn(lineNumber: number): number;
}

interface Context {
  readonly triggerKind: number;
  readonly selectedSuggestionInfo?: { readonly range: Range; readonly text: string } | undefined;
}

interface CancellationToken {
  readonly isCancellationRequested: boolean;
  onCancellationRequested(listener: () => void): unknown;
}

interface InlineCompletions {
  items: { insertText: string; range: Range }[];
}

/** What `monaco.languages.registerInlineCompletionsProvider` takes. */
export interface InlineCompletionsProvider {
  provideInlineCompletions(model: TextModel, position: Position, context: Context, token: CancellationToken): Promise<InlineCompletions>;
  /** Called by versions up to 0.52. */
  freeInlineCompletions(): void;
  /** Called by later versions. */
  disposeInlineCompletions(): void;
}

interface Settings {
  /** Milliseconds without a keystroke before a suggestion is asked for; 250. */
  debounceMs?: number | undefined;
  /** Told of a request that failed (never of one that was aborted); the console's error log when left out. */
  onError?: ((error: unknown) => void) | undefined;
}

/** Where suggestions come from: a function, or an engine that may not be loaded yet. */
export type InlineCompletionsOptions = Settings & ({ complete: Complete } | ({ engine: () => Infiller | null } & InfillSourceOptions));

/** `monaco.editor.EndOfLinePreference.LF` */
const LF = 1;
/** `monaco.languages.InlineCompletionTriggerKind.Explicit` */
const EXPLICIT = 1;

/**
 * A provider of inline completions.
 *
 * ```js
 * monaco.languages.registerInlineCompletionsProvider('*', inlineCompletions({ engine: () => model }));
 * ```
 */
export function inlineCompletions(options: InlineCompletionsOptions): InlineCompletionsProvider {
  const { debounceMs = 250, onError = (error) => console.error('inline completions:', error) } = options;
  const suggestions = new TypingAlong('complete' in options ? options.complete : infillSource(options.engine, options));
  return {
    async provideInlineCompletions(model, position, context, token) {
      const signal = aborting(token);
      const info = context.selectedSuggestionInfo;
      const at = around(model, position, info?.range);
      // With an entry of the suggestion list selected, the text goes on after that entry.
      const [prefix, suffix] = [at.before + (info?.text ?? ''), at.after];
      if (context.triggerKind !== EXPLICIT && !suggestions.goesOn(prefix, suffix)) await pause(debounceMs, signal);
      if (signal.aborted) return { items: [] };
      const text = await suggestions.suggest({ prefix, suffix, signal }).catch((error: unknown) => {
        onError(error);
        return '';
      });
      const shown = signal.aborted ? '' : offered(text, at.after);
      return { items: shown === '' ? [] : [{ insertText: (info?.text ?? '') + shown, range: info?.range ?? at.range }] };
    },
    freeInlineCompletions() {},
    disposeInlineCompletions() {},
  };
}

/** The text before and after the cursor, or after `instead` where that is to be replaced, and the range that a suggestion takes. */
function around(model: TextModel, { lineNumber, column }: Position, instead?: Range): { before: string; after: string; range: Range } {
  const full = model.getFullModelRange();
  const start = instead ? { line: instead.startLineNumber, column: instead.startColumn } : { line: lineNumber, column };
  const end = instead ? { line: instead.endLineNumber, column: instead.endColumn } : start;
  const before = { ...full, endLineNumber: start.line, endColumn: start.column };
  const after = model.getValueInRange({ ...full, startLineNumber: end.line, startColumn: end.column }, LF);
  // Text of several lines has to end where its line ends; blanks that stand there are replaced.
  const blank = (after.split('\n', 1)[0] ?? '').trim() === '';
  const endColumn = blank ? model.getLineMaxColumn(lineNumber) : column;
  const range = { startLineNumber: lineNumber, startColumn: column, endLineNumber: lineNumber, endColumn };
  return { before: model.getValueInRange(before, LF), after, range };
}

function aborting(token: CancellationToken): AbortSignal {
  const controller = new AbortController();
  token.onCancellationRequested(() => controller.abort());
  if (token.isCancellationRequested) controller.abort();
  return controller.signal;
}

/** Waits, at most until the abort. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
  });
}
