/** The engine's side: owns the wasm module, the GPU device and the session; answers one connection. */

import { InCoderError } from './errors.js';
import { openFolder } from './files/folder.js';
import { keepTuning, keptTuning } from './files/tuning.js';
import { describe, openingDevice, requireAdapter } from './gpu.js';
import type { Calls, Failure, Infill, LoadRequest, Loaded, Method, ToClient, ToHost } from './protocol.js';
import type { AdapterSpeed, Candidate, Generation, GpuCheck, Infilling, LoadProgress, Score, TokenEvent } from './types.js';
import { wasm, type Wasm, type WasmSource } from './wasm.js';

/** A call that was asked for and is not answered yet. */
interface Running {
  /** Why it is to stop. */
  stop?: 'aborted' | 'superseded' | 'disposed' | 'time';
  flag?: { cancel(): void };
  abort: AbortController;
}

interface Model {
  engine: import('./wasm/incoder.js').Engine;
  device: GPUDevice;
  loaded: Loaded;
}

/** Answers the messages of one client. */
export class Host {
  readonly #post: (message: ToClient) => void;
  readonly #running = new Map<number, Running>();
  #request: LoadRequest | undefined;
  #model: Model | undefined;
  /** The model's calls, one after the other. */
  #turn: Promise<unknown> = Promise.resolve();
  #disposed = false;

  constructor(post: (message: ToClient) => void) {
    this.#post = post;
  }

  /** Takes a message; the answer comes through `post`. */
  handle(message: ToHost): void {
    if ('cancel' in message) {
      this.#stop(message.cancel, 'aborted');
      return;
    }
    const { id, method, args } = message;
    const call: Running = { abort: new AbortController() };
    if (supersedes(args)) for (const other of this.#running.keys()) this.#stop(other, 'superseded');
    this.#running.set(id, call);
    this.#answer(id, method, args, call)
      .then((result) => {
        // Whoever ended the call, its half is not what was asked for; only time gives what there is.
        if (call.stop && call.stop !== 'time') throw new DOMException(call.stop, 'AbortError');
        this.#post({ id, result });
      })
      .catch((error: unknown) => this.#post({ id, failure: failure(error, call) }))
      .finally(() => this.#running.delete(id));
  }

  #stop(id: number, why: NonNullable<Running['stop']>): void {
    const call = this.#running.get(id);
    if (!call || call.stop) return;
    call.stop = why;
    call.flag?.cancel();
    call.abort.abort(new DOMException(why, 'AbortError'));
  }

  #answer(id: number, method: Method, args: Calls[Method], call: Running): Promise<unknown> {
    if (method === 'dispose') return this.#dispose(id);
    // Calls take turns; one that was cancelled while it waited never starts.
    const turn = this.#turn.then(() => {
      call.abort.signal.throwIfAborted();
      if (this.#disposed) throw disposed();
      const emit = (event: LoadProgress | TokenEvent) => this.#post({ id, event });
      return this.#run(method, args, call, emit);
    });
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  async #run(method: Method, args: Calls[Method], call: Running, emit: (event: LoadProgress | TokenEvent) => void) {
    if (method === 'load') {
      const [request] = args as Calls['load'];
      this.#model = await load(request, call.abort.signal, emit, this.#watch);
      this.#request = request;
      return this.#model.loaded;
    }
    if (method === 'measure') return measure(...(args as Calls['measure']));
    if (method === 'check') return check(...(args as Calls['check']));
    const { engine, device } = await this.#ready(call.abort.signal);
    try {
      return await this.#compute(engine, method, args, call, emit);
    } catch (error) {
      // A call may hear of the loss before the device says so.
      const lost = InCoderError.fromEngine(error);
      if (lost?.code === 'DEVICE_LOST') this.#forget(device, lost.message);
      throw error;
    }
  }

  async #compute(
    engine: Model['engine'],
    method: Method,
    args: Calls[Method],
    call: Running,
    emit: (event: LoadProgress | TokenEvent) => void,
  ): Promise<unknown> {
    const { CancelFlag } = await wasm();
    switch (method) {
      case 'encode': {
        const [text, bos, special] = args as Calls['encode'];
        return [...engine.encode(text, bos, special)];
      }
      case 'decode': {
        const [ids, skipSpecial] = args as Calls['decode'];
        return engine.decode(Uint32Array.from(ids), skipSpecial);
      }
      case 'heap':
        return (await wasm()).heapBytes();
      case 'generate': {
        const [prompt, options] = args as Calls['generate'];
        return this.#timed(call, options.maxTimeMs, new CancelFlag(), async (flag) => {
          if (Array.isArray(prompt)) {
            const json = await engine.generateIds(Uint32Array.from(prompt), making(options), flag, tell(emit));
            return whole(JSON.parse(json) as Omit<Generation, keyof Candidate>);
          }
          const json = await engine.generate(prompt, making(options), flag, tell(emit));
          return whole(JSON.parse(json) as Omit<Generation, keyof Candidate>);
        }, () => whole(NOTHING));
      }
      case 'infill': {
        const [parts, options] = args as Calls['infill'];
        return this.#timed(call, options.maxTimeMs, new CancelFlag(), async (flag) => {
          return infill(engine, parts, options, flag, emit);
        }, () => unfilled(parts, options.begun));
      }
      case 'score': {
        const [text, top] = args as Calls['score'];
        const ids = typeof text === 'string' ? engine.encode(text, true, 'literal') : Uint32Array.from(text);
        return this.#timed(call, undefined, new CancelFlag(), async (flag) => {
          return JSON.parse(await engine.score(ids, top, flag)) as Score;
        });
      }
    }
    throw new InCoderError('INVALID_ARGUMENT', `no such call: ${method}`);
  }

  /** Runs a call that can be cancelled; when its time is over, what there is becomes its result. */
  async #timed<T extends Generation | Infilling | Score>(
    call: Running,
    maxTimeMs: number | undefined,
    flag: import('./wasm/incoder.js').CancelFlag,
    run: (flag: import('./wasm/incoder.js').CancelFlag) => Promise<T>,
    nothing?: () => T,
  ): Promise<T> {
    call.flag = flag;
    if (call.stop) flag.cancel();
    const over = () => {
      call.stop ??= 'time';
      flag.cancel();
    };
    const timer = maxTimeMs === undefined ? undefined : setTimeout(over, maxTimeMs);
    try {
      const made = await run(flag);
      if (call.stop !== 'time') return made;
      for (const text of textsOf(made)) if (text.finishReason === 'cancelled') text.finishReason = 'time';
      return 'candidates' in made ? ({ ...made, ...made.candidates[0] } as T) : made;
    } catch (error) {
      if (call.stop === 'time' && nothing && cancelled(error)) return nothing();
      throw error;
    } finally {
      clearTimeout(timer);
      delete call.flag;
      flag.free();
    }
  }

  /** The model, loaded again when its device was lost. */
  async #ready(signal: AbortSignal): Promise<Model> {
    if (this.#model) return this.#model;
    if (!this.#request) throw new InCoderError('INVALID_ARGUMENT', 'no model is loaded');
    this.#model = await load(this.#request, signal, () => undefined, this.#watch);
    return this.#model;
  }

  /** Notices when the device is lost. */
  #watch = (device: GPUDevice): void => {
    void device.lost.then(({ message }) => this.#forget(device, message || 'the GPU device was lost'));
  };

  /** Lets go of the model on a lost device, so that the next call loads anew. */
  #forget(device: GPUDevice, message: string): void {
    const model = this.#model;
    if (this.#disposed || model?.device !== device) return;
    this.#model = undefined;
    device.destroy();
    // A call may still hold the engine; it is freed after that.
    void this.#turn.then(() => model.engine.free());
    this.#post({ lost: { reason: 'lost', message } });
  }

  async #dispose(own: number): Promise<void> {
    this.#disposed = true;
    for (const id of this.#running.keys()) if (id !== own) this.#stop(id, 'disposed');
    await this.#turn;
    this.#model?.engine.free();
    this.#model?.device.destroy();
    this.#model = undefined;
  }
}

const supersedes = (args: Calls[Method]): boolean => {
  const options: unknown = args[1];
  return typeof options === 'object' && options !== null && 'supersede' in options && options.supersede === true;
};

const tell = (emit: (event: TokenEvent) => void) => (json: string) => emit(JSON.parse(json) as TokenEvent);

/** Loads a model: download, compile and upload overlap; the GPU's part is the engine's. */
async function load(
  request: LoadRequest,
  signal: AbortSignal,
  emit: (progress: LoadProgress) => void,
  watch: (device: GPUDevice) => void,
): Promise<Model> {
  const adapter = describe(await requireAdapter());
  const { Engine, Sha256, quantizeModel, quantizedVersion } = await wasm(request.wasm);
  const { model, contextLength, kv, quantize, subgroups = true, randomWeights = false, wasm: _, ...source } = request;
  const folder = await openFolder(model, {
    ...source,
    randomWeights,
    signal,
    newHasher: () => new Sha256(),
    quantizer: quantize && {
      to: quantize,
      version: quantizedVersion(),
      run: (original, sink) => quantizeModel(original, quantize, sink).catch((error: unknown) => {
        throw InCoderError.fromEngine(error) ?? error;
      }),
    },
    onDownload: (event) => emit({ phase: 'download', ...event }),
  });
  try {
    emit({ phase: 'plan', done: 1, total: 1 });
    const options = JSON.stringify({
      contextLength,
      kv,
      quantize,
      subgroups: subgroups && adapter.subgroups,
      software: adapter.software,
      randomWeights,
      adapter: [adapter.vendor, adapter.architecture, adapter.description, navigator.userAgent].join(', '),
      tuning: source.cache === false ? '' : await keptTuning(),
    });
    const report = (json: string) => emit(JSON.parse(json) as LoadProgress);
    const { opened: engine, device } = await openingDevice(subgroups && adapter.subgroups, async () => {
      let keeping: Promise<void> | undefined;
      const keep = (tuning: string) => void (keeping = source.cache === false ? undefined : keepTuning(tuning));
      const loaded = await Engine.load(folder, options, report, keep).finally(() => keeping);
      try {
        await folder.finished();
        signal.throwIfAborted();
      } catch (error) {
        loaded.free();
        throw error;
      }
      return loaded;
    });
    watch(device);
    emit({ phase: 'ready', done: 1, total: 1 });
    return { engine, device, loaded: { facts: JSON.parse(engine.info()) as Record<string, unknown>, adapter } };
  } catch (error) {
    folder.cancel();
    const code = InCoderError.fromEngine(error)?.code;
    if (code === 'BAD_CHECKPOINT' || code === 'UNSUPPORTED_MODEL') await folder.distrust().catch(() => undefined);
    throw error;
  } finally {
    await folder.close();
  }
}

/** What the GPU does at best, on a device of its own. */
async function measure({ wasm: source }: { wasm?: WasmSource }): Promise<AdapterSpeed> {
  await requireAdapter();
  const { adapterSpeed } = await wasm(source);
  const { opened, device } = await openingDevice(false, adapterSpeed);
  device.destroy();
  return JSON.parse(opened) as AdapterSpeed;
}

/** Every kernel against the CPU, on a device of its own. */
async function check({ config, subgroups, wasm: source }: Calls['check'][0]): Promise<GpuCheck> {
  const adapter = describe(await requireAdapter());
  const { checkGpu } = await wasm(source);
  const use = subgroups && adapter.subgroups;
  const { opened, device } = await openingDevice(use, () => checkGpu(config, use, adapter.software));
  device.destroy();
  return { adapter, ...(JSON.parse(opened) as Omit<GpuCheck, 'adapter'>) };
}

/** The options that the engine knows. */
function making(options: Infill): string {
  const { maxTimeMs: _time, supersede: _supersede, ...rest } = options;
  return JSON.stringify(rest);
}

const NOTHING: Omit<Generation, keyof Candidate> = {
  candidates: [{ text: '', ids: [], finishReason: 'time' }],
  promptTokens: 0,
  cachedTokens: 0,
  window: null,
  timings: { promptMs: 0, ttftMs: 0, decodeMs: 0, tokensPerSecond: 0 },
};

function whole(made: Omit<Generation, keyof Candidate>): Generation {
  const [first = { text: '', ids: [], finishReason: 'length' as const }] = made.candidates;
  return { ...first, ...made };
}

/** Every text of a result. */
function textsOf(made: Generation | Infilling | Score): Candidate[] {
  if ('candidates' in made) return made.candidates;
  return 'infills' in made ? [made, ...(made.alternatives ?? [])].flatMap(({ infills }) => infills) : [];
}

/** An infilling for which there was no time at all. */
function unfilled(parts: string[], begun?: string): Infilling {
  const { candidates: _, window: _window, ...rest } = NOTHING;
  const infills = parts.slice(1).map((): Candidate => ({ text: '', ids: [], finishReason: 'time' }));
  return { text: filledText(parts, infills, begun), parts, infills, windows: [], retriesAttempted: 0, complete: false, ...rest };
}

/** The parts with what is between them. */
function filledText(parts: string[], infills: Candidate[], begun = ''): string {
  return parts.flatMap((part, at) => [part, at === 0 ? begun : '', infills[at]?.text ?? '']).join('');
}

/** Fills the holes once for every candidate, each with the next seed; the prompt stays in the KV cache. */
async function infill(
  engine: Model['engine'],
  parts: string[],
  { candidates = 1, ...options }: Infill,
  flag: import('./wasm/incoder.js').CancelFlag,
  emit: (event: TokenEvent) => void,
): Promise<Infilling> {
  const made: Infilling[] = [];
  for (let i = 0; i < candidates; i++) {
    const one = { ...options, seed: (options.seed ?? 0) + i };
    // Only the first candidate streams: the events of several would run into each other.
    const told = i === 0 ? tell(emit) : () => undefined;
    const json = await engine.infill(parts, making(one), flag, told).catch((error: unknown) => {
      // No time is left for this candidate; those before it are kept.
      if (i > 0 && cancelled(error)) return JSON.stringify(unfilled(parts, options.begun));
      throw withAdvice(error);
    });
    const filled = JSON.parse(json) as Infilling;
    made.push({ ...filled, parts, text: filledText(parts, filled.infills, options.begun) });
  }
  const [first, ...alternatives] = made as [Infilling, ...Infilling[]];
  return alternatives.length > 0 ? { ...first, alternatives } : first;
}

/** A text that is too long, with what the package can do about it. */
function withAdvice(error: unknown): unknown {
  const known = InCoderError.fromEngine(error);
  if (known?.code !== 'CONTEXT_OVERFLOW') return error;
  return new InCoderError(known.code, `${known.message}. \`onOverflow: 'window'\` uses the part around the holes`, known.details);
}

const disposed = () => new InCoderError('DISPOSED', 'this model was disposed of');

/** Whether the engine threw this because its flag was set; no caller gets to see that. */
const cancelled = (error: unknown) => (InCoderError.fromEngine(error)?.code as string | undefined) === 'CANCELLED';

/** An error as it crosses the border. */
function failure(error: unknown, call: Running): Failure {
  if (call.stop === 'superseded') return { superseded: true };
  if (call.stop === 'disposed') return disposed().toJSON();
  const known = error instanceof InCoderError ? error : InCoderError.fromEngine(error);
  if (known) return known.toJSON();
  const panic = loadedWasm?.lastPanic();
  const message = panic ?? (error instanceof Error ? `${error.name}: ${error.message}` : String(error));
  return new InCoderError('WORKER_FAILED', message).toJSON();
}

let loadedWasm: Wasm | undefined;
void wasm.loaded.then((module) => (loadedWasm = module));
