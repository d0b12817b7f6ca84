// Ghost text's string functions against plain definitions, on cases by hand and on a few hundred random ones.
import assert from 'node:assert/strict';
import test from 'node:test';
import {
  consumeTyped,
  firstLine,
  firstWord,
  normalizeBreaks,
  offered,
  trimOverlap,
  TypingAlong,
} from '../package/dist/ghost.js';
import { inlineCompletions } from '../package/dist/monaco.js';

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


test('offered: what of a text is worth showing at a cursor', () => {
  for (const [text, suffix, shown] of [
    ['x + y', '', 'x + y'],
    ['x + y\n    return z', '\n\ndef g():\n', 'x + y\n    return z'],
    // Code behind the cursor: one line, without what stands there.
    ['a, b)\nc', ')\n', 'a, b'],
    ['a)', 'a)\n', ''],
    // Blanks behind it are none.
    ['x', '   \n', 'x'],
    // The next lines are no suggestion.
    ['    return n', '\n    return n\n', ''],
    ['\nreturn n', '\nreturn n', ''],
    ['return n\n', '\nreturn n2\n', 'return n\n'],
    [' \n ', '', ''],
    ['', 'x', ''],
  ]) {
    assert.equal(offered(text, suffix), shown, JSON.stringify([text, suffix]));
  }
});

/** A source whose pieces come when the test says so. */
function source() {
  const made = [];
  const complete = ({ prefix, signal }) => {
    let push;
    const queue = [];
    const call = { prefix, signal, say: (text) => (queue.push(text), push?.()) };
    made.push(call);
    return (async function* () {
      for (;;) {
        while (queue.length === 0) await new Promise((resolve) => (push = resolve));
        const text = queue.shift();
        if (text === null) return;
        yield text;
      }
    })();
  };
  return { made, complete };
}

const never = new AbortController().signal;

test('TypingAlong: a request goes on while its text is typed, and ends when something else is', async () => {
  const { made, complete } = source();
  const along = new TypingAlong(complete);
  const gone = new AbortController();
  const first = along.suggest({ prefix: 'a = ', suffix: '\n', signal: gone.signal });
  made[0].say('foo');
  await new Promise(setImmediate);
  gone.abort();
  assert.equal(await first, '');
  assert.ok(along.goesOn('a = f', '\n'));
  // The editor closed a bracket behind the cursor.
  assert.ok(along.goesOn('a = foo(', ')\n'));
  assert.ok(!along.goesOn('a = g', '\n') && !along.goesOn('b = ', '\n') && !along.goesOn('a = f', 'x\n'));
  const second = along.suggest({ prefix: 'a = fo', suffix: '\n', signal: never });
  made[0].say('(bar)');
  made[0].say(null);
  assert.equal(await second, 'o(bar)');
  assert.equal(made.length, 1);
  // A whole suggestion serves without being asked for again.
  assert.equal(await along.suggest({ prefix: 'a = foo(b', suffix: '\n', signal: never }), 'ar)');
  const third = along.suggest({ prefix: 'x', suffix: '', signal: never });
  const fourth = along.suggest({ prefix: 'y', suffix: '', signal: never });
  assert.ok(made[1].signal.aborted && !made[2].signal.aborted);
  for (const call of made.slice(1)) call.say(null);
  assert.deepEqual(await Promise.all([third, fourth]), ['', '']);
});

/** The part of Monaco's text model that the provider uses. */
function textModel(text) {
  const lines = text.split('\n');
  return {
    getFullModelRange: () => ({ startLineNumber: 1, startColumn: 1, endLineNumber: lines.length, endColumn: lines.at(-1).length + 1 }),
    getLineMaxColumn: (line) => lines[line - 1].length + 1,
    getValueInRange({ startLineNumber, startColumn, endLineNumber, endColumn }) {
      const at = (line, column) => lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0) + column - 1;
      return text.slice(at(startLineNumber, startColumn), at(endLineNumber, endColumn));
    },
  };
}

const token = { isCancellationRequested: false, onCancellationRequested() {} };

test('Monaco: every suggestion has its range, and goes on after a selected entry', async () => {
  const asked = [];
  const provider = inlineCompletions({
    debounceMs: 0,
    complete: async ({ prefix, suffix }) => (asked.push([prefix, suffix]), 'b + c\nd'),
  });
  const provide = (text, line, column, context = {}) =>
    provider.provideInlineCompletions(textModel(text), { lineNumber: line, column }, { triggerKind: 0, ...context }, token);
  const range = (line, from, to) => ({ startLineNumber: line, startColumn: from, endLineNumber: line, endColumn: to });
  assert.deepEqual(await provide('a = \nx', 1, 5), { items: [{ insertText: 'b + c\nd', range: range(1, 5, 5) }] });
  // Blanks up to the line's end are replaced: text of several lines has to end where its line ends.
  assert.deepEqual(await provide('e = 1\na =   \nx', 2, 5), { items: [{ insertText: 'b + c\nd', range: range(2, 5, 7) }] });
  assert.deepEqual(await provide('f(, 1)', 1, 3), { items: [{ insertText: 'b + c', range: range(1, 3, 3) }] });
  const selectedSuggestionInfo = { range: range(1, 5, 7), text: 'value.' };
  const selected = await provide('a = va', 1, 7, { selectedSuggestionInfo });
  assert.deepEqual(selected, { items: [{ insertText: 'value.b + c\nd', range: range(1, 5, 7) }] });
  assert.deepEqual(asked, [['a = ', '\nx'], ['e = 1\na = ', '  \nx'], ['f(', ', 1)'], ['a = value.', '']]);
  // Old and new versions of Monaco call one or the other.
  provider.freeInlineCompletions();
  provider.disposeInlineCompletions();
});

test('Monaco: an error is told, and no suggestion is shown', async () => {
  const errors = [];
  const provider = inlineCompletions({ debounceMs: 0, onError: (error) => errors.push(error), complete: async () => { throw new Error('no'); } });
  const made = await provider.provideInlineCompletions(textModel('a'), { lineNumber: 1, column: 2 }, { triggerKind: 1 }, token);
  assert.deepEqual([made, errors.map(({ message }) => message)], [{ items: [] }, ['no']]);
});
