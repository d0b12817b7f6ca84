/** What this browser can do, before any model is downloaded. */

import { InCoderError } from './errors.js';
import { describe, findAdapter } from './gpu.js';
import type { Blocker, Fit, FitQuery, Probe } from './types.js';
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
  if (!('adapter' in found)) return { ok: false, ...found, fits: (model) => fits(model, undefined) };
  const info = describe(found.adapter);
  return { ok: true, ...info, fits: (model) => fits(model, info.limits) };
}

type Limits = { maxBufferSize: number; maxStorageBufferBindingSize: number };

async function fits(model: FitQuery, limits: Limits | undefined): Promise<Fit> {
  const { config, contextLength = 0 } = typeof model === 'string' ? { config: SHAPES[model] } : model;
  if (typeof config !== 'string') throw new InCoderError('INVALID_ARGUMENT', `no model is known by the name ${String(model)}`);
  const { gpu_bytes: gpuBytes, buffers } = await required(config, contextLength);
  const need = buffers[0]?.[1] ?? 0;
  const names = ['maxStorageBufferBindingSize', 'maxBufferSize'] as const;
  const blockers = names.map((limit): Blocker => ({ limit, need, have: limits?.[limit] ?? 0 }));
  const real = blockers.filter((blocker) => blocker.have < blocker.need);
  return { fits: real.length === 0, blockers: real, gpuBytes };
}

async function required(config: string, contextLength: number): Promise<{ gpu_bytes: number; buffers: [string, number][] }> {
  const { requirements } = await wasm();
  try {
    return JSON.parse(requirements(config, contextLength, false));
  } catch (error) {
    throw InCoderError.fromEngine(error) ?? error;
  }
}
