// y = W x + b for up to COLUMNS tokens a workgroup, so that one read of the weights serves them all.
//
// Weights are fp16 in blocks of 64 rows. Inside a block, for every group of 8 inputs, come 16 bytes each of the rows 0, 8, 16
// to 56, then of 1, 9, 17 to 57, and so on. Thread `lane` owns the rows 8 lane to 8 lane + 7: neighbouring threads read
// neighbouring 16 bytes, no sum crosses threads but the one over SLICES, and eight outputs make 16 bytes of the KV cache.

// Tokens a workgroup: 1, 2, 4 or 8.
override COLUMNS: u32 = 1u;
// Threads that share eight rows, each taking every SLICES-th group of inputs: a power of two. 1 needs no barrier.
override SLICES: u32 = 1u;
// Blocks of 64 rows a workgroup.
override BLOCKS: u32 = 1u;
// For project_qkv only.
override D_MODEL: u32 = 8u;
override HEAD_DIM: u32 = 8u;
override KV_F16: bool = true;

// Threads that share a block.
const LANES = 8u;
const BLOCK_ROWS = 64u;

override PARTIALS: u32 = LANES * BLOCKS * SLICES * COLUMNS;

struct Matrix {
    // Groups of 8 inputs.
    groups: u32,
    // Rows of this array, and the row of the whole matrix that it begins with.
    rows: u32,
    first_row: u32,
    // Values from one token's outputs to the next token's.
    stride: u32,
}

@group(0) @binding(9) var<uniform> matrix: Matrix;
@group(0) @binding(10) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read_write> y: array<vec4<f32>>;

// The weights of one row for a group of 8 inputs.
struct Row {
    low: vec4<f32>,
    high: vec4<f32>,
}

struct Rows {
    row0: Row,
    row1: Row,
    row2: Row,
    row3: Row,
    row4: Row,
    row5: Row,
    row6: Row,
    row7: Row,
}

// One value for each of eight rows.
struct Octet {
    low: vec4<f32>,
    high: vec4<f32>,
}

// What a thread (lane, slice, block of the workgroup) computes.
struct Place {
    block: u32,
    // The first of its eight rows, in this array.
    row: u32,
    // The first column of the tile.
    first: u32,
}

var<workgroup> parts: array<Octet, PARTIALS>;

fn place(group: vec3<u32>, thread: vec3<u32>) -> Place {
    let block = group.x * BLOCKS + thread.z;
    return Place(block, block * BLOCK_ROWS + thread.x * 8u, group.y * COLUMNS);
}

fn row_at(i: u32) -> Row {
    let packed = weight(i);
    return Row(
        vec4(unpack2x16float(packed.x), unpack2x16float(packed.y)),
        vec4(unpack2x16float(packed.z), unpack2x16float(packed.w)),
    );
}

fn rows_at(i: u32) -> Rows {
    return Rows(
        row_at(i),
        row_at(i + 8u),
        row_at(i + 16u),
        row_at(i + 24u),
        row_at(i + 32u),
        row_at(i + 40u),
        row_at(i + 48u),
        row_at(i + 56u),
    );
}

fn product(row: Row, low: vec4<f32>, high: vec4<f32>) -> f32 {
    return dot(row.low, low) + dot(row.high, high);
}

// `sum` and the products of eight rows with the inputs of `group`.
fn add(sum: Octet, rows: Rows, column: u32, group: u32) -> Octet {
    let width = matrix.groups * 2u;
    let low = input(column, group * 2u, width);
    let high = input(column, group * 2u + 1u, width);
    return Octet(
        sum.low + vec4(
            product(rows.row0, low, high),
            product(rows.row1, low, high),
            product(rows.row2, low, high),
            product(rows.row3, low, high),
        ),
        sum.high + vec4(
            product(rows.row4, low, high),
            product(rows.row5, low, high),
            product(rows.row6, low, high),
            product(rows.row7, low, high),
        ),
    );
}

fn part_of(thread: vec3<u32>, slice: u32, column: u32) -> u32 {
    return ((thread.z * SLICES + slice) * COLUMNS + column) * LANES + thread.x;
}

// Leaves the sums in the parts of slice 0. Columns beyond `count` repeat the last one; nobody reads them.
fn accumulate(at: Place, thread: vec3<u32>, count: u32) {
    let last = count - 1u;
    let c0 = min(at.first, last);
    let c1 = min(at.first + 1u, last);
    let c2 = min(at.first + 2u, last);
    let c3 = min(at.first + 3u, last);
    let c4 = min(at.first + 4u, last);
    let c5 = min(at.first + 5u, last);
    let c6 = min(at.first + 6u, last);
    let c7 = min(at.first + 7u, last);
    // Named, not an array: some drivers keep arrays in memory.
    var s0 = Octet();
    var s1 = Octet();
    var s2 = Octet();
    var s3 = Octet();
    var s4 = Octet();
    var s5 = Octet();
    var s6 = Octet();
    var s7 = Octet();
    // A block beyond the last one repeats it: barriers want every thread.
    let block = min(at.block, (matrix.rows - 1u) / BLOCK_ROWS);
    let base = block * matrix.groups * BLOCK_ROWS + thread.x;
    for (var group = thread.y; group < matrix.groups; group += SLICES) {
        let rows = rows_at(base + group * BLOCK_ROWS);
        s0 = add(s0, rows, c0, group);
        if (COLUMNS > 1u) {
            s1 = add(s1, rows, c1, group);
        }
        if (COLUMNS > 2u) {
            s2 = add(s2, rows, c2, group);
            s3 = add(s3, rows, c3, group);
        }
        if (COLUMNS > 4u) {
            s4 = add(s4, rows, c4, group);
            s5 = add(s5, rows, c5, group);
            s6 = add(s6, rows, c6, group);
            s7 = add(s7, rows, c7, group);
        }
    }
    let mine = part_of(thread, thread.y, 0u);
    parts[mine] = s0;
    if (COLUMNS > 1u) {
        parts[mine + 1u * LANES] = s1;
    }
    if (COLUMNS > 2u) {
        parts[mine + 2u * LANES] = s2;
        parts[mine + 3u * LANES] = s3;
    }
    if (COLUMNS > 4u) {
        parts[mine + 4u * LANES] = s4;
        parts[mine + 5u * LANES] = s5;
        parts[mine + 6u * LANES] = s6;
        parts[mine + 7u * LANES] = s7;
    }
    for (var half = SLICES / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (thread.y < half) {
            for (var c = 0u; c < COLUMNS; c++) {
                let to = part_of(thread, thread.y, c);
                let part = parts[part_of(thread, thread.y + half, c)];
                parts[to].low += part.low;
                parts[to].high += part.high;
            }
        }
    }
    if (SLICES > 1u) {
        workgroupBarrier();
    }
}

fn total(thread: vec3<u32>, column: u32) -> Octet {
    return parts[part_of(thread, 0u, column)];
}

fn biased(thread: vec3<u32>, column: u32, row: u32) -> Octet {
    let sum = total(thread, column);
    return Octet(sum.low + bias[row / 4u], sum.high + bias[row / 4u + 1u]);
}

// Columns of this tile that exist.
fn present(first: u32, count: u32) -> u32 {
    return min(COLUMNS, count - first);
}

// logits = W x
@compute @workgroup_size(LANES, SLICES, BLOCKS)
fn project_logits(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let at = place(group, thread);
    accumulate(at, thread, state.logits);
    if (at.row >= matrix.rows) {
        return;
    }
    for (var c = thread.y; c < present(at.first, state.logits); c += SLICES) {
        let sum = total(thread, c);
        let to = ((at.first + c) * matrix.stride + matrix.first_row + at.row) / 4u;
        y[to] = sum.low;
        y[to + 1u] = sum.high;
    }
}

// y += W x + b
@compute @workgroup_size(LANES, SLICES, BLOCKS)
fn project_residual(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let at = place(group, thread);
    accumulate(at, thread, state.columns);
    if (at.row >= matrix.rows) {
        return;
    }
    let row = matrix.first_row + at.row;
    for (var c = thread.y; c < present(at.first, state.columns); c += SLICES) {
        let sum = biased(thread, c, row);
        let to = ((at.first + c) * matrix.stride + row) / 4u;
        y[to] += sum.low;
        y[to + 1u] += sum.high;
    }
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

// output = gelu(W x + b)
@compute @workgroup_size(LANES, SLICES, BLOCKS)
fn project_gelu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let at = place(group, thread);
    accumulate(at, thread, state.columns);
    if (at.row >= matrix.rows) {
        return;
    }
    let row = matrix.first_row + at.row;
    for (var c = thread.y; c < present(at.first, state.columns); c += SLICES) {
        let sum = biased(thread, c, row);
        output(at.first + c, row / 4u, matrix.stride / 4u, gelu(sum.low));
        output(at.first + c, row / 4u + 1u, matrix.stride / 4u, gelu(sum.high));
    }
}

fn packed(sum: Octet) -> vec4<u32> {
    return vec4(
        pack2x16float(sum.low.xy),
        pack2x16float(sum.low.zw),
        pack2x16float(sum.high.xy),
        pack2x16float(sum.high.zw),
    );
}

// Rows 0.. are queries (scaled, to the output), then keys, then values (to the cache).
@compute @workgroup_size(LANES, SLICES, BLOCKS)
fn project_qkv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let at = place(group, thread);
    accumulate(at, thread, state.columns);
    if (at.row >= matrix.rows) {
        return;
    }
    let row = matrix.first_row + at.row;
    let part = row / D_MODEL;
    let within = row % D_MODEL;
    let scale = inverseSqrt(f32(HEAD_DIM));
    for (var c = thread.y; c < present(at.first, state.columns); c += SLICES) {
        let sum = biased(thread, c, row);
        let cache_row = state.column[at.first + c].row;
        if (part == 0u) {
            output(at.first + c, within / 4u, D_MODEL / 4u, sum.low * scale);
            output(at.first + c, within / 4u + 1u, D_MODEL / 4u, sum.high * scale);
        } else if (KV_F16) {
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
}
