// What becomes of the sums of one token and eight rows of a matrix. This file goes before the kernels that multiply: linear.wgsl and
// linear_tiled.wgsl.

// A block of a matrix has 64 rows, eight for each of eight lanes.
const BLOCK_LANES = 8u;
const BLOCK_ROWS = 64u;

// For put_qkv only.
override Q_WIDTH: u32 = 8u;
override KV_WIDTH: u32 = 8u;
override HEAD_DIM: u32 = 8u;

struct Matrix {
    // Groups of 8 inputs.
    groups: u32,
    // Rows of this array, and the row of the whole matrix that it begins with.
    rows: u32,
    first_row: u32,
    // Values from one token's outputs to the next token's.
    stride: u32,
    // For project_qkv only: what a key of this layer beyond fp16 writes to `overflow`, more the earlier the layer; a value, one less.
    rank: u32,
}

@group(0) @binding(9) var<uniform> matrix: Matrix;
@group(0) @binding(10) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read_write> y: array<vec4<f32>>;
// The highest rank of what did not fit into the cache's fp16; 0 when all did.
@group(0) @binding(16) var<storage, read_write> overflow: atomic<u32>;


fn biased(sum: Octet, row: u32) -> Octet {
    return Octet(sum.low + bias[row / 4u], sum.high + bias[row / 4u + 1u]);
}

// In all that follows, `row` is the first of the eight in this array; rows beyond the last are left out.

fn put_logits(column: u32, row: u32, sum: Octet) {
    if (row >= matrix.rows) {
        return;
    }
    let to = (column * matrix.stride + matrix.first_row + row) / 4u;
    y[to] = sum.low;
    y[to + 1u] = sum.high;
}

fn put_residual(column: u32, row: u32, product: Octet) {
    if (row >= matrix.rows) {
        return;
    }
    let sum = biased(product, matrix.first_row + row);
    let to = (column * matrix.stride + matrix.first_row + row) / 4u;
    y[to] += sum.low;
    y[to + 1u] += sum.high;
}

// erf by Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
fn erf(v: vec4<f32>) -> vec4<f32> {
    let a = abs(v);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let polynomial = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(v) * (1.0 - polynomial * exp(-a * a));
}

fn gelu(v: vec4<f32>) -> vec4<f32> {
    return 0.5 * v * (1.0 + erf(v * 0.70710678118654752));
}

fn put_gelu(column: u32, row: u32, product: Octet) {
    if (row >= matrix.rows) {
        return;
    }
    let sum = biased(product, matrix.first_row + row);
    let to = (matrix.first_row + row) / 4u;
    output(column, to, matrix.stride / 4u, gelu(sum.low));
    output(column, to + 1u, matrix.stride / 4u, gelu(sum.high));
}

fn silu(v: vec4<f32>) -> vec4<f32> {
    return v / (1.0 + exp(-v));
}

// Of each two rows, the first is a gate and the second what it gates.
fn put_gated_silu(column: u32, row: u32, product: Octet) {
    if (row >= matrix.rows) {
        return;
    }
    let sum = biased(product, matrix.first_row + row);
    let gates = vec4(sum.low.xz, sum.high.xz);
    let gated = vec4(sum.low.yw, sum.high.yw);
    output(column, (matrix.first_row + row) / 8u, matrix.stride / 8u, silu(gates) * gated);
}

// Whether fp16 holds all of it. What pack2x16float makes of the rest is for the driver to say.
fn fits_fp16(values: Octet) -> bool {
    let most = vec4(65504.0);
    return all(abs(values.low) <= most) && all(abs(values.high) <= most);
}

// Rows 0.. are queries (rotated and scaled, to the output), then keys (rotated), then values (to the cache).
fn put_qkv(column: u32, row_here: u32, product: Octet) {
    if (row_here >= matrix.rows) {
        return;
    }
    let row = matrix.first_row + row_here;
    var part = 0u;
    var within = row;
    if (row >= Q_WIDTH) {
        part = 1u + (row - Q_WIDTH) / KV_WIDTH;
        within = (row - Q_WIDTH) % KV_WIDTH;
    }
    let scale = inverseSqrt(f32(HEAD_DIM));
    var sum = biased(product, row);
    let cache_row = state.column[column].row;
    if (part < 2u) {
        sum = rotated(sum, state.column[column].position, within % HEAD_DIM, HEAD_DIM);
    }
    if (part == 0u) {
        output(column, within / 4u, Q_WIDTH / 4u, sum.low * scale);
        output(column, within / 4u + 1u, Q_WIDTH / 4u, sum.high * scale);
    } else if (KV_F16) {
        if (!fits_fp16(sum)) {
            atomicMax(&overflow, matrix.rank + 1u - part);
        }
        if (part == 1u) {
            cache_key(cache_row, within / 8u, packed(sum));
        } else {
            cache_value(cache_row, within / 8u, packed(sum));
        }
    } else if (part == 1u) {
        cache_key(cache_row, within / 4u, bitcast<vec4<u32>>(sum.low));
        cache_key(cache_row, within / 4u + 1u, bitcast<vec4<u32>>(sum.high));
    } else {
        cache_value(cache_row, within / 4u, bitcast<vec4<u32>>(sum.low));
        cache_value(cache_row, within / 4u + 1u, bitcast<vec4<u32>>(sum.high));
    }
}
