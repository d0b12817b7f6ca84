/** The page's side of the border: calls as promises, to a worker or to a host on the page. */

import { InCoderError } from './errors.js';
import { Host } from './host.js';
import type { Calls, Method, ToClient, ToHost } from './protocol.js';
import { startWorker, workerFailure, type WorkerOption } from './start.js';
import type { LoadProgress, LostInfo, TokenEvent } from './types.js';

interface Waiting {
  resolve(value: unknown): void;
  reject(reason: unknown): void;
  onEvent?: ((event: LoadProgress & TokenEvent) => void) | undefined;
}

/** Calls to one host. */
export class Connection {
  readonly #waiting = new Map<number, Waiting>();
  readonly #send: (message: ToHost) => void;
  readonly #close: () => void;
  readonly #onLost: (info: LostInfo) => void;
  #next = 1;
  #closed: InCoderError | undefined;

  /** `worker` false runs the engine on the page itself. Throws WORKER_FAILED. */
  constructor(worker: WorkerOption | false, onLost: (info: LostInfo) => void) {
    this.#onLost = onLost;
    if (worker === false) {
      // Messages are answered in later tasks, as a worker's are.
      const host = new Host((message) => queueMicrotask(() => this.#receive(message)));
      this.#send = (message) => queueMicrotask(() => host.handle(message));
      this.#close = () => undefined;
      return;
    }
    const started = startWorker(worker);
    started.addEventListener('message', ({ data }: MessageEvent<ToClient>) => this.#receive(data));
    started.addEventListener('error', (event) => {
      event.preventDefault();
      this.close(workerFailure(event.message));
    });
    this.#send = (message) => started.postMessage(message);
    this.#close = () => started.terminate();
  }

  /** Makes a call. An abort rejects at once with the signal's reason; the host stops at the next token or chunk. */
  call<T, M extends Method>(
    method: M,
    args: Calls[M],
    { signal, onEvent }: { signal?: AbortSignal | undefined; onEvent?: Waiting['onEvent'] } = {},
  ): Promise<T> {
    return new Promise<unknown>((resolve, reject) => {
      if (this.#closed) throw this.#closed;
      signal?.throwIfAborted();
      const id = this.#next++;
      const aborted = () => {
        this.#waiting.delete(id);
        this.#send({ cancel: id });
        reject(signal?.reason);
      };
      const settled = () => signal?.removeEventListener('abort', aborted);
      this.#waiting.set(id, {
        resolve: (value) => (settled(), resolve(value)),
        reject: (reason) => (settled(), reject(reason)),
        onEvent,
      });
      try {
        this.#send({ id, method, args });
      } catch (error) {
        // What cannot be cloned (a function, say) was never sent.
        this.#waiting.delete(id);
        throw InCoderError.from(error, 'INVALID_ARGUMENT');
      }
      signal?.addEventListener('abort', aborted, { once: true });
    }) as Promise<T>;
  }

  /** Ends the connection; every open call rejects with `error`, and so does every later one. */
  close(error: InCoderError): void {
    if (this.#closed) return;
    this.#closed = error;
    this.#close();
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
  }

  #receive(message: ToClient): void {
    if ('lost' in message) {
      this.#onLost(message.lost);
      return;
    }
    const waiting = this.#waiting.get(message.id);
    if (!waiting) return;
    if ('event' in message) {
      waiting.onEvent?.(message.event as LoadProgress & TokenEvent);
      return;
    }
    this.#waiting.delete(message.id);
    if ('result' in message) waiting.resolve(message.result);
    else if ('superseded' in message.failure) waiting.reject(new DOMException('superseded by a newer request', 'AbortError'));
    else waiting.reject(new InCoderError(message.failure.code, message.failure.message, message.failure.details));
  }
}
