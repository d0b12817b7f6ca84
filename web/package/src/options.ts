/** What callers pass in, checked before it crosses to the engine: JavaScript does not check types, and JSON has no NaN. */

import { InCoderError } from './errors.js';
import type { CheckOptions, FitOptions, GenerateOptions, InfillInput, InfillOptions, LoadOptions, MeasureOptions } from './types.js';

/** What was expected in place of a value; null where the value is right. */
type Check = (value: unknown) => string | null;

/** A check for every option: the type makes a forgotten one an error. */
type Checks<T> = { [K in keyof Required<T>]: Check };

const check =
  (expected: string, holds: (value: unknown) => boolean): Check =>
  (value) =>
    holds(value) ? null : expected;

const integer = (least: number, most = Number.MAX_SAFE_INTEGER): Check =>
  check(most < Number.MAX_SAFE_INTEGER ? `an integer from ${least} to ${most}` : `an integer from ${least} on`, (value) => {
    return typeof value === 'number' && Number.isSafeInteger(value) && value >= least && value <= most;
  });

const number = (expected: string, holds: (value: number) => boolean): Check =>
  check(expected, (value) => typeof value === 'number' && Number.isFinite(value) && holds(value));

const oneOf = (...values: string[]): Check =>
  check(values.map((value) => `'${value}'`).join(' or '), (value) => values.includes(value as string));

const isText = (value: unknown): value is string => typeof value === 'string';
const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null;
const isUrl = (value: unknown) => isText(value) || value instanceof URL;
const isFunction = (value: unknown) => typeof value === 'function';

const flag = check('true or false', (value) => typeof value === 'boolean');
const text = check('a text', isText);
const url = check('a URL, absolute or relative to the page', isUrl);
const callback = check('a function', isFunction);
// Not instanceof: a signal may come from another window.
const signal = check('an AbortSignal', (value) => isObject(value) && 'aborted' in value && 'addEventListener' in value);

/** The engine's counts are 32 bits wide. */
const MOST = 0xffff_ffff;

const SPECIAL = oneOf('literal', 'reject', 'parse');

const GENERATE: Checks<GenerateOptions> = {
  maxTokens: integer(0, MOST),
  temperature: number('a number from 0 on', (value) => value >= 0),
  topP: number('a number above 0 and at most 1', (value) => value > 0 && value <= 1),
  topK: integer(0, MOST),
  repetitionPenalty: number('a number above 0 (1 changes nothing)', (value) => value > 0),
  seed: integer(0),
  stop: check('a list of texts, none of them empty', (value) => Array.isArray(value) && value.every((each) => isText(each) && each !== '')),
  maxTimeMs: number('a number of milliseconds from 0 on', (value) => value >= 0),
  candidates: integer(1, MOST),
  heal: flag,
  ignoreEos: flag,
  lookup: flag,
  specialTokens: SPECIAL,
  onOverflow: oneOf('window', 'error'),
  maxPromptTokens: integer(1, MOST),
  supersede: flag,
  signal,
  onToken: callback,
};

const INFILL: Checks<InfillOptions> = {
  ...GENERATE,
  extraSentinel: flag,
  maxRetries: integer(1, MOST),
  lookback: integer(0, MOST),
  end: oneOf('auto', 'mask', 'line', 'block'),
};

const MEASURE: Checks<MeasureOptions> = {
  worker: check('true, false, the URL of worker.js, or a function that makes the worker', (value) => {
    return typeof value === 'boolean' || isUrl(value) || isFunction(value);
  }),
  wasm: check('a URL, the bytes of incoder_bg.wasm, or a WebAssembly.Module', (value) => {
    return isUrl(value) || value instanceof ArrayBuffer || ArrayBuffer.isView(value) || value instanceof WebAssembly.Module;
  }),
  signal,
};

const LOAD: Checks<LoadOptions> = {
  ...MEASURE,
  revision: check('a text that is not empty', (value) => isText(value) && value !== ''),
  baseUrl: url,
  server: url,
  apiKey: check('a key of letters, digits and signs', (value) => isText(value) && /^[\x21-\x7e]+$/.test(value)),
  files: check('a list of files', (value) => isObject(value) && Symbol.iterator in value && [...(value as Iterable<unknown>)].every(isObject)),
  randomWeights: flag,
  token: text,
  cache: flag,
  contextLength: integer(1, MOST),
  kv: oneOf('auto', 'f16', 'f32'),
  quantize: oneOf('q8', 'q4'),
  subgroups: flag,
  onProgress: callback,
};

const FIT: Checks<FitOptions> = {
  contextLength: integer(1, MOST),
  candidates: integer(1, MOST),
  maxTokens: integer(1, MOST),
  quantize: oneOf('q8', 'q4'),
};

const TABLES = {
  generate: GENERATE,
  infill: INFILL,
  load: LOAD,
  measure: MEASURE,
  check: { ...MEASURE, model: check('a model', (value) => typeof value === 'string' || isObject(value)), subgroups: flag } satisfies Checks<CheckOptions>,
  fits: FIT,
  score: { topLogprobs: integer(0, MOST), signal } satisfies Checks<{ topLogprobs: number; signal: AbortSignal }>,
  encode: { bos: flag, specialTokens: SPECIAL },
  decode: { skipSpecial: flag },
} as const;

/** The options of a call without those that are undefined; throws INVALID_ARGUMENT for the first that is wrong or unknown. */
export function checked<T extends object>(call: keyof typeof TABLES, options: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  if (!isObject(options)) throw wrong(`the options of ${call}`, options, 'an object');
  const table: Record<string, Check> = TABLES[call];
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  for (const [name, value] of given) {
    const holds = Object.hasOwn(table, name) ? table[name] : undefined;
    if (!holds) {
      const known = Object.keys(table).join(', ');
      throw new InCoderError('INVALID_ARGUMENT', `${call} has no option ${name}; it has ${known}`, { option: name, known });
    }
    const expected = holds(value);
    if (expected !== null) throw wrong(name, value, expected);
  }
  return Object.fromEntries(given) as { [K in keyof T]: Exclude<T[K], undefined> };
}

/** Marks a hole in a text, as in the published demo. */
const MARKER = '<infill>';

/** The texts between the holes of `input`, and what the first hole begins with; throws INVALID_ARGUMENT. */
export function holes(input: InfillInput): { parts: string[]; begun?: string } {
  const given = isObject(input) ? Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined)) : {};
  const { prefix, suffix = '', begun, parts, text, marker = MARKER } = given;
  if (parts !== undefined) {
    if (Array.isArray(parts) && parts.every(isText)) return { parts };
    throw wrong('parts', parts, 'a list of texts');
  }
  if (text !== undefined) {
    const words = [aText('text', text), aText('marker', marker)] as const;
    if (words[1] === '') throw new InCoderError('INVALID_ARGUMENT', 'the marker is empty');
    return { parts: words[0].split(words[1]) };
  }
  if (prefix === undefined) throw wrong('what to infill', input, '{ prefix, suffix }, { parts } or { text } with <infill> at the holes');
  const around = [aText('prefix', prefix), aText('suffix', suffix)];
  return begun === undefined ? { parts: around } : { parts: around, begun: aText('begun', begun) };
}

/** The text itself; throws INVALID_ARGUMENT for anything else. */
export function aText(name: string, value: unknown): string {
  if (isText(value)) return value;
  throw wrong(name, value, 'a text');
}

/** A text, or token ids; throws INVALID_ARGUMENT for anything else. */
export function textOrIds(name: string, value: unknown): string | number[] {
  return isText(value) ? value : tokenIds(name, value);
}

/** Token ids: the engine itself says which of them the model has. */
export function tokenIds(name: string, value: unknown): number[] {
  if (!Array.isArray(value)) throw wrong(name, value, name === 'ids' ? 'a list of token ids' : 'a text or a list of token ids');
  const id: unknown = value.find((each) => integer(0, MOST)(each) !== null);
  if (id === undefined && !value.includes(undefined)) return value as number[];
  throw new InCoderError('INVALID_ARGUMENT', `${shown(id)} is no token id`, { id: plain(id) });
}

function wrong(name: string, value: unknown, expected: string): InCoderError {
  return new InCoderError('INVALID_ARGUMENT', `${name} is ${shown(value)}, expected ${expected}`, { option: name, value: plain(value), expected });
}

/** A value in a message: what it is, at most a line of it. */
function shown(value: unknown): string {
  if (isText(value)) return `'${value.length > 60 ? `${value.slice(0, 60)}…` : value}'`;
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (isObject(value)) return 'an object';
  return isFunction(value) ? 'a function' : String(value);
}

/** What crosses any border. */
const plain = (value: unknown): unknown => (isText(value) || typeof value === 'number' || typeof value === 'boolean' ? value : shown(value));
