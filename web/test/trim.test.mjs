/** What is left of a prompt that is too long, against the plain definition of what must hold. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { trimParts } from '../package/dist/trim.js';

/** A tokenizer of two characters a token. */
const engine = { encode: (text) => new Uint32Array(Math.ceil(text.length / 2)) };
const tokens = (parts) => parts.reduce((sum, part) => sum + engine.encode(part).length, 0);

test('what fits stays as it is', () => {
  assert.deepEqual(trimParts(engine, ['abc', 'def'], 64, { maxTokens: 8 }), { parts: ['abc', 'def'] });
  assert.deepEqual(trimParts(engine, ['only one part'], 4, {}), { parts: ['only one part'] });
});

test('what does not fit loses its far ends, and no more than it must', () => {
  let seed = 7;
  const next = (below) => (seed = (seed * 1103515245 + 12345) % 2147483648) % below;
  for (let i = 0; i < 500; i++) {
    const parts = Array.from({ length: 2 + next(3) }, (_, at) => 'é🦀x'.repeat(next(60)) + at);
    const [context, maxTokens, holes] = [60 + next(200), 1 + next(12), parts.length - 1];
    const room = context - 2 - 3 * holes - holes * maxTokens;
    let fitted;
    try {
      fitted = trimParts(engine, parts, context, { maxTokens });
    } catch (error) {
      assert.equal(error.code, 'CONTEXT_OVERFLOW');
      assert.ok(tokens(parts.slice(1, -1)) > room - 2);
      continue;
    }
    const { parts: kept, trimmed = { start: 0, end: 0 } } = fitted;
    assert.ok(tokens(kept) <= room, `${tokens(kept)} of ${room}`);
    assert.deepEqual(kept.slice(1, -1), parts.slice(1, -1));
    assert.equal(parts[0].slice(trimmed.start), kept[0]);
    assert.equal(parts.at(-1).slice(0, parts.at(-1).length - trimmed.end), kept.at(-1));
    // Half a crab is no text.
    for (const part of kept) assert.ok(part.isWellFormed());
    if (trimmed.start + trimmed.end > 0) assert.ok(tokens(kept) >= room - 3, `${tokens(kept)} of ${room}`);
  }
});
