// Ghost text's string functions against plain definitions, on cases by hand and on a few hundred random ones.
import assert from 'node:assert/strict';
import test from 'node:test';
import {
  consumeTyped,
  firstLine,
  firstWord,
  normalizeBreaks,
  trimOverlap,
} from '../package/dist/ghost.js';

/** Equal seeds, equal cases: mulberry32. */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** `count` texts of up to `most` pieces; few different pieces, so that overlaps are common. */
function texts(seed, count, most, pieces) {
  const next = random(seed);
  return Array.from({ length: count }, () =>
    Array.from({ length: Math.floor(next() * (most + 1)) }, () => pieces[Math.floor(next() * pieces.length)]).join(''),
  );
}

const CODE = ['a', 'b', 'é', '_', '$', '7', ' ', '  ', '\n', '\t', '(', ')', '):', '.', '\u{1F600}', 'e\u0301', '日'];

test('trimOverlap takes off what stands after the cursor', () => {
  assert.equal(trimOverlap('x, y)', ')'), 'x, y');
  assert.equal(trimOverlap('x, y):\n', '):\n    pass'), 'x, y');
  assert.equal(trimOverlap('x', 'y'), 'x');
  assert.equal(trimOverlap('x', ''), 'x');
  assert.equal(trimOverlap('', 'x'), '');
  assert.equal(trimOverlap('abc', 'abcdef'), '');
  assert.equal(trimOverlap('aaa', 'aa'), 'a');
  assert.equal(trimOverlap('return n\n', '\n\nmore'), 'return n');
});

test('trimOverlap: 500 random cases against the definition', () => {
  const befores = texts(1, 500, 8, ['a', 'b', ')', '\n']);
  const afters = texts(2, 500, 8, ['a', 'b', ')', '\n']);
  befores.forEach((suggestion, i) => {
    const after = afters[i];
    const overlaps = [];
    for (let k = 0; k <= suggestion.length; k++) {
      if (k <= after.length && suggestion.slice(suggestion.length - k) === after.slice(0, k)) overlaps.push(k);
    }
    const expected = suggestion.slice(0, suggestion.length - Math.max(...overlaps));
    assert.equal(trimOverlap(suggestion, after), expected, JSON.stringify([suggestion, after]));
  });
});

test('consumeTyped moves on, or says that it is something else', () => {
  assert.equal(consumeTyped('return x', 're'), 'turn x');
  assert.equal(consumeTyped('return x', 'return x'), '');
  assert.equal(consumeTyped('return x', 'return xy'), null);
  assert.equal(consumeTyped('return x', 'R'), null);
  assert.equal(consumeTyped('\n    x', '\n    '), 'x');
  assert.equal(consumeTyped('x', ''), 'x');
});

test('consumeTyped: 300 random cases, whole and in two strokes', () => {
  const next = random(3);
  const typed = texts(5, 300, 2, CODE);
  texts(4, 300, 8, CODE).forEach((suggestion, i) => {
    const rest = consumeTyped(suggestion, typed[i]);
    if (rest === null) assert.notEqual(suggestion.slice(0, typed[i].length), typed[i]);
    else assert.equal(typed[i] + rest, suggestion);
    const cut = Math.floor(next() * (suggestion.length + 1));
    const middle = Math.floor(next() * (cut + 1));
    const twice = consumeTyped(consumeTyped(suggestion, suggestion.slice(0, middle)), suggestion.slice(middle, cut));
    assert.equal(twice, consumeTyped(suggestion, suggestion.slice(0, cut)));
  });
});

test('firstWord takes blanks and one run', () => {
  assert.equal(firstWord('return x'), 'return');
  assert.equal(firstWord(' x + 1'), ' x');
  assert.equal(firstWord(' + 1'), ' +');
  assert.equal(firstWord('):\n'), '):');
  assert.equal(firstWord('\n    return'), '\n    return');
  assert.equal(firstWord('   '), '   ');
  assert.equal(firstWord(''), '');
  assert.equal(firstWord('snake_case2.x'), 'snake_case2');
  assert.equal(firstWord('cafe\u0301 x'), 'cafe\u0301');
  assert.equal(firstWord('❤\uFE0F x'), '❤\uFE0F');
});

/** Letter, sign or blank, one code point at a time. */
function kind(point) {
  if (/\s/.test(point)) return 'blank';
  if (/[\p{L}\p{N}_$]/u.test(point)) return 'letter';
  return /\p{M}/u.test(point) ? 'mark' : 'sign';
}

/** The same as firstWord, written as a walk. */
function firstWordPlainly(text) {
  const points = [...text];
  let end = 0;
  while (end < points.length && kind(points[end]) === 'blank') end++;
  if (end < points.length) {
    const run = kind(points[end]) === 'letter' ? 'letter' : 'sign';
    while (end < points.length && [run, 'mark'].includes(kind(points[end]))) end++;
  }
  return points.slice(0, end).join('');
}

test('firstWord: 500 random cases against a walk', () => {
  for (const text of texts(6, 500, 8, CODE)) assert.equal(firstWord(text), firstWordPlainly(text), JSON.stringify(text));
});

test('firstLine takes line breaks and one line', () => {
  assert.equal(firstLine('a\nb'), 'a');
  assert.equal(firstLine('\nb\nc'), '\nb');
  assert.equal(firstLine('\n\n  b\nc'), '\n\n  b');
  assert.equal(firstLine('\n'), '\n');
  assert.equal(firstLine('a'), 'a');
  assert.equal(firstLine(''), '');
});

test('firstLine: 300 random cases against a walk', () => {
  for (const text of texts(7, 300, 8, CODE)) {
    let end = 0;
    while (text[end] === '\n') end++;
    while (end < text.length && text[end] !== '\n') end++;
    assert.equal(firstLine(text), text.slice(0, end), JSON.stringify(text));
  }
});

test('words, and lines, one after the other are the whole text', () => {
  for (const text of texts(8, 300, 12, CODE)) {
    for (const part of [firstWord, firstLine]) {
      let rest = text;
      let taken = '';
      while (rest) {
        const piece = part(rest);
        assert.notEqual(piece, '', JSON.stringify(rest));
        taken += piece;
        rest = rest.slice(piece.length);
      }
      assert.equal(taken, text);
    }
  }
});

test('normalizeBreaks: 300 random cases; what has come stays as more comes', () => {
  const ends = texts(10, 300, 4, ['a', '\r', '\n', '\r\n']);
  texts(9, 300, 4, ['a', '\r', '\n', '\r\n']).forEach((text, i) => {
    assert.equal(normalizeBreaks(text), text.split('\r\n').join('\n').split('\r').join('\n'));
    assert.ok(normalizeBreaks(text + ends[i]).startsWith(normalizeBreaks(text)));
  });
});

