// Each thread reads the inputs that it needs itself. This file or inputs_read_together.wgsl goes before a kernel that multiplies.

// Where a column's inputs are.
struct Inputs {
    column: u32,
    first: u32,
    width: u32,
}

// The inputs of a column that is `width` times four wide, from 4 `first` on.
fn inputs(column: u32, first: u32, width: u32, lane: u32) -> Inputs {
    return Inputs(column, first, width);
}

// The `i`-th four of them.
fn four(all: Inputs, i: u32) -> vec4<f32> {
    return input(all.column, all.first + i, all.width);
}
