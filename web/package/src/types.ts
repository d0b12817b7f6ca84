/** The public surface of `incoder`: what goes in and what comes out. Sizes are bytes, times are milliseconds. */

import type { InCoderError } from './errors.js';

/** What a model is loaded from: a hub name (`facebook/incoder-1B`), or any name when `baseUrl` or `files` says where it lies. */
export type ModelName = string;

/** One step of loading, in the order they come; `download`, `compile` and `upload` overlap. */
export type LoadPhase = 'plan' | 'download' | 'upload' | 'compile' | 'warmup' | 'ready';

/** How far loading is. Every phase ends with an event whose `done` equals `total`. */
export interface LoadProgress {
  phase: LoadPhase;
  /** Bytes for `download` and `upload`, pipelines for `compile`, otherwise 0 or 1. */
  done: number;
  total: number;
  /** The file being downloaded. */
  file?: string;
  /** Bytes of that file so far, and in all. */
  fileDone?: number;
  fileTotal?: number;
  /** Bytes a second over the last seconds; downloads only. */
  rate?: number;
  /** Milliseconds left at that rate; downloads only. */
  etaMs?: number;
  /** Whether all of it came from the cache. */
  cached?: boolean;
  /** Whether an earlier download was taken up where it ended. */
  resumed?: boolean;
  /** Set while another load of this model, in this tab or another one, downloads it: `done` is how far that one is. */
  waiting?: boolean;
}

/** What weights can be quantized to. */
export type Quantize = 'q8' | 'q4';

/** How a model is loaded. */
export interface LoadOptions {
  /** Branch, tag or commit on the hub; `main`. */
  revision?: string | undefined;
  /** Folder that holds config.json, tokenizer.json and the weights; the hub when left out. */
  baseUrl?: string | URL | undefined;
  /** The files themselves, from a file picker or a drop; nothing is downloaded or cached. */
  files?: Iterable<File> | undefined;
  /**
   * The weights are random, in the sizes of config.json, and the GPU makes them: says how fast a model would be, without one. With
   * `files`, which then are config.json and tokenizer.json; false.
   */
  randomWeights?: boolean | undefined;
  /**
   * Let an `incoder serve` compute instead of a GPU of this browser: its URL. Beside it, `apiKey`, `signal` and `onProgress` are the only
   * options; the model is the server's, and its name may be left out.
   */
  server?: string | URL | undefined;
  /** The key that the server was started with. */
  apiKey?: string | undefined;
  /** The hub's access token. */
  token?: string | undefined;
  /** Keep what is downloaded, and what was measured of the GPU, in this browser; true. */
  cache?: boolean | undefined;
  /**
   * Run in a dedicated worker; true. `false` runs on the page itself. A URL says where worker.js lies when it is not beside the
   * package, and a function makes the worker, from the entry `incoder/worker`.
   */
  worker?: boolean | string | URL | (() => Worker) | undefined;
  /** Where incoder_bg.wasm lies when it is not beside the package, or what is in it. */
  wasm?: string | URL | BufferSource | WebAssembly.Module | undefined;
  /** Tokens that the KV cache holds; the model's own context when left out. */
  contextLength?: number | undefined;
  /** How keys and values are stored; `auto`, which is `f16` until a value is beyond its range and `f32` from there on. */
  kv?: 'auto' | 'f16' | 'f32' | undefined;
  /**
   * Quantize the weights on their way to the GPU: `q8` to 8 bits, half of fp16 and as accurate, `q4` to 4, a third and a little less
   * accurate. A model that is stored quantized stays as it is stored. Left out: fp16.
   */
  quantize?: Quantize | undefined;
  /** Use subgroup operations where the browser has them; true. */
  subgroups?: boolean | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/** Why a text ends. */
export type FinishReason = 'eos' | 'stop' | 'length' | 'context' | 'cancelled' | 'time' | 'end_of_mask';

/** One more token. Texts of one `index` together are the text that is returned in the end. */
export interface TokenEvent {
  /** The candidate, or the region when infilling. */
  index: number;
  /** The token's id; null where only text that had been held back comes. */
  id: number | null;
  /** The text that is certain now; empty while a character or a possible stop text is unfinished. */
  text: string;
  /** Set on the last event of an index. */
  finishReason?: FinishReason;
  /** Set where an infill begins anew: the texts so far are void. */
  attempt?: number;
}

/** What text is that spells a special token. */
export type SpecialTokens = 'literal' | 'reject' | 'parse';

/** The part of a text that the model was shown. */
export interface Window {
  /** Its first line, counted from 1. */
  firstLine: number;
  /** Its last line. */
  lastLine: number;
  /** Its tokens, without sentinels. */
  tokens: number;
  /** Tokens of the text outside it, estimated from its size; 0 where all of it was shown. */
  leftOutTokens: number;
}

/** How text is made. The defaults are the published ones. */
export interface GenerateOptions {
  /** Most new tokens, of each region when infilling; 128. */
  maxTokens?: number | undefined;
  /** 0 takes the most probable token; 0.2. */
  temperature?: number | undefined;
  /** 0.95. */
  topP?: number | undefined;
  /** 50; 0 is no limit. */
  topK?: number | undefined;
  /** 1 changes nothing. */
  repetitionPenalty?: number | undefined;
  /** Equal seeds give equal texts on the same adapter; 0. */
  seed?: number | undefined;
  /** Texts that end a text; they are not part of it. */
  stop?: string[] | undefined;
  /** Ends the texts after so many milliseconds, with the finish reason `time`. */
  maxTimeMs?: number | undefined;
  /** How many texts; 1. */
  candidates?: number | undefined;
  /** Take back tokens before the cursor that may begin a longer one; true. */
  heal?: boolean | undefined;
  /** Go on after `<|endoftext|>`, which then is part of the text; false. Infilling always ends there. */
  ignoreEos?: boolean | undefined;
  /** Try what followed the same tokens before, several tokens a step: the text is the same; true. */
  lookup?: boolean | undefined;
  /**
   * What text is that spells a special token of the model, such as `<|mask:0|>` or `<s>`: text like any other (`literal`, the
   * default), an error (`reject`), or the special token itself (`parse`), which the model may then generate, too.
   */
  specialTokens?: SpecialTokens | undefined;
  /**
   * What to do with text that the context window cannot hold: `window` (the default) shows the model the text around the hole, or
   * the end of a prompt, and the result says which part that was; `error` rejects with `CONTEXT_OVERFLOW`.
   */
  onOverflow?: 'window' | 'error' | undefined;
  /** Most tokens of the prompt, where that is less than the context window has room for: a shorter prompt is read sooner. */
  maxPromptTokens?: number | undefined;
  /** Let this call end the one that runs, which then rejects with the reason `superseded`. */
  supersede?: boolean | undefined;
  /** Rejects with the signal's reason within one token or prefill chunk; what was computed stays cached. */
  signal?: AbortSignal | undefined;
  onToken?: ((event: TokenEvent) => void) | undefined;
}

/** How holes are filled. */
export interface InfillOptions extends GenerateOptions {
  /** One more sentinel after the last part, as in training; true. */
  extraSentinel?: boolean | undefined;
  /** Attempts in all until every region has ended; 1. */
  maxRetries?: number | undefined;
  /**
   * How many lines before a cursor are put into the hole, as its beginning, instead of before it: the model goes on from them, and
   * finds more. The hole begins at a line whose number is a multiple of this, between this many and twice as many lines before the
   * cursor, so that it stays the same while lines are typed. 8 for one hole, 0 for several and for `{ parts }`; 0 is the published prompt.
   */
  lookback?: number | undefined;
  /**
   * What ends a hole beside stop texts and `maxTokens`: the model alone (`mask`), also a line break (`line`), or also a line that
   * repeats the text behind the hole or is indented less than the cursor's line (`block`). `auto`, the default, is `block` with
   * look-back and `mask` without.
   */
  end?: 'auto' | 'mask' | 'line' | 'block' | undefined;
}

/** What is to be filled: around one cursor, between parts, or at every marker of a text. */
export type InfillInput =
  | {
      prefix: string;
      suffix?: string | undefined;
      /**
       * What the hole begins with already; the new text goes on from there. While only this grows from call to call, the KV cache
       * keeps everything around it: a character typed costs a step or two, and not the text behind the cursor.
       */
      begun?: string | undefined;
    }
  | {
      /** The texts around the holes, in the published form: shown to the model exactly as they are, line ends included. */
      parts: string[];
    }
  | { text: string; /** `<infill>` */ marker?: string | undefined };

/** Where the time went. */
export interface Timings {
  /** Computing prompts, all of them together: each further hole has one of its own. */
  promptMs: number;
  /** From the call to the first token of all. */
  ttftMs: number;
  decodeMs: number;
  tokensPerSecond: number;
}

/** One text. */
export interface Candidate {
  text: string;
  /** The tokens generated, the one that ended it included. */
  ids: number[];
  finishReason: FinishReason;
}

/** A prompt continued. */
export interface Generation extends Candidate {
  /** All candidates, the first of which is this one. */
  candidates: Candidate[];
  promptTokens: number;
  /** Of these, tokens that were still in the KV cache. */
  cachedTokens: number;
  /** The part of a text prompt that was shown; null for token ids. */
  window: Window | null;
  timings: Timings;
}

/** A document with its holes filled. */
export interface Infilling {
  /** The parts with the infills between them. */
  text: string;
  parts: string[];
  infills: Candidate[];
  retriesAttempted: number;
  /** Whether every region ended by itself. */
  complete: boolean;
  promptTokens: number;
  cachedTokens: number;
  timings: Timings;
  /** The part of the document that was shown for each hole; the texts above hold all of it. */
  windows: Window[];
  /** The other candidates, drawn with the seeds that follow. */
  alternatives?: Infilling[];
}

/** The log probabilities of a text. */
export interface Score {
  ids: number[];
  /** Of each token after those before it; null for the first. */
  logprobs: (number | null)[];
  /** After each token, the most probable next ones: [id, log probability]. */
  top: [number, number][][];
  sum: number | null;
  mean: number | null;
}

/** Text to token ids and back. */
export interface Tokenizer {
  encode(text: string, options?: { bos?: boolean | undefined; specialTokens?: SpecialTokens | undefined }): Promise<number[]>;
  decode(ids: number[], options?: { skipSpecial?: boolean | undefined }): Promise<string>;
  /** Tokens of `text`, the one that comes first included. */
  count(text: string): Promise<number>;
}

/** The loaded model, and what it runs on. What a server does not say of its model is 0, false or empty. */
export interface ModelInfo {
  model: string;
  /** The URL of the server that computes; left out where this browser does. */
  server?: string;
  parameters: number;
  contextLength: number;
  /** Tokens of a prompt that are computed in one step. */
  prefillChunk: number;
  vocabSize: number;
  layers: number;
  dModel: number;
  heads: number;
  /** How the weights are stored on the GPU. */
  weights: 'f16' | Quantize | '';
  kv: 'f16' | 'f32' | '';
  /** GPU memory of weights, KV cache and what a step computes in, bytes. */
  gpuBytes: number;
  adapter: AdapterInfo;
  /** Whether the kernels use subgroup operations. */
  subgroups: boolean;
  /** What this GPU computes wrong, and what was done about it; null where nothing was found. */
  warning: string | null;
  worker: boolean;
}

/** What the browser says of its GPU. Names may be empty: browsers hide them. */
export interface AdapterInfo {
  vendor: string;
  architecture: string;
  description: string;
  /** Computed on the CPU: slow. */
  software: boolean;
  f16: boolean;
  /** Subgroup operations, with all that the engine needs of them. */
  subgroups: boolean;
  limits: {
    maxBufferSize: number;
    maxStorageBufferBindingSize: number;
    maxComputeInvocationsPerWorkgroup: number;
    maxComputeWorkgroupStorageSize: number;
  };
}

/** The rate at which the GPU reads memory that no cache holds. */
export interface ReadRate {
  /** 10⁹ bytes a second. */
  gbPerSecond: number;
  /** Threads of a workgroup that reached it. */
  workgroupThreads: number;
}

/** What the GPU does at best, measured: a token is never made faster than its weights are read. */
export interface AdapterSpeed {
  /** The better of the two. */
  readGbPerSecond: number;
  /** From storage buffers. */
  buffer: ReadRate;
  /** From textures. */
  texture: ReadRate;
  /** One dispatch more in a pass, microseconds. */
  dispatchUs: number;
  /** From a submit until 4 bytes of its result are read, microseconds. */
  roundTripUs: number;
}

/** How the GPU is measured. */
export type MeasureOptions = Pick<LoadOptions, 'worker' | 'wasm' | 'signal'>;

/** How the GPU is checked. */
export interface CheckOptions extends MeasureOptions {
  /** Check the kernels in the sizes of this model, or of a config.json; the demo model's. */
  model?: FitQuery | undefined;
  /** With subgroup operations where the browser has them; true. */
  subgroups?: boolean | undefined;
}

/** How far one output of a kernel is from the CPU reference's. */
export interface KernelCheck {
  /** The kernel, and which of its outputs. */
  kernel: string;
  /** The KV cache it was checked with. */
  kv: 'f16' | 'f32';
  /** Tokens of the step. */
  tokens: number;
  /** The largest difference, as a share of how large the values are; null where a value is not a number. */
  error: number | null;
  /** The most that rounding explains. */
  tolerance: number;
  /** The token, and the value of it, where that is; what the GPU has there, and what it should have. */
  token: number;
  value: number;
  got: number | null;
  expected: number;
  right: boolean;
}

/** Whether the GPU computes what the CPU computes. */
export interface GpuCheck {
  adapter: AdapterInfo;
  kernels: KernelCheck[];
  /** All of them are right. */
  right: boolean;
  /** The paths of the engine without which they are, by their names with commas between; null where nothing is wrong or nothing helps. */
  avoidedBy: string | null;
}

/** One limit that a model does not fit. */
export interface Blocker {
  /** WebGPU's name of it. */
  limit: string;
  /** Bytes. */
  need: number;
  /** Bytes of it that the engine can use: drivers count a buffer in 31 bits, whatever the adapter claims. */
  have: number;
}

/** What this browser can do, before anything is downloaded. */
export type Probe =
  | { ok: false; reason: 'no-api' | 'insecure-context' | 'no-adapter' | 'not-a-browser'; message: string; fits: FitFunction }
  | ({ ok: true; fits: FitFunction } & AdapterInfo);

/** What a model takes, and whether it fits; rejects for a config.json that no InCoder model has. */
export type FitFunction = (model: FitQuery, options?: FitOptions) => Promise<Fit>;

/** A published model by name, or a config.json. */
export type FitQuery =
  | 'demo'
  | 'facebook/incoder-1B'
  | 'facebook/incoder-6B'
  | 'Qwen/Qwen2.5-Coder-0.5B'
  | 'Qwen/Qwen2.5-Coder-1.5B'
  | { config: string };

/** How the model is to be used. */
export interface FitOptions {
  /** Tokens of context; left out: what the model was trained on. */
  contextLength?: number | undefined;
  /** Candidates from one prompt (1). */
  candidates?: number | undefined;
  /** New tokens of each candidate (128). */
  maxTokens?: number | undefined;
  /** What the weights are to be quantized to; left out: fp16, or what they are stored in. */
  quantize?: Quantize | undefined;
}

/** Whether a model fits this browser's limits. Browsers do not tell how much GPU memory is free. */
export interface Fit {
  fits: boolean;
  /** The limits that are too small; none where there is no GPU at all. */
  blockers: Blocker[];
  /** GPU memory, bytes: the sum of the three. */
  gpuBytes: number;
  /** How the weights are stored. */
  weights: 'f16' | Quantize;
  /** Their size. */
  weightBytes: number;
  /** Keys and values, fp16. */
  kvCacheBytes: number;
  /** What a step computes in. */
  scratchBytes: number;
  /** Tokens of the context that are left for the prompt: the candidates share it, and each takes `maxTokens` for itself. */
  promptTokens: number;
  /** The most tokens of the asked context that the limits allow; null where not even one token fits, or there is no GPU. */
  largestContext: number | null;
}

/** Why `lost` settled. */
export interface LostInfo {
  reason: 'lost' | 'disposed';
  message: string;
}

/** One file in the cache. */
export interface CachedFile {
  name: string;
  /** Bytes kept so far, and in all. */
  done: number;
  total: number;
  sha256?: string;
}

/** One model in the cache. */
export interface CachedModel {
  /** `name@revision`, or its base URL; `#q8-v1` or `#q4-v1` follows where it is kept quantized, in version 1 of the format. */
  id: string;
  files: CachedFile[];
  bytes: number;
  complete: boolean;
}

/** What `verify` found. */
export interface Verified {
  id: string;
  ok: boolean;
  /** One line for each file that is damaged or not whole; damaged ones were deleted. */
  problems: string[];
}

/** The download cache of this browser. */
export interface ModelCache {
  list(): Promise<CachedModel[]>;
  verify(id: string): Promise<Verified>;
  delete(id: string): Promise<boolean>;
}

export type { InCoderError };
