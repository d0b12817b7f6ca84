// The eight threads of a subgroup read four inputs each and hand them round: llvmpipe moves a value between threads in an
// instruction or two, and spends fifty on a texel. This file or inputs_read_alone.wgsl goes before a kernel that multiplies.

// What this thread holds of a column's inputs.
struct Inputs {
    mine: vec4<f32>,
}

// The 32 inputs of a column that is `width` times four wide, from 4 `first` on.
fn inputs(column: u32, first: u32, width: u32, lane: u32) -> Inputs {
    return Inputs(input(column, first + lane, width));
}

// The `i`-th four of them.
fn four(all: Inputs, i: u32) -> vec4<f32> {
    return subgroupShuffle(all.mine, i);
}
