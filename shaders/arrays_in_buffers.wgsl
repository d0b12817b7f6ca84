// Weights, activations and the KV cache in storage buffers. One of the files arrays_in_*.wgsl goes before a
// kernel; all of them declare the same.

// Rows of the KV cache.
override CAPACITY: u32 = 1u;
// 16-byte words of one head in one row of the KV cache.
override HEAD_WORDS: u32 = 1u;

@group(0) @binding(0) var<storage, read> weights_array: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> input_array: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output_array: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> cache_array: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> keys_array: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> values_array: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read> scores_read: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> scores_written: array<vec4<f32>>;
@group(0) @binding(15) var<storage, read_write> weights_written: array<vec4<u32>>;
@group(0) @binding(17) var<storage, read> scales_array: array<vec4<u32>>;

// The 16-byte word `first` + `more` of a matrix, both among the same 64 words.
fn weight(first: u32, more: u32) -> vec4<u32> {
    return weights_array[first + more];
}

// The `i`-th 16-byte word of a quantized matrix's scales.
fn scale_word(i: u32) -> vec4<u32> {
    return scales_array[i];
}

fn put_weight(i: u32, word: vec4<u32>) {
    weights_written[i] = word;
}

// Four values of a column that is `width` times four wide.
fn input(column: u32, i: u32, width: u32) -> vec4<f32> {
    return input_array[column * width + i];
}

fn output(column: u32, i: u32, width: u32, value: vec4<f32>) {
    output_array[column * width + i] = value;
}

// The cache is [head, row, word of the head].
fn cached(row: u32, word: u32) -> vec4<u32> {
    return cache_array[(word / HEAD_WORDS * CAPACITY + row) * HEAD_WORDS + word % HEAD_WORDS];
}

fn cache_key(row: u32, word: u32, value: vec4<u32>) {
    keys_array[(word / HEAD_WORDS * CAPACITY + row) * HEAD_WORDS + word % HEAD_WORDS] = value;
}

fn cache_value(row: u32, word: u32, value: vec4<u32>) {
    values_array[(word / HEAD_WORDS * CAPACITY + row) * HEAD_WORDS + word % HEAD_WORDS] = value;
}

// The scores of the attended rows 4 `i` to 4 `i` + 3, of one head and column.
fn scores(line: u32, i: u32) -> vec4<f32> {
    return scores_read[line * ((CAPACITY + 3u) / 4u) + i];
}

fn put_scores(line: u32, i: u32, value: vec4<f32>) {
    scores_written[line * ((CAPACITY + 3u) / 4u) + i] = value;
}
