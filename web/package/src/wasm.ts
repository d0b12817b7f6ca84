/** The wasm module, compiled once for each page or worker. */

import { InCoderError } from './errors.js';
import type * as module from './wasm/incoder.js';

export type Wasm = typeof module;

let loading: Promise<Wasm> | undefined;
let announce: (wasm: Wasm) => void;

/** The module; `url` says where incoder_bg.wasm lies when that is not beside incoder.js. */
export function wasm(url?: string): Promise<Wasm> {
  loading ??= load(url).catch((error: unknown) => {
    // The next call may try again.
    loading = undefined;
    throw new InCoderError('WASM_LOAD', `the engine did not load: ${error instanceof Error ? error.message : String(error)}`, {
      url: url ?? 'incoder_bg.wasm',
    });
  });
  return loading;
}

/** Settles when the module is there. */
wasm.loaded = new Promise<Wasm>((resolve) => (announce = resolve));

async function load(url?: string): Promise<Wasm> {
  const module = await import('./wasm/incoder.js');
  // A literal relative URL: bundlers find the file by it.
  await module.default({ module_or_path: url ?? new URL('./wasm/incoder_bg.wasm', import.meta.url) });
  announce(module);
  return module;
}
