/** Who may use a model in the cache: many read it, or one writes it, across all tabs and workers of this origin. */

/** Lets go; a second call does nothing. */
export type Release = () => void;

export type LockMode = 'shared' | 'exclusive';

/** Locks by name, granted in the order they were asked for. */
export interface Locks {
  /** Waits until the lock is free; rejects with the signal's reason when that comes first. */
  hold(name: string, mode: LockMode, signal: AbortSignal): Promise<Release>;
}

/** The browser's locks, which all tabs share: one that a closed tab held is free. Without them, those of this page or worker. */
export function openLocks(): Locks {
  return globalThis.navigator?.locks ? new WebLocks(navigator.locks) : own;
}

class WebLocks implements Locks {
  constructor(private readonly manager: LockManager) {}

  hold(name: string, mode: LockMode, signal: AbortSignal): Promise<Release> {
    return new Promise((resolve, reject) => {
      const granted = () => new Promise<void>((release) => resolve(release));
      this.manager.request(`incoder/${name}`, { mode, signal }, granted).catch(reject);
    });
  }
}

interface Request {
  mode: LockMode;
  grant: () => void;
}

/** Locks inside one page or worker. */
export class OwnLocks implements Locks {
  readonly #held = new Map<string, Set<Request>>();
  readonly #waiting = new Map<string, Request[]>();

  hold(name: string, mode: LockMode, signal: AbortSignal): Promise<Release> {
    return new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const waiting = entry(this.#waiting, name, () => []);
      const aborted = () => {
        waiting.splice(waiting.indexOf(request), 1);
        reject(signal.reason);
        this.#next(name);
      };
      const request: Request = {
        mode,
        grant: () => {
          signal.removeEventListener('abort', aborted);
          entry(this.#held, name, () => new Set()).add(request);
          resolve(() => {
            if (this.#held.get(name)?.delete(request)) this.#next(name);
          });
        },
      };
      signal.addEventListener('abort', aborted, { once: true });
      waiting.push(request);
      this.#next(name);
    });
  }

  #next(name: string): void {
    const waiting = this.#waiting.get(name) ?? [];
    for (let first = waiting[0]; first && this.#isFree(name, first.mode); first = waiting[0]) {
      waiting.shift();
      first.grant();
    }
  }

  #isFree(name: string, mode: LockMode): boolean {
    const held = [...(this.#held.get(name) ?? [])];
    return held.length === 0 || (mode === 'shared' && held.every((each) => each.mode === 'shared'));
  }
}

const own = new OwnLocks();

function entry<T>(map: Map<string, T>, key: string, make: () => T): T {
  const value = map.get(key) ?? make();
  map.set(key, value);
  return value;
}
