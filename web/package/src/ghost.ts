/** Ghost text for any editor: where suggestions come from, and the arithmetic of what is shown and taken of them. It keeps no state. */

import type { InfillInput, InfillOptions, Infilling, TokenEvent } from './types.js';

/** What a suggestion is asked for with: all text before and after the cursor. */
export interface GhostContext {
  prefix: string;
  suffix: string;
  /** Aborted as soon as the answer is of no use any more. */
  signal: AbortSignal;
}

/** Answers with the text for the cursor, at once or piece by piece; '' is no suggestion. */
export type Complete = (context: GhostContext) => Promise<string> | AsyncIterable<string>;

/** The part of `InCoder` that ghost text needs. */
export interface Infiller {
  infillStream(input: InfillInput, options?: InfillOptions): AsyncGenerator<TokenEvent, Infilling>;
}

export interface InfillSourceOptions {
  /**
   * Most tokens of the text around the cursor that the model reads; 1024. More context takes longer to read: the first time, and
   * whenever the cursor has moved far.
   */
  maxPromptTokens?: number | undefined;
  /** Lines before the cursor that are read as the beginning of the hole, see `InfillOptions`; 8. */
  lookback?: number | undefined;
  /** Suggest no more than the rest of the line; false. */
  singleLine?: boolean | undefined;
  /** Anything else of the call; 48 tokens at temperature 0.2 unless said otherwise. */
  infill?: Omit<InfillOptions, 'signal' | 'onToken' | 'supersede' | 'candidates' | 'maxRetries'> | undefined;
}

/** Makes an engine a `complete`. While `getEngine` gives null there are no suggestions. */
export function infillSource(getEngine: () => Infiller | null, options: InfillSourceOptions = {}): Complete {
  const { maxPromptTokens = 1024, lookback = 8, singleLine = false, infill = {} } = options;
  return async function* ({ prefix, suffix, signal }) {
    const engine = getEngine();
    if (!engine) return;
    const events = engine.infillStream({ prefix, suffix }, {
      ...infill,
      maxTokens: infill.maxTokens ?? 48,
      temperature: infill.temperature ?? 0.2,
      maxPromptTokens: infill.maxPromptTokens ?? maxPromptTokens,
      lookback: infill.lookback ?? lookback,
      end: infill.end ?? (singleLine ? 'line' : 'auto'),
      supersede: true,
      signal,
    });
    try {
      for await (const event of events) if (event.text) yield event.text;
    } catch (error) {
      // Another call took the engine: that is no failure, there is just no more text.
      if (!(error instanceof Error && error.name === 'AbortError')) throw error;
    }
  };
}

/** The lines of `text` ended by `\n` alone, as CodeMirror counts them. */
export function normalizeBreaks(text: string): string {
  return text.replace(/\r\n?/g, '\n');
}

/** `suggestion` without the longest end of it that `after` begins with: what stands there already is not offered again. */
export function trimOverlap(suggestion: string, after: string): string {
  for (let length = Math.min(suggestion.length, after.length); length > 0; length--) {
    if (suggestion.endsWith(after.slice(0, length))) return suggestion.slice(0, suggestion.length - length);
  }
  return suggestion;
}

/** What is left of `suggestion` after `typed` was typed, or null where that is something else. */
export function consumeTyped(suggestion: string, typed: string): string | null {
  return suggestion.startsWith(typed) ? suggestion.slice(typed.length) : null;
}

// Blanks, then one run of either letters or signs; marks (accents, emoji variants) belong to whatever they follow.
const WORD = /^\s*(?:[\p{L}\p{N}_$][\p{L}\p{N}\p{M}_$]*|[^\s\p{L}\p{N}_$]+)?/u;

/** The first word of `text` with the blanks before it: what one press of Ctrl+ArrowRight takes. Empty only for ''. */
export function firstWord(text: string): string {
  return WORD.exec(text)?.[0] ?? '';
}

/** The first line of `text` with the line breaks before it: what one press of Shift+Tab takes. Empty only for ''. */
export function firstLine(text: string): string {
  return /^\n*[^\n]*/.exec(text)?.[0] ?? '';
}
