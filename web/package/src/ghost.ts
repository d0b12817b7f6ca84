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
