/** What a step has to read and compute, whatever the kernels: the figures that times are divided into. As natively. */

import type { Shape } from './random.js';

export class Work {
  constructor(
    private readonly shape: Shape,
    /** Bytes of all weights; a step whose logits are read reads each once. */
    private readonly weightBytes: number,
    /** Bytes of one key or value in the cache. */
    private readonly cacheBytes: number,
    /** Most tokens of one step of a prefill. */
    private readonly chunk: number,
  ) {}

  /** Bytes read to decode `count` tokens, one at a time, after `context` others: weights, keys and values. */
  decodeBytes(context: number, count: number): number {
    return count * this.weightBytes + attended(context, count) * this.rowBytes();
  }

  /**
   * Bytes read to prefill `prompt` tokens after `context` others: for each step of as many tokens as go into one, all weights once, but
   * those of the head in the last step only, whose logits are read; and the keys and values of every token up to the step's last.
   */
  prefillBytes(context: number, prompt: number): number {
    const { dModel, vocabSize } = this.shape;
    const steps = Math.ceil(prompt / this.chunk);
    // fp16.
    const layerBytes = this.weightBytes - 2 * vocabSize * dModel;
    const weights = this.weightBytes + (steps - 1) * layerBytes;
    let rows = 0;
    for (let step = 1; step <= steps; step += 1) rows += context + Math.min(prompt, step * this.chunk);
    return weights + rows * this.rowBytes();
  }

  /** Bytes of the keys and values of one token in every layer. */
  private rowBytes(): number {
    const { layers, dModel } = this.shape;
    return 2 * layers * dModel * this.cacheBytes;
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
