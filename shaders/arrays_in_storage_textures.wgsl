// Weights, activations and the KV cache in storage textures, which have no levels: llvmpipe looks a sampled texture's level up for
// every texel. One of the files arrays_in_*.wgsl goes before a kernel; all of them declare the same.

// Rows of the KV cache.
override CAPACITY: u32 = 1u;
// 16-byte words of one head in one row of the KV cache.
override HEAD_WORDS: u32 = 1u;

// Texels of a row of a matrix's texture.
const WEIGHTS_WIDTH = 1024u;

@group(0) @binding(0) var weights_array: texture_storage_2d<rgba32uint, read>;
@group(0) @binding(1) var input_array: texture_storage_2d<rgba32float, read>;
@group(0) @binding(2) var output_array: texture_storage_2d<rgba32float, write>;
@group(0) @binding(3) var cache_array: texture_storage_2d<rgba32uint, read>;
@group(0) @binding(4) var keys_array: texture_storage_2d<rgba32uint, write>;
@group(0) @binding(5) var values_array: texture_storage_2d<rgba32uint, write>;
@group(0) @binding(6) var scores_read: texture_storage_2d<rgba32float, read>;
@group(0) @binding(7) var scores_written: texture_storage_2d<rgba32float, write>;
@group(0) @binding(15) var weights_written: texture_storage_2d<rgba32uint, write>;
@group(0) @binding(17) var scales_array: texture_storage_2d<rgba32uint, read>;

// The 16-byte word `first` + `more` of a matrix, both among the same 64 words: reads with one `first` share what it takes to find them.
fn weight(first: u32, more: u32) -> vec4<u32> {
    return textureLoad(weights_array, vec2(first % WEIGHTS_WIDTH + more, first / WEIGHTS_WIDTH));
}

// The `i`-th 16-byte word of a quantized matrix's scales.
fn scale_word(i: u32) -> vec4<u32> {
    return textureLoad(scales_array, vec2(i % WEIGHTS_WIDTH, i / WEIGHTS_WIDTH));
}

fn put_weight(i: u32, word: vec4<u32>) {
    textureStore(weights_written, vec2(i % WEIGHTS_WIDTH, i / WEIGHTS_WIDTH), word);
}

// Four values of a column that is `width` times four wide.
fn input(column: u32, i: u32, width: u32) -> vec4<f32> {
    return textureLoad(input_array, vec2(i, column));
}

fn output(column: u32, i: u32, width: u32, value: vec4<f32>) {
    textureStore(output_array, vec2(i, column), value);
}

// The cache is [word, row]: threads of neighbouring rows read neighbouring texels.
fn cached(row: u32, word: u32) -> vec4<u32> {
    return textureLoad(cache_array, vec2(row, word));
}

fn cache_key(row: u32, word: u32, value: vec4<u32>) {
    textureStore(keys_array, vec2(row, word), value);
}

fn cache_value(row: u32, word: u32, value: vec4<u32>) {
    textureStore(values_array, vec2(row, word), value);
}

// The scores of the attended rows 4 `i` to 4 `i` + 3, of one head and column.
fn scores(line: u32, i: u32) -> vec4<f32> {
    return textureLoad(scores_read, vec2(i, line));
}

fn put_scores(line: u32, i: u32, value: vec4<f32>) {
    textureStore(scores_written, vec2(i, line), value);
}
