/** Starts the worker, wherever the package was loaded from. */

import { InCoderError } from './errors.js';
import type { LoadOptions } from './types.js';

/** What the option `worker` says when it asks for one. */
export type WorkerOption = Exclude<NonNullable<LoadOptions['worker']>, false>;

const INSTEAD = 'run the engine on the page itself with `worker: false`';

/** Bundlers find the worker by exactly this expression, and write another address into it. */
const bundled = (): Worker => new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });

/**
 * The worker. Browsers start workers from the page's own origin only: one that lies elsewhere (a CDN, or anywhere from a sandboxed
 * frame) is imported by a small one that the page makes itself. Throws WORKER_FAILED.
 */
export function startWorker(option: WorkerOption): Worker {
  if (typeof Worker === 'undefined') {
    throw new InCoderError('WORKER_FAILED', `there are no workers here (Node, or a worker in Safari): ${INSTEAD}`);
  }
  if (typeof option === 'function') return made(option);
  const base = globalThis.document?.baseURI ?? location.href;
  const started = option === true ? bundled : () => new Worker(new URL(option, base), { type: 'module' });
  let refused: unknown;
  try {
    return started();
  } catch (error) {
    refused = error;
  }
  const { url, options } = asked(started);
  try {
    // Not location.origin, which in a sandboxed frame is that of its address.
    const local = new URL(url, base).origin === globalThis.origin ? url : importing(url, options?.type === 'module');
    return new Worker(trusted(local) as string, options);
  } catch (error) {
    const reasons = [refused, error].map((each) => (each instanceof Error ? each.message : String(each)));
    const message = `the worker did not start: ${[...new Set(reasons)].join(' / ')}. Make one in another way (\`worker: () => new Worker(…)\`), or ${INSTEAD}`;
    throw new InCoderError('WORKER_FAILED', message, { url, cause: reasons[0] });
  }
}

/** The worker that the caller makes. */
function made(make: () => Worker): Worker {
  let worker: unknown;
  try {
    worker = make();
  } catch (error) {
    throw InCoderError.from(error, 'WORKER_FAILED');
  }
  if (worker instanceof Worker) return worker;
  throw new InCoderError('INVALID_ARGUMENT', 'the function in `worker` made no Worker');
}

/** What to say of a worker that was started and failed; the browser tells little of why. */
export function workerFailure(message: string | undefined): InCoderError {
  const why =
    'the worker did not start: worker.js has to lie beside the package (bundlers other than Vite and webpack: see "Bundlers" in the ' +
    `README), and the page's content security policy has to allow it (worker-src). Otherwise ${INSTEAD}`;
  return new InCoderError('WORKER_FAILED', message || why);
}

/** With what `start` makes a worker, without making one. */
function asked(start: () => Worker): { url: string; options: WorkerOptions | undefined } {
  const native = globalThis.Worker;
  let noted = { url: '', options: undefined as WorkerOptions | undefined };
  class Noting {
    constructor(url: string | URL, options?: WorkerOptions) {
      noted = { url: String(url), options };
    }
  }
  try {
    globalThis.Worker = Noting as unknown as typeof Worker;
    start();
  } finally {
    globalThis.Worker = native;
  }
  return noted;
}

const scripts = new Map<string, string>();

/** The address of a script of this page's own that loads the worker from `url`, whose server has to allow that (CORS). */
function importing(url: string, module: boolean): string {
  const code = module ? `import ${JSON.stringify(url)};` : `importScripts(${JSON.stringify(url)});`;
  // In a sandboxed frame Chromium finds no blob.
  if (globalThis.origin === 'null') return `data:text/javascript,${encodeURIComponent(code)}`;
  const script = scripts.get(code) ?? URL.createObjectURL(new Blob([code], { type: 'text/javascript' }));
  scripts.set(code, script);
  return script;
}

/** TypeScript knows no Trusted Types yet. */
interface TrustedTypes {
  createPolicy(name: string, rules: { createScriptURL: (url: string) => string }): { createScriptURL(url: string): unknown };
}

let policy: ReturnType<TrustedTypes['createPolicy']> | undefined;

/** The address as pages under Trusted Types want it: from a policy, which is called `incoder`. */
function trusted(url: string): unknown {
  const { trustedTypes } = globalThis as { trustedTypes?: TrustedTypes };
  if (!trustedTypes) return url;
  policy ??= trustedTypes.createPolicy('incoder', { createScriptURL: (each) => each });
  return policy.createScriptURL(url);
}
