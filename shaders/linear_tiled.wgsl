// y = W x + b for 64 rows and many tokens a workgroup: the matrix product of a prefill. Weights and inputs go through workgroup
// memory DEPTH inputs at a time, so that each is read from memory once for a whole tile. The layout of the weights is that of
// linear.wgsl, which is faster for few tokens.

// Tokens a thread: 4 or 8.
override COLUMNS: u32 = 8u;
// Threads along the tokens: a tile has 64.
override TOKEN_THREADS: u32 = 8u;

const TILE = 64u;
// Inputs in workgroup memory at a time, and the groups of eight that they are.
const DEPTH = 32u;
const DEPTH_GROUPS = 4u;
// Groups of four rows, or of four tokens, in a tile.
const QUADS = 16u;

override THREADS: u32 = BLOCK_LANES * TOKEN_THREADS;

// [input, four rows]: of the eight rows of a thread, the first four are at `lane`, the others at 8 + `lane`, so that neighbouring
// threads read neighbouring words.
var<workgroup> weight_tile: array<vec4<f32>, 512>;
// [input, four tokens]; where bit 2 of the input is set, the two halves of eight neighbours are exchanged, so that threads that
// write at once write to different banks.
var<workgroup> input_tile: array<vec4<f32>, 512>;

// One for each token of a thread: named, not an array, as some drivers keep arrays in memory.
struct Sums {
    s0: Octet,
    s1: Octet,
    s2: Octet,
    s3: Octet,
    s4: Octet,
    s5: Octet,
    s6: Octet,
    s7: Octet,
}

// What a thread computes: eight rows, and COLUMNS tokens.
struct Place {
    row: u32,
    first: u32,
}

fn place(group: vec3<u32>, thread: vec3<u32>) -> Place {
    return Place(group.y * BLOCK_ROWS + thread.x * 8u, group.x * TILE + thread.y * COLUMNS);
}

// Four rows of a block and eight inputs, from `group` on, to workgroup memory.
fn load_weights(block: u32, group: u32, task: u32) {
    let quad = task % QUADS;
    let part = task / QUADS;
    // Beyond the last input, where all inputs are 0, the last weights are repeated.
    let at = min(group + part, matrix.groups - 1u);
    let row0 = row_at(block, matrix.groups, at, quad * 4u);
    let row1 = row_at(block, matrix.groups, at, quad * 4u + 1u);
    let row2 = row_at(block, matrix.groups, at, quad * 4u + 2u);
    let row3 = row_at(block, matrix.groups, at, quad * 4u + 3u);
    let to = part * 8u * QUADS + quad % 2u * 8u + quad / 2u;
    weight_tile[to] = vec4(row0.low.x, row1.low.x, row2.low.x, row3.low.x);
    weight_tile[to + QUADS] = vec4(row0.low.y, row1.low.y, row2.low.y, row3.low.y);
    weight_tile[to + 2u * QUADS] = vec4(row0.low.z, row1.low.z, row2.low.z, row3.low.z);
    weight_tile[to + 3u * QUADS] = vec4(row0.low.w, row1.low.w, row2.low.w, row3.low.w);
    weight_tile[to + 4u * QUADS] = vec4(row0.high.x, row1.high.x, row2.high.x, row3.high.x);
    weight_tile[to + 5u * QUADS] = vec4(row0.high.y, row1.high.y, row2.high.y, row3.high.y);
    weight_tile[to + 6u * QUADS] = vec4(row0.high.z, row1.high.z, row2.high.z, row3.high.z);
    weight_tile[to + 7u * QUADS] = vec4(row0.high.w, row1.high.w, row2.high.w, row3.high.w);
}

// Four inputs of a token; 0 beyond the last input. A token beyond `last` repeats it; nobody reads it.
fn input_at(column: u32, last: u32, i: u32) -> vec4<f32> {
    if (i >= matrix.groups * 2u) {
        return vec4(0.0);
    }
    return input(min(column, last), i, matrix.groups * 2u);
}

// Four tokens and four inputs, from `group` on, to workgroup memory.
fn load_inputs(first: u32, last: u32, group: u32, task: u32) {
    // Neighbouring tasks read neighbouring words by twos.
    let part = task / 32u * 2u + task % 2u;
    let quad = task / 2u % QUADS;
    let column = first + quad * 4u;
    let i = group * 2u + part;
    let t0 = input_at(column, last, i);
    let t1 = input_at(column + 1u, last, i);
    let t2 = input_at(column + 2u, last, i);
    let t3 = input_at(column + 3u, last, i);
    let to = part * 4u * QUADS + (quad ^ (part % 2u * 4u));
    input_tile[to] = vec4(t0.x, t1.x, t2.x, t3.x);
    input_tile[to + QUADS] = vec4(t0.y, t1.y, t2.y, t3.y);
    input_tile[to + 2u * QUADS] = vec4(t0.z, t1.z, t2.z, t3.z);
    input_tile[to + 3u * QUADS] = vec4(t0.w, t1.w, t2.w, t3.w);
}

fn accumulate(group: vec3<u32>, thread: vec3<u32>, count: u32) -> Sums {
    let mine = thread.y * BLOCK_LANES + thread.x;
    let last = max(count, 1u) - 1u;
    var sums = Sums();
    // Nothing is to be done after the end of a text.
    let groups = select(matrix.groups, 0u, count == 0u);
    for (var first = 0u; first < groups; first += DEPTH_GROUPS) {
        for (var task = mine; task < QUADS * DEPTH_GROUPS; task += THREADS) {
            load_weights(group.y, first, task);
        }
        for (var task = mine; task < QUADS * DEPTH_GROUPS * 2u; task += THREADS) {
            load_inputs(group.x * TILE, last, first, task);
        }
        workgroupBarrier();
        for (var i = 0u; i < DEPTH; i++) {
            let low = weight_tile[i * QUADS + thread.x];
            let high = weight_tile[i * QUADS + 8u + thread.x];
            let quad = thread.y * COLUMNS / 4u;
            let a = input_tile[i * QUADS + (quad ^ (i & 4u))];
            sums.s0 = Octet(sums.s0.low + low * a.x, sums.s0.high + high * a.x);
            sums.s1 = Octet(sums.s1.low + low * a.y, sums.s1.high + high * a.y);
            sums.s2 = Octet(sums.s2.low + low * a.z, sums.s2.high + high * a.z);
            sums.s3 = Octet(sums.s3.low + low * a.w, sums.s3.high + high * a.w);
            if (COLUMNS > 4u) {
                let b = input_tile[i * QUADS + ((quad + 1u) ^ (i & 4u))];
                sums.s4 = Octet(sums.s4.low + low * b.x, sums.s4.high + high * b.x);
                sums.s5 = Octet(sums.s5.low + low * b.y, sums.s5.high + high * b.y);
                sums.s6 = Octet(sums.s6.low + low * b.z, sums.s6.high + high * b.z);
                sums.s7 = Octet(sums.s7.low + low * b.w, sums.s7.high + high * b.w);
            }
        }
        workgroupBarrier();
    }
    return sums;
}

// The sums of the `c`-th token of a thread.
fn total(sums: Sums, c: u32) -> Octet {
    switch c {
        case 0u: { return sums.s0; }
        case 1u: { return sums.s1; }
        case 2u: { return sums.s2; }
        case 3u: { return sums.s3; }
        case 4u: { return sums.s4; }
        case 5u: { return sums.s5; }
        case 6u: { return sums.s6; }
        default: { return sums.s7; }
    }
}

// Tokens of this thread that exist: none after the end of a text.
fn present(first: u32, count: u32) -> u32 {
    return min(COLUMNS, max(count, first) - first);
}

// logits = W x
@compute @workgroup_size(BLOCK_LANES, TOKEN_THREADS)
fn project_logits(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let sums = accumulate(group, thread, state.logits);
    let at = place(group, thread);
    for (var c = 0u; c < present(at.first, state.logits); c++) {
        put_logits(at.first + c, at.row, total(sums, c));
    }
}

// y += W x + b
@compute @workgroup_size(BLOCK_LANES, TOKEN_THREADS)
fn project_residual(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let sums = accumulate(group, thread, state.columns);
    let at = place(group, thread);
    for (var c = 0u; c < present(at.first, state.columns); c++) {
        put_residual(at.first + c, at.row, total(sums, c));
    }
}

// output = gelu(W x + b)
@compute @workgroup_size(BLOCK_LANES, TOKEN_THREADS)
fn project_gelu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let sums = accumulate(group, thread, state.columns);
    let at = place(group, thread);
    for (var c = 0u; c < present(at.first, state.columns); c++) {
        put_gelu(at.first + c, at.row, total(sums, c));
    }
}

// Queries to the output, keys and values to the cache.
@compute @workgroup_size(BLOCK_LANES, TOKEN_THREADS)
fn project_qkv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let sums = accumulate(group, thread, state.columns);
    let at = place(group, thread);
    for (var c = 0u; c < present(at.first, state.columns); c++) {
        put_qkv(at.first + c, at.row, total(sums, c));
    }
}

// output = silu(a) * b, of each two rows a and b of W x + b
@compute @workgroup_size(BLOCK_LANES, TOKEN_THREADS)
fn project_gated_silu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let sums = accumulate(group, thread, state.columns);
    let at = place(group, thread);
    for (var c = 0u; c < present(at.first, state.columns); c++) {
        put_gated_silu(at.first + c, at.row, total(sums, c));
    }
}
