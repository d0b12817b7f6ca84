/** What a step has to read and compute, whatever the kernels: the figures that times are divided into. As natively. */

import type { Shape } from './random.js';

export class Work {
  constructor(
    private readonly shape: Shape,
    /** Bytes of all weights; a token reads each once. */
    private readonly weightBytes: number,
    /** Bytes of one key or value in the cache. */
    private readonly cacheBytes: number,
  ) {}

  /** Bytes read to decode `count` tokens, one at a time, after `context` others: weights, keys and values. */
  decodeBytes(context: number, count: number): number {
    const { layers, dModel } = this.shape;
    return count * this.weightBytes + attended(context, count) * 2 * layers * dModel * this.cacheBytes;
  }

  /** Floating-point operations to prefill `prompt` tokens and compute the logits after the last one. */
  prefillFlop(prompt: number): number {
    const { layers, dModel: d, ffnDim: f, vocabSize } = this.shape;
    const matrices = prompt * layers * (4 * d * d + 2 * d * f) + vocabSize * d;
    // Scores and values: a multiplication and an addition for each value of a key, and of a value.
    return 2 * matrices + 4 * attended(0, prompt) * layers * d;
  }
}

/** Cache rows that `count` tokens attend to, all together, each to itself too. */
const attended = (context: number, count: number): number => count * context + (count * (count + 1)) / 2;
