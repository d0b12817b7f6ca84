/** An `incoder serve` in place of the engine: the same calls, over the endpoints that it has from llama.cpp. */

import { InCoderError, type ErrorCode } from './errors.js';
import type { Calls, Infill, Method, Plain } from './protocol.js';
import type { Candidate, FinishReason, Generation, GenerateOptions, Infilling, ModelInfo, Score, TokenEvent } from './types.js';

interface CallOptions {
  signal?: AbortSignal | undefined;
  onEvent?: ((event: TokenEvent) => void) | undefined;
}

/** One object of a stream: more text of a completion, or its end. */
interface Piece {
  index: number;
  content: string;
  tokens: number[];
  stop: boolean;
  stop_type: 'eos' | 'word' | 'limit';
  tokens_predicted: number;
  tokens_evaluated: number;
  timings: { cache_n: number; prompt_ms: number; predicted_ms: number; predicted_per_second: number };
  error?: Problem;
}

interface Problem {
  code: number;
  message: string;
  type: string;
}

/** What came of a request: a text for each candidate, and the end of the first, where it came so far. */
interface Made {
  texts: Candidate[];
  last: Piece | undefined;
  ttftMs: number;
}

/** Options that a server does not read, with the values that it computes with. */
const FIXED: Record<string, unknown[]> = {
  heal: [true],
  specialTokens: ['literal'],
  onOverflow: ['window'],
  maxPromptTokens: [],
  extraSentinel: [true],
  maxRetries: [1],
  lookback: [8],
  end: ['auto', 'block', 'line'],
};

/** Calls to one server; stands where a `Connection` to an engine would. */
export class ServerConnection {
  readonly #base: string;
  readonly #headers: Record<string, string>;
  readonly #running = new Set<AbortController>();
  #closed: InCoderError | undefined;

  /** `url` is absolute. */
  constructor(url: string, apiKey: string | undefined) {
    const { protocol, origin, pathname } = new URL(url);
    if (!/^https?:$/.test(protocol)) throw new InCoderError('INVALID_ARGUMENT', `not the URL of a server: ${url}`, { url });
    this.#base = `${origin}${pathname.replace(/\/*$/, '/')}`;
    this.#headers = { 'Content-Type': 'application/json', ...(apiKey && { Authorization: `Bearer ${apiKey}` }) };
  }

  /** What the server has, once its model is loaded. */
  async info(signal?: AbortSignal): Promise<ModelInfo> {
    return this.#until(signal, async (ended) => {
      const { data } = await this.#json<{ data?: { id: string; owned_by: string; meta: Record<string, number> }[] }>('v1/models', undefined, ended);
      const model = data?.[0];
      if (model?.owned_by !== 'incoder') throw this.#error('SERVER_ERROR', `what answers at ${this.#base} is no \`incoder serve\``);
      const { device } = await this.#json<{ device: string }>('v1/health', undefined, ended);
      const { n_params: parameters = 0, n_ctx: contextLength = 0, n_vocab: vocabSize = 0, n_embd: dModel = 0 } = model.meta;
      const limits = { maxBufferSize: 0, maxStorageBufferBindingSize: 0, maxComputeInvocationsPerWorkgroup: 0, maxComputeWorkgroupStorageSize: 0 };
      const adapter = { vendor: '', architecture: '', description: device, software: false, f16: false, subgroups: false, limits };
      const unknown = { prefillChunk: 0, layers: 0, heads: 0, gpuBytes: 0, weights: '', kv: '', subgroups: false, warning: null } as const;
      return { model: model.id, server: this.#base, parameters, contextLength, vocabSize, dModel, ...unknown, adapter, worker: false };
    });
  }

  /** Makes a call. An abort rejects at once with the signal's reason; the server stops when it notices that nobody listens. */
  async call<T, M extends Method>(method: M, args: Calls[M], { signal, onEvent }: CallOptions = {}): Promise<T> {
    const options: unknown = args[1];
    if (typeof options === 'object' && options !== null && 'supersede' in options && options.supersede === true) {
      const superseded = new DOMException('superseded by a newer request', 'AbortError');
      for (const other of this.#running) other.abort(superseded);
    }
    return this.#until(signal, (ended) => this.#answer(method, args, ended, onEvent)) as Promise<T>;
  }

  /** Ends the connection; every open call rejects with `error`, and so does every later one. */
  close(error: InCoderError): void {
    this.#closed ??= error;
    for (const running of this.#running) running.abort(error);
  }

  /** Runs something until it is done, aborted, superseded or the connection is closed. */
  async #until<T>(signal: AbortSignal | undefined, run: (ended: AbortSignal) => Promise<T>): Promise<T> {
    if (this.#closed) throw this.#closed;
    const own = new AbortController();
    const ended = signal ? AbortSignal.any([signal, own.signal]) : own.signal;
    ended.throwIfAborted();
    this.#running.add(own);
    try {
      return await run(ended);
    } catch (error) {
      // Whatever an abort made fail, its reason is what is told.
      ended.throwIfAborted();
      throw error;
    } finally {
      this.#running.delete(own);
    }
  }

  async #answer(method: Method, args: Calls[Method], ended: AbortSignal, onEvent: CallOptions['onEvent']): Promise<unknown> {
    switch (method) {
      case 'generate': {
        const [prompt, options] = args as Calls['generate'];
        return this.#generate(prompt, options, ended, onEvent);
      }
      case 'infill': {
        const [parts, options] = args as Calls['infill'];
        return this.#infill(parts, options, ended, onEvent);
      }
      case 'score':
        return this.#score(...(args as Calls['score']), ended);
      case 'encode': {
        const [content, bos, special] = args as Calls['encode'];
        if (special === 'reject') throw unsupported("with a server, specialTokens can only be 'literal' or 'parse' here", 'specialTokens');
        return this.#encode(content, bos, special === 'parse', ended);
      }
      case 'decode': {
        const [tokens, skipSpecial] = args as Calls['decode'];
        if (skipSpecial) throw unsupported('with a server, skipSpecial can only be false', 'skipSpecial');
        return (await this.#json<{ content: string }>('detokenize', { tokens }, ended)).content;
      }
      case 'heap':
        return 0;
      default:
        return undefined;
    }
  }

  async #encode(content: string, bos: boolean, parse: boolean, ended: AbortSignal): Promise<number[]> {
    return (await this.#json<{ tokens: number[] }>('tokenize', { content, add_special: bos, parse_special: parse }, ended)).tokens;
  }

  async #generate(
    prompt: string | number[],
    options: Plain<GenerateOptions>,
    ended: AbortSignal,
    onEvent: CallOptions['onEvent'],
  ): Promise<Generation> {
    const made = await this.#complete('completion', { prompt }, options, ended, (event) => onEvent?.(event));
    const [first] = made.texts as [Candidate, ...Candidate[]];
    return { ...first, candidates: made.texts, ...counts(made), window: null };
  }

  async #infill(parts: string[], options: Infill, ended: AbortSignal, onEvent: CallOptions['onEvent']): Promise<Infilling> {
    const { begun = '', published, ...rest } = options;
    if (published) throw unsupported('a server fills the hole between a prefix and a suffix, and does not take { parts }', 'parts');
    const holes = parts.length - 1;
    if (holes !== 1) throw unsupported(`a server fills one hole at a time, and there are ${holes || 'none'}`, 'text', { holes });
    const [prefix = '', suffix = ''] = parts;
    const body = { input_prefix: prefix, prompt: begun, input_suffix: suffix };
    // As in the browser, only the first candidate streams.
    const made = await this.#complete('infill', body, rest, ended, (event) => event.index === 0 && onEvent?.(event));
    const filled = made.texts.map((infill): Infilling => {
      const complete = infill.finishReason === 'end_of_mask' || infill.finishReason === 'stop';
      const text = prefix + begun + infill.text + suffix;
      return { text, parts, infills: [infill], retriesAttempted: 1, complete, ...counts(made), windows: [] };
    });
    const [first, ...alternatives] = filled as [Infilling, ...Infilling[]];
    return alternatives.length > 0 ? { ...first, alternatives } : first;
  }

  async #score(text: string | number[], topLogprobs: number, ended: AbortSignal): Promise<Score> {
    if (topLogprobs > 0) throw unsupported('with a server, topLogprobs can only be 0', 'topLogprobs');
    const ids = typeof text === 'string' ? await this.#encode(text, true, false, ended) : text;
    const body = { prompt: ids, echo: true, logprobs: 0, max_tokens: 0 };
    const { choices } = await this.#json<{ choices: { logprobs: { token_logprobs: (number | null)[] } }[] }>('v1/completions', body, ended);
    const logprobs = choices[0]?.logprobs.token_logprobs ?? [];
    const known = logprobs.filter((each) => each !== null);
    const sum = known.length > 0 ? known.reduce((total, each) => total + each, 0) : null;
    return { ids, logprobs, top: ids.map(() => []), sum, mean: sum === null ? null : sum / known.length };
  }

  /** The texts for one document, piece by piece. */
  async #complete(
    path: string,
    document: object,
    options: Plain<GenerateOptions> & { end?: Infill['end'] },
    ended: AbortSignal,
    tell: (event: TokenEvent) => void,
  ): Promise<Made> {
    for (const [name, value] of Object.entries(options)) {
      const possible = FIXED[name];
      if (!possible || possible.includes(value)) continue;
      const words = possible.map((each) => (typeof each === 'string' ? `'${each}'` : String(each))).join(' or ');
      throw unsupported(words ? `with a server, ${name} can only be ${words}` : `with a server, ${name} cannot be chosen`, name);
    }
    const { maxTokens = 128, candidates = 1, stop = [], end, maxTimeMs } = options;
    const body = {
      ...document,
      stream: true,
      n_predict: maxTokens,
      n_cmpl: candidates,
      temperature: options.temperature ?? 0.2,
      top_k: options.topK ?? 50,
      top_p: options.topP ?? 0.95,
      // A server may have been started with other values of its own.
      min_p: 0,
      repeat_penalty: options.repetitionPenalty ?? 1,
      repeat_last_n: -1,
      seed: options.seed ?? 0,
      stop: end === 'line' ? [...stop, '\n'] : stop,
      ignore_eos: options.ignoreEos ?? false,
    };
    const texts = Array.from({ length: candidates }, (): Candidate => ({ text: '', ids: [], finishReason: 'time' }));
    const made: Made = { texts, last: undefined, ttftMs: 0 };
    const over = maxTimeMs === undefined ? undefined : AbortSignal.timeout(Math.min(maxTimeMs, 2 ** 31));
    const started = performance.now();
    let open = candidates;
    try {
      for await (const piece of this.#pieces(path, body, over ? AbortSignal.any([ended, over]) : ended)) {
        ended.throwIfAborted();
        if (piece.error) throw this.#problem(piece.error);
        const { index, content, tokens, stop: isLast } = piece;
        const text = texts[index];
        if (!text) continue;
        made.ttftMs ||= performance.now() - started;
        text.text += content;
        // Text that had been held back comes without a token, which here is 0.
        const id = tokens[0] || null;
        if (id !== null) text.ids.push(id);
        if (isLast) {
          open -= 1;
          text.finishReason = finishReason(piece, maxTokens, path === 'infill');
          if (index === 0) made.last = piece;
        }
        tell({ index, id, text: content, ...(isLast && { finishReason: text.finishReason }) });
      }
      if (open > 0) throw this.#error('NETWORK', `the answer of ${this.#base} broke off`);
    } catch (error) {
      if (!over?.aborted || ended.aborted) throw error;
      for (const [index, { finishReason }] of texts.entries()) {
        if (finishReason === 'time') tell({ index, id: null, text: '', finishReason });
      }
    }
    return made;
  }

  /** The objects of an answer: the events of a stream, or one or several at once where nothing had to be computed. */
  async *#pieces(path: string, body: object, ended: AbortSignal): AsyncGenerator<Piece> {
    const response = await this.#fetch(path, body, ended);
    if (!response.headers.get('Content-Type')?.startsWith('text/event-stream')) {
      yield* [await this.#read<Piece | Piece[]>(response)].flat();
      return;
    }
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    try {
      for (;;) {
        const { done, value } = (await reader?.read()) ?? { done: true };
        if (done) return;
        const lines = (rest + value).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) if (line.startsWith('data:')) yield JSON.parse(line.slice(5)) as Piece;
      }
    } catch (error) {
      throw this.#error('NETWORK', `the answer of ${this.#base} broke off: ${String(error)}`);
    } finally {
      // The server computes for as long as somebody reads.
      void reader?.cancel().catch(() => undefined);
    }
  }

  async #json<T>(path: string, body: object | undefined, ended: AbortSignal): Promise<T> {
    return this.#read(await this.#fetch(path, body, ended));
  }

  async #read<T>(response: Response): Promise<T> {
    try {
      return await response.json();
    } catch (error) {
      throw this.#error('SERVER_ERROR', `what ${response.url} answers is no JSON: ${String(error)}`);
    }
  }

  async #fetch(path: string, body: object | undefined, signal: AbortSignal): Promise<Response> {
    const request = body ? { method: 'POST', body: JSON.stringify(body) } : {};
    let response: Response;
    try {
      response = await fetch(this.#base + path, { ...request, headers: this.#headers, signal, credentials: 'omit', cache: 'no-store' });
    } catch (error) {
      const page = globalThis.origin ? ` --allow-origin ${globalThis.origin}` : '';
      const why =
        `nothing answers at ${this.#base} that this page may use: that takes \`incoder serve${page}\` there, and the address in ` +
        "connect-src where the page has a content security policy";
      throw this.#error('NETWORK', why, { cause: String(error) });
    }
    if (response.ok) return response;
    const { error } = (await response.json().catch(() => ({}))) as { error?: Problem };
    throw this.#problem({ code: response.status, type: '', ...error, message: error?.message ?? `status ${response.status}` });
  }

  #problem({ code: status, message, type }: Problem): InCoderError {
    if (status === 401) return this.#error('SERVER_ERROR', `the server at ${this.#base} wants another key: see the option apiKey`, { status });
    const code = type === 'exceed_context_size_error' ? 'CONTEXT_OVERFLOW' : status === 400 ? 'INVALID_ARGUMENT' : 'SERVER_ERROR';
    return this.#error(code, `the server at ${this.#base} says: ${message}`, { status });
  }

  #error(code: ErrorCode, message: string, details: Record<string, unknown> = {}): InCoderError {
    return new InCoderError(code, message, { url: this.#base, ...details });
  }
}

const unsupported = (message: string, option: string, details: Record<string, unknown> = {}) =>
  new InCoderError('NOT_SUPPORTED', message, { option, ...details });

function counts({ last, ttftMs }: Made): Pick<Generation, 'promptTokens' | 'cachedTokens' | 'timings'> {
  const { cache_n = 0, prompt_ms = 0, predicted_ms = 0, predicted_per_second = 0 } = last?.timings ?? {};
  const timings = { promptMs: prompt_ms, ttftMs, decodeMs: predicted_ms, tokensPerSecond: predicted_per_second };
  return { promptTokens: last?.tokens_evaluated ?? 0, cachedTokens: cache_n, timings };
}

/** A server does not tell a full context from a text that is as long as was asked for, but how many tokens there are. */
function finishReason({ stop_type, tokens_predicted }: Piece, maxTokens: number, hole: boolean): FinishReason {
  if (stop_type === 'word') return 'stop';
  if (stop_type === 'eos') return hole ? 'end_of_mask' : 'eos';
  return tokens_predicted < maxTokens ? 'context' : 'length';
}
