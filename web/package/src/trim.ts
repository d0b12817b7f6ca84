/** Makes parts fit the context: the far ends of the first and the last part go, what is near the holes stays. */

import { InCoderError } from './errors.js';
import type { Infill } from './protocol.js';

interface Encoder {
  encode(text: string, bos: boolean, parse: boolean): Uint32Array;
}

/** Of the room that is left, the share of the text before the first hole; the rest is for the text after the last. */
const BEFORE = 2 / 3;

/** Parts that leave room for every region, and how many characters went. */
export function trimParts(
  engine: Encoder,
  parts: string[],
  context: number,
  options: Infill,
): { parts: string[]; trimmed?: { start: number; end: number } } {
  const count = (text: string) => engine.encode(text, false, options.specialTokens === 'parse').length;
  const holes = parts.length - 1;
  const [first, last] = [parts[0], parts[holes]];
  if (holes < 1 || first === undefined || last === undefined) return { parts };
  const between = [...parts.slice(1, holes), options.begun ?? ''].reduce((sum, part) => sum + count(part), 0);
  // Sentinels: one for each hole where it is and one where it is filled, its end, the extra one, and the first token.
  const room = context - 2 - 3 * holes - holes * (options.maxTokens ?? 128) - between;
  if (room < 2) {
    const need = context - room + 2;
    throw new InCoderError('CONTEXT_OVERFLOW', `what stands between the holes or has begun needs ${need} tokens, the context holds ${context}`, { need, have: context });
  }
  const [before, after] = [count(first), count(last)];
  if (before + after <= room) return { parts };
  // Each side gets its share, and what the other does not use.
  const keepBefore = Math.min(before, Math.max(Math.floor(room * BEFORE), room - after));
  const head = longest(first.length, (n) => count(first.slice(first.length - n)) <= keepBefore);
  const tail = longest(last.length, (n) => count(last.slice(0, n)) <= room - keepBefore);
  const kept = [wholeCharacters(first.slice(first.length - head)), ...parts.slice(1, holes), wholeCharacters(last.slice(0, tail))];
  return { parts: kept, trimmed: { start: first.length - kept[0]!.length, end: last.length - kept[holes]!.length } };
}

/** The largest n up to `most` for which `fits` holds, found by halving: token counts grow with the text, nearly. */
function longest(most: number, fits: (n: number) => boolean): number {
  let [low, high] = [0, most];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (fits(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Without the half of a surrogate pair that a cut left at either end. */
const wholeCharacters = (text: string) => text.replace(/^[\uDC00-\uDFFF]|[\uD800-\uDBFF]$/g, '');
