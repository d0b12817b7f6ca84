/** Models of random weights, as the files that the package loads: full size, nobody's weights, nothing downloaded. */

/** The sizes of a model. */
export interface Shape {
  layers: number;
  dModel: number;
  heads: number;
  ffnDim: number;
  vocabSize: number;
}

export const SHAPES = {
  small: { layers: 8, dModel: 512, heads: 8, ffnDim: 2048, vocabSize: 8192 },
  '1B': { layers: 24, dModel: 2048, heads: 32, ffnDim: 8192, vocabSize: 50518 },
  demo: { layers: 4, dModel: 192, heads: 6, ffnDim: 768, vocabSize: 8192 },
} satisfies Record<string, Shape>;

/** The config.json of a model. */
export function configJson({ layers, dModel, heads, ffnDim, vocabSize }: Shape): string {
  const sizes = { num_layers: layers, d_model: dModel, attention_heads: heads, ffn_dim: ffnDim, vocab_size: vocabSize };
  return JSON.stringify({ model_type: 'xglm', ...sizes, max_position_embeddings: 2048, scale_embedding: true, eos_token_id: 2 });
}

/** config.json, tokenizer.json and the weights in fp16; the same ones every time. */
export function randomModel(shape: Shape): File[] {
  return [
    new File([configJson(shape)], 'config.json'),
    new File([tokenizerJson(shape.vocabSize)], 'tokenizer.json'),
    new File(safetensors(tensors(shape)), 'model.safetensors'),
  ];
}

/** A name for every id, so that each can be generated; texts cannot be encoded. */
function tokenizerJson(vocabSize: number): string {
  const special = ['<s>', '<pad>', '<|endoftext|>', '<unk>'];
  const names = [...special, ...Array.from({ length: vocabSize - special.length }, (_, i) => `w${i}`)];
  const rest = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  return JSON.stringify({
    version: '1.0',
    added_tokens: special.map((content, id) => ({ id, content, ...rest })),
    pre_tokenizer: bytes,
    decoder: bytes,
    model: { type: 'BPE', vocab: Object.fromEntries(names.map((name, id) => [name, id])), merges: [] },
  });
}

/** Close to normal; with `signs` each sign is drawn, or each value of an odd index is the negative of the one before it. */
interface Values {
  mean: number;
  std: number;
  signs?: 'random' | 'opposed';
}

interface Tensor {
  name: string;
  shape: number[];
  values: Values;
}

/** Scales as in the repository's `synthetic`: activations stay near 1, and greedy output is not one token over and over. */
function tensors({ layers, dModel: d, ffnDim: f, vocabSize }: Shape): Tensor[] {
  const all: Tensor[] = [];
  const add = (name: string, shape: number[], values: Values) => all.push({ name: `model.${name}`, shape, values });
  const linear = (name: string, out: number, inputs: number, std: number, signs: Pick<Values, 'signs'> = {}) => {
    add(`${name}.weight`, [out, inputs], { mean: 0, std: std / Math.sqrt(inputs), ...signs });
    add(`${name}.bias`, [out], { mean: 0, std: 0.05 });
  };
  const norm = (name: string, values: Values) => {
    add(`${name}.weight`, [d], values);
    add(`${name}.bias`, [d], { mean: 0, std: 0.05 });
  };
  const share = 1 / Math.sqrt(layers);
  add('embed_tokens.weight', [vocabSize, d], { mean: 0, std: 1 / Math.sqrt(d) });
  for (let i = 0; i < layers; i += 1) {
    const layer = `layers.${i}`;
    linear(`${layer}.self_attn.k_proj`, d, d, 1.5);
    linear(`${layer}.self_attn.v_proj`, d, d, 1);
    linear(`${layer}.self_attn.q_proj`, d, d, 1.5);
    linear(`${layer}.self_attn.out_proj`, d, d, share);
    norm(`${layer}.self_attn_layer_norm`, { mean: 1, std: 0.1 });
    linear(`${layer}.fc1`, f, d, 1);
    linear(`${layer}.fc2`, d, f, (6 * share) / 0.65, { signs: 'opposed' });
    norm(`${layer}.final_layer_norm`, { mean: 1, std: 0.1 });
  }
  norm('layer_norm', { mean: 3, std: 0.3, signs: 'random' });
  return all;
}

/** Values of one block: even for `opposed`, and twice a prime, so that no two rows of a matrix are the same. */
const BLOCK = 2 * 524_287;

/** A file in parts. Tensors repeat a few blocks, which a Blob only points to: the file of 2.6 GB takes some 20 MB of memory. */
function safetensors(list: Tensor[]): Blob[] {
  const blocks = new Map<string, Blob>();
  const header: Record<string, unknown> = {};
  const parts: Blob[] = [];
  let bytes = 0;
  let at = 0;
  for (const { name, shape, values } of list) {
    const key = JSON.stringify(values);
    const block = blocks.get(key) ?? new Blob([halves(values)]);
    blocks.set(key, block);
    let left = shape.reduce((product, size) => product * size, 1);
    header[name] = { dtype: 'F16', shape, data_offsets: [bytes, bytes + 2 * left] };
    bytes += 2 * left;
    while (left > 0) {
      const taken = Math.min(left, BLOCK - at);
      parts.push(block.slice(2 * at, 2 * (at + taken)));
      left -= taken;
      // Each tensor goes on where the one before it ended: no two layers have the same weights.
      at = (at + taken) % BLOCK;
    }
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(json.length), true);
  return [new Blob([length, json]), ...parts];
}

/** A block of values as fp16. */
function halves({ mean, std, signs }: Values): Uint16Array<ArrayBuffer> {
  let state = 0x9e3779b9;
  // Marsaglia's xorshift.
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  const out = new Uint16Array(BLOCK);
  for (let i = 0; i < BLOCK; i += 1) {
    if (signs === 'opposed' && i % 2 === 1) {
      out[i] = out[i - 1]! ^ 0x8000;
      continue;
    }
    const [a, b] = [next(), next()];
    // The sum of four uniform numbers of 16 bits, less its mean, over its standard deviation.
    const sum = (a & 0xffff) + (a >>> 16) + (b & 0xffff) + (b >>> 16) - 2 * 0xffff;
    const value = mean + (std * sum) / 37_837;
    out[i] = half(signs === 'random' && next() & 1 ? -value : value);
  }
  return out;
}

/** The bits of the nearest fp16; there is no infinity in these models. */
function half(value: number): number {
  const sign = value < 0 ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size < 2 ** -14) return sign | Math.round(size * 2 ** 24);
  const exponent = Math.floor(Math.log2(size));
  // Added, not or-ed: rounding up may carry into the exponent.
  return sign | (Math.round((size / 2 ** exponent - 1) * 1024) + ((exponent + 15) << 10));
}
