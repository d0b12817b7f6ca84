/** What crosses the border between the page and the worker. Everything is structured-cloneable. */

import type { ErrorCode, ErrorDetails } from './errors.js';
import type { WasmSource } from './wasm.js';
import type { AdapterInfo, GenerateOptions, InfillOptions, LoadOptions, LoadProgress, LostInfo, SpecialTokens, TokenEvent } from './types.js';

/** Options without what cannot be cloned; aborts travel as `Cancel`. */
export type Plain<T> = Omit<T, 'signal' | 'onToken' | 'onProgress'>;

/**
 * How holes are filled, what the first one begins with, and whether the parts are the published form's: shown to the model
 * exactly as they are, in its prompt.
 */
export type Infill = Plain<InfillOptions> & { begun?: string; published?: boolean };

/** How the model is loaded, on the host's side. */
export type LoadRequest = Omit<Plain<LoadOptions>, 'baseUrl' | 'files' | 'worker' | 'wasm'> & {
  model: string;
  baseUrl?: string;
  files?: File[];
  wasm?: WasmSource;
};

/** The calls and their arguments. */
export interface Calls {
  load: [LoadRequest];
  measure: [request: { wasm?: WasmSource }];
  check: [request: { config: string; subgroups: boolean; wasm?: WasmSource }];
  generate: [prompt: string | number[], options: Plain<GenerateOptions>];
  infill: [parts: string[], options: Infill];
  score: [text: string | number[], topLogprobs: number];
  encode: [text: string, bos: boolean, special: SpecialTokens];
  decode: [ids: number[], skipSpecial: boolean];
  heap: [];
  dispose: [];
}

export type Method = keyof Calls;

export type ToHost = { id: number; method: Method; args: Calls[Method] } | { cancel: number };

export type Failure = { code: ErrorCode; message: string; details: ErrorDetails } | { superseded: true };

export type ToClient =
  | { id: number; result: unknown }
  | { id: number; failure: Failure }
  | { id: number; event: LoadProgress | TokenEvent }
  | { lost: LostInfo };

/** What `load` answers; the rest of `ModelInfo` is known on the page. */
export interface Loaded {
  facts: Record<string, unknown>;
  adapter: AdapterInfo;
}
