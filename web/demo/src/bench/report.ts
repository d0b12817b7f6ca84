/** Rows of figures, and the table that shows them. In JSON they have the names that `incoder bench -o json` gives them. */

import type { AdapterSpeed, ModelInfo } from 'incoder';
import { make } from '../dom.js';

/** Median, least and most of some repetitions. */
export interface Spread {
  median: number;
  min: number;
  max: number;
}

/** One measurement; a figure that makes no sense for it is null. */
export interface Row {
  test: 'prefill' | 'first_token' | 'decode' | 'infill' | 'infill_typed' | 'infill_begun' | 'infill_line';
  label: string;
  /** Tokens prefilled. */
  prompt_tokens: number;
  /** Tokens in the KV cache before. */
  depth_tokens: number;
  /** Tokens decoded. */
  new_tokens: number;
  ms: Spread;
  ttft_ms: Spread | null;
  tokens_per_second: Spread | null;
  ms_per_token: number | null;
  gb_per_second: number;
  limit_percent: number | null;
  gflop_per_second: number | null;
}

/** Everything that was measured, and on what. */
export interface Report {
  model: string;
  parameters: number;
  weight_bytes: number;
  kv: ModelInfo['kv'];
  context_tokens: number;
  repetitions: number;
  device: { name: string; backend: 'webgpu'; type: 'software' | 'gpu'; driver: '' };
  browser: string;
  limit: Limit | null;
  rows: Row[];
  left_out: { row: string; need_tokens: number; have_tokens: number }[];
}

interface Limit {
  read_gb_per_second: number;
  buffer: { gb_per_second: number; workgroup_threads: number };
  texture: { gb_per_second: number; workgroup_threads: number };
  dispatch_us: number;
  round_trip_us: number;
}

/** What the GPU does at best, by its names in JSON. */
export function limitOf(speed: AdapterSpeed): Limit {
  const rate = (way: AdapterSpeed['buffer']) => ({ gb_per_second: way.gbPerSecond, workgroup_threads: way.workgroupThreads });
  return {
    read_gb_per_second: speed.readGbPerSecond,
    buffer: rate(speed.buffer),
    texture: rate(speed.texture),
    dispatch_us: speed.dispatchUs,
    round_trip_us: speed.roundTripUs,
  };
}

/** Of at least one value. */
export function spread(values: number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (i: number): number => sorted[i] ?? 0;
  const last = sorted.length - 1;
  return { median: (at(last >> 1) + at((last + 1) >> 1)) / 2, min: at(0), max: at(last) };
}

/** `count` a second, of times in milliseconds. */
export function rate({ median, min, max }: Spread, count: number): Spread {
  const aSecond = (ms: number): number => (count * 1e3) / ms;
  return { median: aSecond(median), min: aSecond(max), max: aSecond(min) };
}

/** Three digits or more. */
export const figure = (value: number): string => value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3);

const optional = (value: number | null | undefined, unit = ''): string =>
  value === null || value === undefined ? '' : figure(value) + unit;

/** A column: its head, and its cell in a row. */
const COLUMNS: [string, (row: Row) => string][] = [
  ['Test', (row) => row.label],
  ['ms', ({ ms }) => figure(ms.median)],
  ['min … max', ({ ms }) => `${figure(ms.min)} … ${figure(ms.max)}`],
  ['tokens/s', (row) => optional(row.tokens_per_second?.median)],
  ['TTFT ms', (row) => optional(row.ttft_ms?.median)],
  ['GB/s', (row) => figure(row.gb_per_second)],
  ['of limit', (row) => optional(row.limit_percent, ' %')],
  ['GFLOP/s', (row) => optional(row.gflop_per_second)],
];

export const tableHead = (): HTMLElement => make('tr', {}, ...COLUMNS.map(([name]) => make('th', { scope: 'col' }, name)));

export const tableRow = (row: Row): HTMLElement =>
  make(
    'tr',
    { 'data-test': row.test },
    ...COLUMNS.map(([, cell], i) => (i === 0 ? make('th', { scope: 'row' }, cell(row)) : make('td', {}, cell(row)))),
  );
