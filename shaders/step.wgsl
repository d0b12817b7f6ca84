// What a step is asked to compute. This file goes before every kernel of the model.

// A token: it attends to the cache rows 0 to `prefix`, and to `tail_len` rows from `tail_start` on.
struct Column {
    token: u32,
    position: u32,
    // The cache row that it writes.
    row: u32,
    prefix: u32,
    tail_start: u32,
    tail_len: u32,
    // The stream and the step of the draw after it, where the GPU chooses (choose.wgsl).
    draw: vec2<u32>,
}

struct State {
    // 0 when a token that ends the text was chosen.
    columns: u32,
    // The last columns whose logits are read.
    logits: u32,
    spare: vec2<u32>,
    column: array<Column, 128>,
}

@group(0) @binding(8) var<uniform> state: State;
