// x = E[token] * SCALE, + P[position] where positions are added, eight values a thread. E has the layout of a linear layer's weights
// (weights_in_*.wgsl).

override SCALE: f32 = 1.0;
override POSITIONS: bool = true;

struct Matrix {
    groups: u32,
    rows: u32,
    first_row: u32,
    stride: u32,
}

@group(0) @binding(9) var<uniform> matrix: Matrix;
@group(0) @binding(10) var<storage, read> positions: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read_write> x: array<vec4<f32>>;

@compute @workgroup_size(16)
fn embed(@builtin(global_invocation_id) thread: vec3<u32>) {
    let group = thread.x;
    let column = thread.y;
    if (group >= matrix.groups) {
        return;
    }
    let token = state.column[column].token;
    // A large table lies in several buffers; the one that holds this row writes it.
    if (token < matrix.first_row || token >= matrix.first_row + matrix.rows) {
        return;
    }
    let row = token - matrix.first_row;
    let values = row_at(row / 64u, matrix.groups, group, row % 64u);
    let position = (state.column[column].position * matrix.groups + group) * 2u;
    let out = (column * matrix.groups + group) * 2u;
    if (POSITIONS) {
        x[out] = values.low * SCALE + positions[position];
        x[out + 1u] = values.high * SCALE + positions[position + 1u];
    } else {
        x[out] = values.low * SCALE;
        x[out + 1u] = values.high * SCALE;
    }
}
