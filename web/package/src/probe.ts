/** What this browser can do, before any model is downloaded. */

import { InCoderError } from './errors.js';
import { describe, findAdapter } from './gpu.js';
import { checked } from './options.js';
import type { AdapterInfo, Blocker, Fit, FitOptions, FitQuery, Probe } from './types.js';
import { wasm } from './wasm.js';

const shape = (num_layers: number, d_model: number, attention_heads: number, ffn_dim: number, vocab_size: number) =>
  JSON.stringify({ model_type: 'xglm', num_layers, d_model, attention_heads, ffn_dim, vocab_size });

/** The shapes of the models that are known by name. */
export const SHAPES = {
  demo: shape(4, 192, 6, 768, 8192),
  'facebook/incoder-1B': shape(24, 2048, 32, 8192, 50518),
  'facebook/incoder-6B': shape(32, 4096, 32, 16384, 50518),
} as const;

/** Looks for WebGPU and an adapter. */
export async function probe(): Promise<Probe> {
  const found = await findAdapter();
  if (!('adapter' in found)) return { ok: false, ...found, fits: (model, options) => fits(undefined, model, options) };
  const info = describe(found.adapter);
  return { ok: true, ...info, fits: (model, options) => fits(info, model, options) };
}

/** What the engine's memoryPlan says, bytes. */
interface MemoryPlan {
  /** Tokens. */
  context: number;
  weights: number;
  kvCache: number;
  scratch: number;
  total: number;
  largestBuffer: number;
  largestContext: number | null;
}

async function fits(adapter: AdapterInfo | undefined, model: FitQuery, options: FitOptions = {}): Promise<Fit> {
  const config = typeof model === 'string' ? SHAPES[model] : model?.config;
  if (typeof config !== 'string') throw new InCoderError('INVALID_ARGUMENT', `no model is known by the name ${String(model)}`);
  const given = checked('fits', options);
  const plan = await planned(config, given, adapter);
  const { candidates = 1, maxTokens = 128 } = given;
  const names = ['maxStorageBufferBindingSize', 'maxBufferSize'] as const;
  const blockers = names.map((limit): Blocker => ({ limit, need: plan.largestBuffer, have: adapter?.limits[limit] ?? 0 }));
  const real = blockers.filter((blocker) => blocker.have < blocker.need);
  return {
    fits: real.length === 0,
    blockers: real,
    gpuBytes: plan.total,
    weightBytes: plan.weights,
    kvCacheBytes: plan.kvCache,
    scratchBytes: plan.scratch,
    promptTokens: Math.max(0, plan.context - candidates * maxTokens),
    largestContext: adapter ? plan.largestContext : null,
  };
}

async function planned(config: string, options: FitOptions, adapter: AdapterInfo | undefined): Promise<MemoryPlan> {
  const { contextLength = 0 } = options;
  const { memoryPlan } = await wasm();
  const { maxStorageBufferBindingSize: binding = 0, maxBufferSize: buffer = 0 } = adapter?.limits ?? {};
  try {
    // Without an adapter the plan is for the limits that every one has.
    const [most, largest] = adapter ? [binding, buffer] : [128 << 20, 256 << 20];
    return JSON.parse(memoryPlan(config, contextLength, most, largest));
  } catch (error) {
    throw InCoderError.fromEngine(error) ?? error;
  }
}
