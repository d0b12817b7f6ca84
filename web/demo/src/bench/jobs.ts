/** What is timed, as in `incoder bench`: each job is something that a user waits for. On token ids, so that every model does. */

import type { GenerateOptions, InCoder, Timings } from 'incoder';
import { rate, spread } from './report.js';
import type { Row, Spread } from './report.js';
import type { Work } from './work.js';

/** Tokens on both sides of the hole, and in it. */
const LEFT = 256;
const RIGHT = 128;
const HOLE = 32;
/** A sentinel for the hole, one after the right side, and the one that begins the new text. */
const SENTINELS = 3;
/** Tokens that were typed into the hole before. */
const BEGUN = 8;
/** Tokens in a hole that begins eight lines early, and of the line that is typed. */
const LOOKED_BACK = 96;
const LINE = 12;
/** New tokens of a warm-up: kernels are compiled by then. */
const WARM_UP_TOKENS = 2;

/** What is asked for. */
export interface Settings {
  /** Tokens of the prompt; 0: none is timed. */
  prompt: number;
  /** New tokens; 0: none are timed. */
  new: number;
  /** Tokens before the new ones. */
  depths: number[];
  infill: boolean;
  /** Each job is done once more than that, and the first time does not count. */
  repetitions: number;
}

/** Something that is timed; its figures are rows of the table. */
export interface Job {
  label: string;
  /** Tokens of context that it takes. */
  need: number;
  /** Does it once; repetition 0 is the warm-up. */
  time(repetition: number): Promise<Timings>;
  rows(times: Timings[]): Row[];
}

const EMPTY = {
  prompt_tokens: 0,
  depth_tokens: 0,
  new_tokens: 0,
  ttft_ms: null,
  tokens_per_second: null,
  ms_per_token: null,
  gflop_per_second: null,
};

/** The jobs, for a model and the rate at which the GPU reads, GB/s. */
export function jobs(settings: Settings, engine: InCoder, work: Work, limit: number | null, signal: AbortSignal): Job[] {
  const { prompt, new: count, depths, infill } = settings;
  const vocab = engine.info.vocabSize;
  // Knuth's multiplicative hash: ids without a pattern, the same ones as natively.
  const ids = (n: number): number[] => Array.from({ length: n }, (_, i) => Math.floor(((i + 1) * 2_654_435_761) / 128) % vocab);
  let first = ids(1)[0] ?? 0;
  /** A prompt of which the cache holds nothing. */
  const fresh = (n: number): number[] => [(first = (first + 1) % vocab), ...ids(n).slice(1)];

  /** Continues ids by exactly `maxTokens`, each in a step of its own. */
  const make = async (prompt: number[], maxTokens: number, options: GenerateOptions = {}): Promise<Timings> => {
    const made = await engine.generate(prompt, { maxTokens, ignoreEos: true, lookup: false, signal, ...options });
    if (made.ids.length !== maxTokens) throw new Error(`${made.ids.length} of ${maxTokens} tokens were generated`);
    return made.timings;
  };
  const whole = ({ ttftMs, decodeMs }: Timings): number => ttftMs + decodeMs;
  const of = (times: Timings[], value: (timings: Timings) => number): Spread => spread(times.map(value));

  /** How fast `bytes` were read. */
  const reads = (bytes: number, { median }: Spread): Pick<Row, 'gb_per_second' | 'limit_percent'> => {
    const gb = bytes / 1e6 / median;
    return { gb_per_second: gb, limit_percent: limit === null ? null : (100 * gb) / limit };
  };

  const prefill: Job = {
    label: `prefill ${prompt}`,
    need: prompt + 1,
    time: () => make(fresh(prompt), 1),
    rows: (times) => {
      const [ms, ttft] = [of(times, (t) => t.promptMs), of(times, (t) => t.ttftMs)];
      const bytes = work.prefillBytes(0, prompt);
      const gflop = work.prefillFlop(prompt) / 1e6 / ms.median;
      const tokens = { prompt_tokens: prompt, tokens_per_second: rate(ms, prompt), gflop_per_second: gflop };
      const token = { prompt_tokens: prompt, new_tokens: 1, ttft_ms: ttft };
      return [
        { ...EMPTY, test: 'prefill', label: `prefill ${prompt}`, ms, ...tokens, ...reads(bytes, ms) },
        { ...EMPTY, test: 'first_token', label: `first token after ${prompt}`, ms: ttft, ...token, ...reads(bytes, ttft) },
      ];
    },
  };
  const decode = (depth: number): Job => {
    // A text has a first token, before which there is nothing to decode from.
    const before = Math.max(1, depth);
    return {
      label: `decode ${count} at ${depth}`,
      need: before + count + 1,
      // The first token comes from the prompt: it is not one of those counted, and each of the others is one step.
      time: (repetition) => make(ids(before), 1 + (repetition === 0 ? Math.min(count, WARM_UP_TOKENS) : count), { temperature: 0 }),
      rows: (times) => {
        const ms = of(times, (t) => t.decodeMs);
        const figures = {
          depth_tokens: depth,
          new_tokens: count,
          tokens_per_second: rate(ms, count),
          ms_per_token: ms.median / count,
          ...reads(work.decodeBytes(before, count), ms),
        };
        return [{ ...EMPTY, test: 'decode', label: `decode ${count} at ${depth}`, ms, ...figures }];
      },
    };
  };
  const hole: Job = {
    label: `infill ${LEFT} _ ${RIGHT}, ${HOLE} new`,
    need: LEFT + RIGHT + SENTINELS + HOLE,
    time: (repetition) => make([...fresh(LEFT), ...ids(RIGHT + SENTINELS)], repetition === 0 ? WARM_UP_TOKENS : HOLE),
    rows: (times) => {
      const [ms, before] = [of(times, whole), LEFT + RIGHT + SENTINELS];
      const tokens = { prompt_tokens: before, new_tokens: HOLE, ttft_ms: of(times, (t) => t.ttftMs) };
      // The first token comes from the prompt's last step.
      const bytes = work.prefillBytes(0, before) + work.decodeBytes(before, HOLE - 1);
      return [{ ...EMPTY, test: 'infill', label: hole.label, ms, ...tokens, ...reads(bytes, ms) }];
    },
  };
  /** Another token between `before` and `behind` each time: what stands before it is in the cache, and nothing behind it is. */
  const typing = (test: Row['test'], label: string, before: number[], behind: number[]): Job => ({
    label,
    need: before.length + 1 + behind.length + 1,
    time: (repetition) => make([...before, repetition % vocab, ...behind], 1),
    rows: (times) => {
      const ms = of(times, (t) => t.ttftMs);
      const [depth, computed] = [before.length, 1 + behind.length];
      const tokens = { prompt_tokens: computed, depth_tokens: depth, new_tokens: 1, ttft_ms: ms };
      return [{ ...EMPTY, test, label, ms, ...tokens, ...reads(work.prefillBytes(depth, computed), ms) }];
    },
  });
  const rest = ids(RIGHT + SENTINELS);
  const typed = typing('infill_typed', 'infill, a token typed', ids(LEFT), rest);
  const begun = typing('infill_begun', 'infill, a token typed in it', [...ids(LEFT), ...rest, ...ids(BEGUN)], []);
  const line = typing('infill_line', 'infill, a line typed in it', [...ids(LEFT), ...rest, ...ids(LOOKED_BACK)], ids(LINE - 1));
  return [
    ...(prompt > 0 ? [prefill] : []),
    ...(count > 0 ? depths.map(decode) : []),
    ...(infill ? [hole, typed, begun, line] : []),
  ];
}
