/** What this browser can do, before any model is downloaded. */

import { InCoderError } from './errors.js';
import { describe, findAdapter } from './gpu.js';
import { checked } from './options.js';
import type { AdapterInfo, Blocker, Fit, FitOptions, FitQuery, Probe } from './types.js';
import { wasm } from './wasm.js';

const shape = (num_layers: number, d_model: number, attention_heads: number, ffn_dim: number, vocab_size: number) =>
  JSON.stringify({ model_type: 'xglm', num_layers, d_model, attention_heads, ffn_dim, vocab_size });

/** A model of Qwen2.5-Coder; all of them have the same vocabulary, and two heads of keys and values. */
const qwen = (num_hidden_layers: number, hidden_size: number, num_attention_heads: number, intermediate_size: number) =>
  JSON.stringify({
    model_type: 'qwen2',
    num_hidden_layers,
    hidden_size,
    num_attention_heads,
    num_key_value_heads: 2,
    intermediate_size,
    vocab_size: 151936,
    max_position_embeddings: 32768,
    tie_word_embeddings: true,
  });

/** The shapes of the models that are known by name. */
export const SHAPES = {
  demo: shape(8, 320, 10, 1280, 8192),
  'facebook/incoder-1B': shape(24, 2048, 32, 8192, 50518),
  'facebook/incoder-6B': shape(32, 4096, 32, 16384, 50518),
  'Qwen/Qwen2.5-Coder-0.5B': qwen(24, 896, 14, 4864),
  'Qwen/Qwen2.5-Coder-1.5B': qwen(28, 1536, 12, 8960),
} as const;

/** Looks for WebGPU and an adapter. */
export async function probe(): Promise<Probe> {
  const found = await findAdapter();
  if (!('adapter' in found)) return { ok: false, ...found, fits: (model, options) => fits(undefined, model, options) };
  const info = describe(found.adapter);
  return { ok: true, ...info, fits: (model, options) => fits(info, model, options) };
}

/** What WebGPU allows everywhere. */
const EVERY_ADAPTER = { limits: { maxStorageBufferBindingSize: 128 << 20, maxBufferSize: 256 << 20 }, software: false };

/** What the engine's memoryPlan says, bytes. */
interface MemoryPlan {
  /** Tokens. */
  context: number;
  /** Of the weights. */
  type: Fit['weights'];
  weights: number;
  kvCache: number;
  scratch: number;
  total: number;
  blockers: Blocker[];
  largestContext: number | null;
}

/** The config.json that is meant. */
export function configOf(model: FitQuery): string {
  const config = typeof model === 'string' ? SHAPES[model] : model?.config;
  if (typeof config !== 'string') throw new InCoderError('INVALID_ARGUMENT', `no model is known by the name ${String(model)}`);
  return config;
}

async function fits(adapter: AdapterInfo | undefined, model: FitQuery, options: FitOptions = {}): Promise<Fit> {
  const config = configOf(model);
  const given = checked('fits', options);
  const plan = await planned(config, given, adapter);
  const { candidates = 1, maxTokens = 128 } = given;
  return {
    fits: adapter !== undefined && plan.blockers.length === 0,
    blockers: plan.blockers,
    gpuBytes: plan.total,
    weights: plan.type,
    weightBytes: plan.weights,
    kvCacheBytes: plan.kvCache,
    scratchBytes: plan.scratch,
    promptTokens: Math.max(0, plan.context - candidates * maxTokens),
    largestContext: adapter ? plan.largestContext : null,
  };
}

async function planned(config: string, options: FitOptions, adapter: AdapterInfo | undefined): Promise<MemoryPlan> {
  const { contextLength = 0, quantize = '' } = options;
  const { memoryPlan } = await wasm();
  // Without an adapter the plan is for the limits that every one has.
  const { limits: { maxStorageBufferBindingSize: binding, maxBufferSize: buffer }, software } = adapter ?? EVERY_ADAPTER;
  try {
    return JSON.parse(memoryPlan(config, contextLength, binding, buffer, software, quantize));
  } catch (error) {
    throw InCoderError.fromEngine(error) ?? error;
  }
}
