// y = W x + b for up to COLUMNS tokens a workgroup, so that one read of the weights serves them all.
//
// Weights are fp16 in blocks of 32 rows. Inside a block, for every group of 8 inputs, come the 16 even rows and then the
// 16 odd rows, 16 bytes each. Thread `pair` owns rows 2 pair and 2 pair + 1: neighbouring threads read neighbouring
// 16 bytes, no sum crosses threads but the one over SLICES, and a pair of outputs packs into one fp16 cache word.

// Tokens a workgroup: 1, 2, 4 or 8.
override COLUMNS: u32 = 1u;
// Threads that share a pair of rows, each taking every SLICES-th group of inputs. 1 needs no barrier.
override SLICES: u32 = 1u;
// For project_qkv only.
override D_MODEL: u32 = 8u;
override HEAD_DIM: u32 = 8u;
override CAPACITY: u32 = 1u;
override KV_F16: bool = true;

override PARTIALS: u32 = 16u * SLICES * COLUMNS;

struct Matrix {
    // Groups of 8 inputs.
    groups: u32,
    // Rows of this buffer, and the row of the whole matrix that it begins with.
    rows: u32,
    first_row: u32,
    // Values from one token's outputs to the next token's.
    stride: u32,
}

struct Column {
    token: u32,
    position: u32,
    row: u32,
    prefix: u32,
    tail_start: u32,
    tail_len: u32,
}

struct State {
    columns: u32,
    logits: u32,
    column: array<Column>,
}

@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> state: State;
@group(0) @binding(4) var<uniform> matrix: Matrix;
@group(0) @binding(5) var<storage, read> bias: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read_write> keys: array<u32>;
@group(0) @binding(7) var<storage, read_write> values: array<u32>;

var<workgroup> parts: array<vec2<f32>, PARTIALS>;

// The weights of one group of 8 inputs for two rows.
struct Pair {
    even_low: vec4<f32>,
    even_high: vec4<f32>,
    odd_low: vec4<f32>,
    odd_high: vec4<f32>,
}

fn pair_at(index: u32) -> Pair {
    let even = weights[index];
    let odd = weights[index + 16u];
    return Pair(
        vec4(unpack2x16float(even.x), unpack2x16float(even.y)),
        vec4(unpack2x16float(even.z), unpack2x16float(even.w)),
        vec4(unpack2x16float(odd.x), unpack2x16float(odd.y)),
        vec4(unpack2x16float(odd.z), unpack2x16float(odd.w)),
    );
}

fn product(w: Pair, index: u32) -> vec2<f32> {
    let low = x[index];
    let high = x[index + 1u];
    return vec2(dot(w.even_low, low) + dot(w.even_high, high), dot(w.odd_low, low) + dot(w.odd_high, high));
}

// Leaves this thread's part of every sum in `parts`. Columns beyond `count` repeat the last one; nobody reads them.
fn accumulate(block: u32, thread: vec3<u32>, first: u32, count: u32) {
    let last = count - 1u;
    let width = matrix.groups * 2u;
    let x0 = min(first, last) * width;
    let x1 = min(first + 1u, last) * width;
    let x2 = min(first + 2u, last) * width;
    let x3 = min(first + 3u, last) * width;
    let x4 = min(first + 4u, last) * width;
    let x5 = min(first + 5u, last) * width;
    let x6 = min(first + 6u, last) * width;
    let x7 = min(first + 7u, last) * width;
    // Named, not an array: some drivers keep arrays in memory.
    var s0 = vec2(0.0);
    var s1 = vec2(0.0);
    var s2 = vec2(0.0);
    var s3 = vec2(0.0);
    var s4 = vec2(0.0);
    var s5 = vec2(0.0);
    var s6 = vec2(0.0);
    var s7 = vec2(0.0);
    let base = block * matrix.groups * 32u + thread.x;
    for (var group = thread.y; group < matrix.groups; group += SLICES) {
        let w = pair_at(base + group * 32u);
        let at = group * 2u;
        s0 += product(w, x0 + at);
        if (COLUMNS > 1u) {
            s1 += product(w, x1 + at);
        }
        if (COLUMNS > 2u) {
            s2 += product(w, x2 + at);
            s3 += product(w, x3 + at);
        }
        if (COLUMNS > 4u) {
            s4 += product(w, x4 + at);
            s5 += product(w, x5 + at);
            s6 += product(w, x6 + at);
            s7 += product(w, x7 + at);
        }
    }
    let mine = thread.y * COLUMNS * 16u + thread.x;
    parts[mine] = s0;
    if (COLUMNS > 1u) {
        parts[mine + 16u] = s1;
    }
    if (COLUMNS > 2u) {
        parts[mine + 32u] = s2;
        parts[mine + 48u] = s3;
    }
    if (COLUMNS > 4u) {
        parts[mine + 64u] = s4;
        parts[mine + 80u] = s5;
        parts[mine + 96u] = s6;
        parts[mine + 112u] = s7;
    }
    if (SLICES > 1u) {
        workgroupBarrier();
    }
}

fn total(column: u32, pair: u32) -> vec2<f32> {
    var sum = vec2(0.0);
    for (var slice = 0u; slice < SLICES; slice++) {
        sum += parts[(slice * COLUMNS + column) * 16u + pair];
    }
    return sum;
}

// Columns of this tile that exist.
fn present(first: u32, count: u32) -> u32 {
    return min(COLUMNS, count - first);
}

// logits = W x
@compute @workgroup_size(16, SLICES)
fn project_logits(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let first = group.y * COLUMNS;
    accumulate(group.x, thread, first, state.logits);
    let row = group.x * 32u + thread.x * 2u;
    if (row >= matrix.rows) {
        return;
    }
    for (var c = thread.y; c < present(first, state.logits); c += SLICES) {
        y[((first + c) * matrix.stride + matrix.first_row + row) / 2u] = total(c, thread.x);
    }
}

// y += W x + b
@compute @workgroup_size(16, SLICES)
fn project_residual(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let first = group.y * COLUMNS;
    accumulate(group.x, thread, first, state.columns);
    let row = group.x * 32u + thread.x * 2u;
    if (row >= matrix.rows) {
        return;
    }
    for (var c = thread.y; c < present(first, state.columns); c += SLICES) {
        y[((first + c) * matrix.stride + matrix.first_row + row) / 2u] += total(c, thread.x) + bias[(matrix.first_row + row) / 2u];
    }
}

// erf by Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
fn erf(v: vec2<f32>) -> vec2<f32> {
    let a = abs(v);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let polynomial = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(v) * (1.0 - polynomial * exp(-a * a));
}

// y = gelu(W x + b)
@compute @workgroup_size(16, SLICES)
fn project_gelu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let first = group.y * COLUMNS;
    accumulate(group.x, thread, first, state.columns);
    let row = group.x * 32u + thread.x * 2u;
    if (row >= matrix.rows) {
        return;
    }
    for (var c = thread.y; c < present(first, state.columns); c += SLICES) {
        let v = total(c, thread.x) + bias[(matrix.first_row + row) / 2u];
        y[((first + c) * matrix.stride + matrix.first_row + row) / 2u] = 0.5 * v * (1.0 + erf(v * 0.70710678118654752));
    }
}

// Rows 0.. are queries (scaled, to y), then keys, then values (to the cache: [head, capacity, head dim]).
@compute @workgroup_size(16, SLICES)
fn project_qkv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let first = group.y * COLUMNS;
    accumulate(group.x, thread, first, state.columns);
    let row = group.x * 32u + thread.x * 2u;
    if (row >= matrix.rows) {
        return;
    }
    let whole = matrix.first_row + row;
    let part = whole / D_MODEL;
    let within = whole % D_MODEL;
    for (var c = thread.y; c < present(first, state.columns); c += SLICES) {
        let v = total(c, thread.x) + bias[whole / 2u];
        if (part == 0u) {
            y[((first + c) * D_MODEL + within) / 2u] = v * inverseSqrt(f32(HEAD_DIM));
            continue;
        }
        let cached = (within / HEAD_DIM * CAPACITY + state.column[first + c].row) * HEAD_DIM + within % HEAD_DIM;
        if (KV_F16) {
            let packed = pack2x16float(v);
            if (part == 1u) {
                keys[cached / 2u] = packed;
            } else {
                values[cached / 2u] = packed;
            }
        } else {
            let bits = bitcast<vec2<u32>>(v);
            if (part == 1u) {
                keys[cached] = bits.x;
                keys[cached + 1u] = bits.y;
            } else {
                values[cached] = bits.x;
                values[cached + 1u] = bits.y;
            }
        }
    }
}
