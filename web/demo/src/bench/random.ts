/** Models of random weights, which the GPU makes: the files that the package loads beside them, with nothing downloaded. */

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
  demo: { layers: 8, dModel: 320, heads: 10, ffnDim: 1280, vocabSize: 8192 },
} satisfies Record<string, Shape>;

/** The config.json of a model. */
export function configJson({ layers, dModel, heads, ffnDim, vocabSize }: Shape): string {
  const sizes = { num_layers: layers, d_model: dModel, attention_heads: heads, ffn_dim: ffnDim, vocab_size: vocabSize };
  return JSON.stringify({ model_type: 'xglm', ...sizes, max_position_embeddings: 2048, scale_embedding: true, eos_token_id: 2 });
}

/** config.json and tokenizer.json. */
export function randomModel(shape: Shape): File[] {
  return [
    new File([configJson(shape)], 'config.json'),
    new File([tokenizerJson(shape.vocabSize)], 'tokenizer.json'),
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
