/** The text arithmetic of ghost text: no editor, no engine, nothing that keeps state. */

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

/** A hole in a text, and what was typed into it already. */
export interface Hole {
  prefix: string;
  begun: string;
  suffix: string;
}

/**
 * The hole at a cursor: `last` where only what was typed into it changed, otherwise a new one that begins with the line so far; up to
 * `most` characters of either. What an engine has read around the hole is of use as long as the hole stays the same.
 */
export function holeAt(last: Hole | null, prefix: string, suffix: string, most: number): Hole {
  const from = (at: number): Hole | null =>
    prefix.length - at > most ? null : { prefix: prefix.slice(0, at), begun: prefix.slice(at), suffix };
  const same = last !== null && suffix === last.suffix && prefix.startsWith(last.prefix);
  const line = prefix.lastIndexOf('\n') + 1;
  const code = line + prefix.slice(line).search(/\S|$/);
  return (same && from(last.prefix.length)) || from(code) || { prefix, begun: '', suffix };
}

/** At most `limit` characters from the start of `text`, no surrogate pair cut in two. */
export function headOf(text: string, limit: number): string {
  if (text.length <= limit) return text;
  const head = text.slice(0, Math.max(0, limit));
  return /[\uD800-\uDBFF]$/.test(head) ? head.slice(0, -1) : head;
}

/** At most `limit` characters from the end of `text`, no surrogate pair cut in two. */
export function tailOf(text: string, limit: number): string {
  if (text.length <= limit) return text;
  const tail = limit > 0 ? text.slice(-limit) : '';
  return /^[\uDC00-\uDFFF]/.test(tail) ? tail.slice(1) : tail;
}

/**
 * `tailOf` that begins at the same place while a text grows by up to a quarter of `limit`, and is shorter by up to that: what an
 * engine has read of it stays of use.
 */
export function steadyTailOf(text: string, limit: number): string {
  const step = Math.max(1, Math.floor(limit / 4));
  const beyond = Math.max(0, text.length - limit);
  return tailOf(text, text.length - Math.ceil(beyond / step) * step);
}
