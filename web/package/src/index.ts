/// <reference lib="esnext.disposable" preserve="true" />
/** InCoder in the browser: fills holes in code over WebGPU, and nothing leaves the machine. */

import { Connection } from './connection.js';
import { InCoderError } from './errors.js';
import { deleteModel, listModels, verifyModel } from './files/cache.js';
import { byBaseName } from './files/disk.js';
import { askPersistence } from './files/store.js';
import { aText, checked, holes, textOrIds, tokenIds } from './options.js';
import { configOf, probe } from './probe.js';
import type { LoadRequest, Loaded, Plain } from './protocol.js';
import type {
  AdapterSpeed,
  CheckOptions,
  Generation,
  GenerateOptions,
  GpuCheck,
  InfillInput,
  InfillOptions,
  Infilling,
  LoadOptions,
  LoadProgress,
  LostInfo,
  MeasureOptions,
  ModelCache,
  ModelInfo,
  Probe,
  Score,
  TokenEvent,
  Tokenizer,
} from './types.js';
import { wasm, type WasmSource } from './wasm.js';

export { InCoderError, type ErrorCode, type ErrorDetails } from './errors.js';
export type * from './types.js';

/** An engine in a worker or on the page, or a server. */
type Calls = Pick<Connection, 'call' | 'close'>;

/** A loaded model. */
export class InCoder {
  /** What it is and what it runs on. */
  readonly info: ModelInfo;
  /** Text to token ids and back, as the model reads it. */
  readonly tokenizer: Tokenizer;
  readonly #connection: Calls;
  readonly #losses: Losses;

  /** What this browser can do; downloads no model. */
  static probe(): Promise<Probe> {
    return probe();
  }

  /**
   * Measures what the GPU does at best. Takes 512 MiB of its memory for a fraction of a second, and many seconds where WebGPU
   * is computed on the CPU. An abort ends it at once, in a worker.
   */
  static async measure(options: MeasureOptions = {}): Promise<AdapterSpeed> {
    const { signal, worker = true, wasm: source } = checked('measure', options);
    const connection = new Connection(worker, () => undefined);
    try {
      return await connection.call('measure', [source === undefined ? {} : { wasm: wasmSource(source) }], { signal });
    } finally {
      connection.close(disposed());
    }
  }

  /**
   * Compares every kernel with the CPU, in the sizes of a model with random weights: one layer of it. Takes some seconds. An abort
   * ends it at once, in a worker.
   */
  static async check(options: CheckOptions = {}): Promise<GpuCheck> {
    const { signal, worker = true, wasm: source, model = 'demo', subgroups = true } = checked('check', options);
    const request = { config: configOf(model), subgroups, ...(source !== undefined && { wasm: wasmSource(source) }) };
    const connection = new Connection(worker, () => undefined);
    try {
      return await connection.call('check', [request], { signal });
    } finally {
      connection.close(disposed());
    }
  }

  /** The download cache of this browser. */
  static readonly cache: ModelCache = {
    list: () => listModels(),
    delete: async (id) => deleteModel(aText('id', id)),
    verify: async (id) => {
      aText('id', id);
      const { Sha256 } = await wasm();
      return verifyModel(id, () => new Sha256());
    },
  };

  /**
   * Loads a model, from the cache where it is there.
   *
   * Rejects with an `InCoderError`, or with the signal's reason; what was downloaded by then stays cached.
   */
  static load(model: string, options?: LoadOptions): Promise<InCoder>;
  /** Lets a server compute, whose model needs no name here. */
  static load(options: LoadOptions & { server: string | URL }): Promise<InCoder>;
  static async load(named: string | LoadOptions, given: LoadOptions = {}): Promise<InCoder> {
    const onlyOptions = typeof named === 'object' && named?.server !== undefined;
    const all = checked('load', onlyOptions ? named : given);
    if (all.server !== undefined) return InCoder.#connect(all);
    if (all.apiKey !== undefined) throw new InCoderError('INVALID_ARGUMENT', "apiKey is for a 'server', and there is none", { option: 'apiKey' });
    const model = aText('the model', named);
    const { signal, onProgress, worker = true, wasm: source, baseUrl, files, ...rest } = all;
    if (model === 'demo' && baseUrl === undefined && !files) {
      throw new InCoderError('INVALID_ARGUMENT', "the demo model is not on the hub: say where it is served with 'baseUrl'");
    }
    if (rest.randomWeights && !files) {
      throw new InCoderError('INVALID_ARGUMENT', "random weights are made for the config.json and tokenizer.json among 'files'");
    }
    const request: LoadRequest = { model, ...rest };
    // A file that crosses to the worker keeps its name and loses its folder.
    if (files) request.files = [...byBaseName(files).values()];
    // Only a page may ask that the cache is not thrown away.
    else if (rest.cache !== false) askPersistence();
    if (source !== undefined) request.wasm = wasmSource(source);
    if (baseUrl !== undefined) request.baseUrl = absolute(baseUrl);
    const losses = new Losses();
    const connection = new Connection(worker, (info) => losses.happened(info));
    try {
      const onEvent = onProgress && ((event: LoadProgress) => onProgress(event));
      const { facts, adapter } = await connection.call<Loaded, 'load'>('load', [request], { signal, onEvent });
      const info = { model, adapter, worker: worker !== false, ...facts } as ModelInfo;
      if (info.warning) console.warn(`InCoder: ${info.warning}`);
      return new InCoder(connection, losses, info);
    } catch (error) {
      void connection.call('dispose', []).catch(() => undefined).finally(() => connection.close(disposed()));
      throw error;
    }
  }

  /** Neither a worker nor the engine is started for a server. */
  static async #connect({ server, apiKey, signal, onProgress, ...others }: LoadOptions): Promise<InCoder> {
    const option = Object.keys(others)[0];
    if (option !== undefined) {
      throw new InCoderError('NOT_SUPPORTED', `a server has its model loaded already, and does not take the option ${option}`, { option });
    }
    const url = absolute(server ?? '');
    const { ServerConnection } = await import('./server.js');
    const connection = new ServerConnection(url, apiKey);
    const info = await connection.info(signal);
    onProgress?.({ phase: 'ready', done: 1, total: 1 });
    return new InCoder(connection, new Losses(), info);
  }

  private constructor(connection: Calls, losses: Losses, info: ModelInfo) {
    this.#connection = connection;
    this.#losses = losses;
    this.info = info;
    const encode: Tokenizer['encode'] = async (text, options = {}) => {
      const { bos = true, specialTokens = 'literal' } = checked('encode', options);
      return connection.call('encode', [aText('text', text), bos, specialTokens]);
    };
    this.tokenizer = {
      encode,
      decode: async (ids, options = {}) => {
        const { skipSpecial = false } = checked('decode', options);
        return connection.call('decode', [tokenIds('ids', ids), skipSpecial]);
      },
      count: async (text) => (await encode(text)).length,
    };
  }

  /** Settles when the GPU device is lost, or the model disposed of. After a loss the next call loads again. */
  get lost(): Promise<LostInfo> {
    return this.#losses.next;
  }

  /** Continues `prompt`: a text or token ids. The model is shown either exactly as it is. */
  async generate(prompt: string | number[], options: GenerateOptions = {}): Promise<Generation> {
    const { plain, ...rest } = split(checked('generate', options));
    return this.#connection.call('generate', [textOrIds('the prompt', prompt), plain], rest);
  }

  /** Fills every hole of `input`. */
  async infill(input: InfillInput, options: InfillOptions = {}): Promise<Infilling> {
    const { parts, ...begun } = holes(input);
    const { plain, ...rest } = split(checked('infill', options));
    const published = 'parts' in input && input.parts !== undefined && { published: true };
    return this.#connection.call('infill', [parts, { ...published, ...plain, ...begun }], rest);
  }

  /** `generate` token by token. Leaving the loop cancels; the return value is the whole result. */
  generateStream(prompt: string | number[], options: GenerateOptions = {}): AsyncGenerator<TokenEvent, Generation> {
    return stream(options, (more) => this.generate(prompt, more));
  }

  /** `infill` token by token. Leaving the loop cancels; the return value is the whole result. */
  infillStream(input: InfillInput, options: InfillOptions = {}): AsyncGenerator<TokenEvent, Infilling> {
    return stream(options, (more) => this.infill(input, more));
  }

  /** The log probability of every token of `text` (or of token ids, taken as they are). */
  async score(text: string | number[], options: { topLogprobs?: number | undefined; signal?: AbortSignal | undefined } = {}): Promise<Score> {
    const { topLogprobs = 0, signal } = checked('score', options);
    return this.#connection.call('score', [textOrIds('the text', text), topLogprobs], { signal });
  }

  /** Bytes of the wasm heap: the most that was ever in use, whatever the model's size. */
  async heapBytes(): Promise<number> {
    return this.#connection.call('heap', []);
  }

  /** Frees the GPU memory and ends the worker. Calls that still run, and later ones, reject with `DISPOSED`. */
  async dispose(): Promise<void> {
    const freed = this.#connection.call('dispose', []);
    await freed.catch(() => undefined);
    this.#connection.close(disposed());
    this.#losses.happened({ reason: 'disposed', message: 'the model was disposed of' });
  }

  /** `await using model = …` */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}

const disposed = () => new InCoderError('DISPOSED', 'this model was disposed of');

/** Relative addresses are relative to the page, or to the worker that loads; a bundler would put its disk's path for `import.meta.url`. */
function absolute(url: string | URL): string {
  try {
    return new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href).href;
  } catch {
    throw new InCoderError('INVALID_ARGUMENT', `not a URL: ${url}`, { url: String(url) });
  }
}

/** What crosses to the worker of what `wasm` may be. */
function wasmSource(source: NonNullable<LoadOptions['wasm']>): WasmSource {
  return typeof source === 'string' || source instanceof URL ? absolute(source) : source;
}

/** The promise of the next loss. */
class Losses {
  next!: Promise<LostInfo>;
  #settle!: (info: LostInfo) => void;

  constructor() {
    this.#renew();
  }

  happened(info: LostInfo): void {
    this.#settle(info);
    // A disposed model stays so: everybody who asks later is told, too.
    if (info.reason === 'lost') this.#renew();
  }

  #renew(): void {
    this.next = new Promise((resolve) => (this.#settle = resolve));
  }
}

/** What crosses to the host, and what stays. */
function split<T extends GenerateOptions>(options: T) {
  const { signal, onToken, ...plain } = options;
  const onEvent = onToken && ((event: TokenEvent) => onToken(event));
  return { plain: plain as Plain<T>, signal, onEvent };
}

/** Events as they come, from a call that takes `onToken`. */
async function* stream<T, O extends GenerateOptions>(options: O, call: (options: O) => Promise<T>): AsyncGenerator<TokenEvent, T> {
  const events: TokenEvent[] = [];
  const left = new AbortController();
  let wake: () => void = () => undefined;
  const onToken = (event: TokenEvent) => {
    options.onToken?.(event);
    events.push(event);
    wake();
  };
  const signal = options.signal ? AbortSignal.any([options.signal, left.signal]) : left.signal;
  let over = false;
  const result = call({ ...options, onToken, signal }).finally(() => {
    over = true;
    wake();
  });
  // The error comes out of the `return` below; until then nobody listens.
  result.catch(() => undefined);
  try {
    for (;;) {
      const event = events.shift();
      if (event) yield event;
      else if (over) return await result;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    left.abort(new DOMException('the stream was left', 'AbortError'));
  }
}
