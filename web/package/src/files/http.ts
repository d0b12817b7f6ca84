/** Requests with retries, and what their answers mean. */

import { InCoderError, type ErrorDetails } from '../errors.js';

const RETRIES = 3;
/** A server that sends nothing for so long is asked again. */
const SILENT_MS = 60_000;
/** No listing or index of a model comes near this; what does is something else. */
const MAX_JSON = 32 << 20;

/** A request that may work when it is made again; never leaves this folder. */
export class Interrupted extends Error {
  constructor(
    message: string,
    readonly status: number | null = null,
  ) {
    super(message);
  }
}

/** NETWORK or OFFLINE_MISS after all retries: the server cannot be reached now. */
export class Unreachable extends InCoderError {}

/** Which bytes are asked for; both ends are part of the range, as in the header. */
export interface ByteRange {
  from: number;
  to?: number;
}

/** All requests of one load: one abort, one token, one idea of whether the network is there. */
export class Http {
  /** Set when the cache knows a part of the model: without any answer it is then OFFLINE_MISS. */
  known = false;
  #reached = false;
  readonly #token: string | null;
  readonly #retryMs: number;
  readonly #silentMs: number;
  /** How often in a row a request with a Range failed, by URL. */
  readonly #refused = new Map<string, number>();
  /** Answers whose Content-Length may be that of an encoding. */
  readonly #encoded = new WeakSet<Response>();

  constructor(
    readonly signal: AbortSignal,
    token: string | null,
    retryMs: number,
    silentMs = SILENT_MS,
  ) {
    this.#token = token;
    this.#retryMs = retryMs;
    this.#silentMs = silentMs;
  }

  /**
   * One request; an answer has status 200, 206 or 416. Rejects with Interrupted, NETWORK, NOT_FOUND or the abort's reason.
   *
   * A Range makes browsers ask for the identity encoding, so that lengths are those of the file and not of its gzip, and refuse
   * an answer that is encoded all the same. A server that always compresses is asked without one: at once at the start of a file,
   * and where a download goes on, when it failed twice.
   */
  async request(method: 'GET' | 'HEAD', url: string, file: string, range?: ByteRange): Promise<Response> {
    let response: Response;
    try {
      response = await this.#fetch(method, url, range);
      this.#refused.delete(url);
    } catch (error) {
      if (!range || method === 'HEAD' || !(error instanceof Interrupted)) throw error;
      const failures = (this.#refused.get(url) ?? 0) + 1;
      this.#refused.set(url, failures);
      if (range.from > 0 && failures < RETRIES) throw error;
      response = await this.#fetch(method, url);
      this.#encoded.add(response);
    }
    this.#reached = true;
    const problem = refusal(response, url, file);
    if (!problem) return response;
    discard(response);
    throw problem;
  }

  /** Whether the length of an answer's body may be another one than its Content-Length. */
  isEncoded(response: Response): boolean {
    return response.headers.has('Content-Encoding') || this.#encoded.has(response);
  }

  async #fetch(method: string, url: string, range?: ByteRange): Promise<Response> {
    const headers = new Headers();
    // If-Range would make browsers ask for leave first (a CORS preflight), which the hub's storage refuses.
    if (range) headers.set('Range', `bytes=${range.from}-${range.to ?? ''}`);
    if (this.#token !== null) headers.set('Authorization', `Bearer ${this.#token}`);
    const silent = new AbortController();
    const signal = AbortSignal.any([this.signal, silent.signal]);
    try {
      return await this.#inTime(fetch(url, { method, headers, cache: 'no-store', signal }), () => silent.abort());
    } catch (error) {
      this.signal.throwIfAborted();
      throw interrupted(error);
    }
  }

  /** What is waited for, or Interrupted after a long silence. */
  async #inTime<T>(waited: Promise<T>, stop: () => void): Promise<T> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const silence = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(new Interrupted(`the server sent nothing for ${this.#silentMs / 1000} s`));
        stop();
      }, this.#silentMs);
    });
    try {
      return await Promise.race([waited, silence]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** The JSON at `url`; rejects with BAD_CHECKPOINT when it is none, otherwise as `request` and `retrying` do. */
  json(url: string, file: string): Promise<unknown> {
    return this.retrying(file, async () => {
      const response = await this.request('GET', url, file);
      const decoder = new TextDecoder();
      let text = '';
      let length = 0;
      for await (const chunk of this.body(response)) {
        length += chunk.length;
        if (length > MAX_JSON) throw new InCoderError('BAD_CHECKPOINT', `${file} is too long`, { file, url, length });
        text += decoder.decode(chunk, { stream: true });
      }
      return parseJson(text + decoder.decode(), file, url);
    });
  }

  /** The body of an answer as it comes; rejects with Interrupted when it breaks off. Stopping early ends the transfer. */
  async *body(response: Response): AsyncGenerator<Uint8Array> {
    const reader = response.body?.getReader();
    if (!reader) return;
    try {
      for (;;) {
        const { done, value } = await this.#inTime(reader.read(), () => void reader.cancel().catch(() => {}));
        this.signal.throwIfAborted();
        if (done) return;
        yield value;
      }
    } catch (error) {
      this.signal.throwIfAborted();
      // An error of the consumer is never thrown into the generator: what arrives here is the stream's.
      throw interrupted(error);
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  /** Makes the attempt again while it is Interrupted, three times since it last got on; then rejects with Unreachable. */
  async retrying<T>(
    file: string,
    attempt: () => Promise<T>,
    progress: () => number = () => 0,
    details: () => ErrorDetails = () => ({}),
  ): Promise<T> {
    let failures = 0;
    let best = progress();
    for (;;) {
      try {
        return await attempt();
      } catch (error) {
        this.signal.throwIfAborted();
        if (!(error instanceof Interrupted)) throw error;
        if (progress() > best) failures = 0;
        best = progress();
        failures += 1;
        if (failures > RETRIES || (offline() && !this.#reached)) throw this.#unreachable(file, error, details());
        await pause(this.#retryMs * 2 ** (failures - 1), this.signal);
      }
    }
  }

  #unreachable(file: string, cause: Interrupted, details: ErrorDetails): Unreachable {
    const all = { file, ...details, ...(cause.status === null ? {} : { status: cause.status }), cause: cause.message };
    const sofar = 'done' in details ? ` after ${String(details['done'])} of ${String(details['total'])} bytes` : '';
    if (cause.status === null && (offline() || (this.known && !this.#reached))) {
      return new Unreachable('OFFLINE_MISS', `${file} is not whole in this browser's cache, and there is no network${sofar}`, all);
    }
    let why = `the server answered ${cause.status}`;
    if (cause.status === null) {
      why = cause.message;
      if (!this.#reached) why += '. The server is down, blocked, or does not allow requests from this page (CORS)';
    }
    return new Unreachable('NETWORK', `${file} could not be downloaded${sofar}: ${why}`, all);
  }
}

function interrupted(error: unknown): Interrupted {
  if (error instanceof Interrupted) return error;
  return new Interrupted(error instanceof Error ? error.message : String(error));
}

/** What names this version of a file: its ETag, or when it was modified; null where neither can be seen. */
export function validatorOf(response: Response): string | null {
  return response.headers.get('ETag') ?? response.headers.get('Last-Modified');
}

/** The Content-Range of an answer; null where it has none, or hides it from other origins. `start` is null with status 416. */
export function contentRangeOf(response: Response): { start: number | null; total: number | null } | null {
  const found = /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/.exec(response.headers.get('Content-Range') ?? '');
  if (!found) return null;
  const [, start, total] = found;
  return { start: start === undefined ? null : Number(start), total: total === undefined || total === '*' ? null : Number(total) };
}

/** Ends a transfer whose body is not wanted. */
export function discard(response: Response): void {
  response.body?.cancel().catch(() => {});
}

/** Parses JSON that a server sent; throws BAD_CHECKPOINT. */
export function parseJson(text: string, file: string, url = ''): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    // Python's json module writes numbers that JSON does not have; nothing that is read here is one of them.
    const strict = text.replace(/"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g, (found) => (found.startsWith('"') ? found : 'null'));
    if (strict !== text) return parseJson(strict, file, url);
    const cause = error instanceof Error ? error.message : String(error);
    throw new InCoderError('BAD_CHECKPOINT', `${file} is not JSON: ${cause}`, { file, url });
  }
}

function refusal(response: Response, url: string, file: string): Error | null {
  const { status } = response;
  const details = { file, url, status };
  if (status === 404 || status === 410) return new InCoderError('NOT_FOUND', `${file} is not at ${url}`, details);
  if (status === 401 || status === 403) {
    const hint = 'a private or gated model needs `token` (and its terms accepted); a misspelt name is answered like this too';
    return new InCoderError('NETWORK', `${file}: the server refuses access (${status}); ${hint}`, details);
  }
  if (status === 408 || status === 429 || status >= 500) return new Interrupted(`status ${status}`, status);
  if (status !== 200 && status !== 206 && status !== 416) {
    return new InCoderError('NETWORK', `${file}: the server answered ${status}`, details);
  }
  // Servers of single-page apps answer every unknown path with their page, and so does a hotel's login.
  if (status !== 416 && /^text\/html\b/i.test(response.headers.get('Content-Type') ?? '')) {
    return new InCoderError('NOT_FOUND', `${file} is not at ${url}: the server answered with a web page`, details);
  }
  return null;
}

function offline(): boolean {
  return globalThis.navigator?.onLine === false;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop);
      resolve();
    }, ms);
    signal.addEventListener('abort', stop, { once: true });
  });
}
