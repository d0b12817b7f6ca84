/** Ghost text for any editor: where suggestions come from, and the arithmetic of what is shown and taken of them. */

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
  readonly info?: { readonly server?: string };
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
    // A server reads what its own context has room for.
    const most = engine.info?.server === undefined ? maxPromptTokens : undefined;
    const events = engine.infillStream({ prefix, suffix }, {
      ...infill,
      maxTokens: infill.maxTokens ?? 48,
      temperature: infill.temperature ?? 0.2,
      maxPromptTokens: infill.maxPromptTokens ?? most,
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

/**
 * What of `text`, written at the cursor, is worth offering: '' where nothing is. Where code stands behind the cursor on its line, no more
 * than the rest of that line, without what stands there already.
 */
export function offered(text: string, suffix: string): string {
  const end = suffix.indexOf('\n');
  const rest = end < 0 ? suffix : suffix.slice(0, end);
  const below = end < 0 ? '' : suffix.slice(end + 1);
  const blank = rest.trim() === '';
  const shown = blank ? text : trimOverlap(text.split('\n', 1)[0] ?? '', rest);
  if (shown.trim() === '' || shown.trim() === rest.trim()) return '';
  // The lines that follow are no suggestion.
  const repeated = blank && below.trim() !== '' && (below.trimStart() + '\n').startsWith(`${shown.trim()}\n`);
  return repeated ? '' : shown;
}

/** How long a suggestion is still written after its request was aborted: the next keystroke may go on with it. */
const GRACE_MS = 500;

/**
 * Whole suggestions for editors that ask anew after every keystroke. While the user types what is being written, the request under way
 * goes on and serves the next ones, too; anything else stops it.
 */
export class TypingAlong {
  private latest: Writing | null = null;

  constructor(private readonly complete: Complete) {}

  /** Whether the suggestion for this cursor is being written already, so that there is no reason to wait before asking for it. */
  goesOn(prefix: string, suffix: string): boolean {
    return this.latest?.serves(prefix, suffix) ?? false;
  }

  /** The suggestion for a cursor; '' when there is none, or when it was aborted. */
  suggest({ prefix, suffix, signal }: GhostContext): Promise<string> {
    if (!this.latest?.serves(prefix, suffix)) {
      this.latest?.stop();
      this.latest = new Writing(this.complete, prefix, suffix);
    }
    return this.latest.rest(prefix, signal);
  }
}

/** A suggestion that is being written. */
class Writing {
  private raw = '';
  private done = false;
  private waiting = 0;
  private readonly abort = new AbortController();
  private readonly whole: Promise<void>;

  constructor(
    complete: Complete,
    private readonly prefix: string,
    private readonly suffix: string,
  ) {
    this.whole = this.write(complete);
    // Whoever waits for it is told; nobody may be left.
    this.whole.catch(() => undefined);
  }

  private async write(complete: Complete): Promise<void> {
    const answer = complete({ prefix: this.prefix, suffix: this.suffix, signal: this.abort.signal });
    if (Symbol.asyncIterator in answer) for await (const text of answer) this.raw += text;
    else this.raw = await answer;
    this.done = true;
  }

  /** Whether this is what to write at that cursor: nothing but its beginning was typed since. */
  serves(prefix: string, suffix: string): boolean {
    if (this.abort.signal.aborted || !prefix.startsWith(this.prefix)) return false;
    // A closing bracket that the editor added behind the cursor is one character more.
    if (suffix !== this.suffix && !(/^[)\]}>"'`]/.test(suffix) && suffix.slice(1) === this.suffix)) return false;
    const typed = prefix.slice(this.prefix.length);
    return this.raw.startsWith(typed) || (!this.done && typed.startsWith(this.raw));
  }

  /** What is left of it at that cursor, once it is whole; '' after an abort, and where something else was typed meanwhile. */
  async rest(prefix: string, signal: AbortSignal): Promise<string> {
    this.waiting += 1;
    const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
    try {
      await Promise.race([this.whole, signal.aborted ? undefined : aborted]);
    } finally {
      this.waiting -= 1;
    }
    if (signal.aborted) {
      setTimeout(() => this.waiting === 0 && this.stop(), GRACE_MS);
      return '';
    }
    return consumeTyped(this.raw, prefix.slice(this.prefix.length)) ?? '';
  }

  stop(): void {
    if (!this.done) this.abort.abort();
  }
}
