/** The wasm module, compiled once for each page or worker. */

import { InCoderError } from './errors.js';
import type * as module from './wasm/incoder.js';

export type Wasm = typeof module;

let loading: Promise<Wasm> | undefined;
let announce: (wasm: Wasm) => void;

/** An absolute URL, the bytes, or the compiled module. */
export type WasmSource = string | BufferSource | WebAssembly.Module;

/** A literal relative URL: bundlers find the file by it. */
const beside = (): URL => new URL('./wasm/incoder_bg.wasm', import.meta.url);

/** The module; `source` is incoder_bg.wasm, or says where it lies when that is not beside incoder.js. */
export function wasm(source?: WasmSource): Promise<Wasm> {
  loading ??= load(source).catch((error: unknown) => {
    // The next call may try again.
    loading = undefined;
    const cause = error instanceof Error ? error.message : String(error);
    const url = source === undefined ? beside().href : typeof source === 'string' ? source : undefined;
    const problem = `the engine did not load${url === undefined ? '' : ` from ${url}`}: ${cause}`;
    throw new InCoderError('WASM_LOAD', problem, { cause, ...(url !== undefined && { url }) });
  });
  return loading;
}

/** Settles when the module is there. */
wasm.loaded = new Promise<Wasm>((resolve) => (announce = resolve));

async function load(source?: WasmSource): Promise<Wasm> {
  const module = await import('./wasm/incoder.js');
  await module.default({ module_or_path: source ?? beside() });
  announce(module);
  return module;
}
