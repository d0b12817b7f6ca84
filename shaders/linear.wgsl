// y = W x + b for up to COLUMNS tokens a workgroup, so that one read of the weights serves them all.
//
// Weights lie in blocks of 64 rows, and inside a block by groups of 8 inputs, as weights_in_*.wgsl say. Thread `lane` owns the rows
// 8 lane to 8 lane + 7: neighbouring threads read neighbouring 16 bytes, no sum crosses threads but the one over SLICES, and eight
// outputs make 16 bytes of the KV cache.

// Tokens a workgroup: 1, 2, 4 or 8.
override COLUMNS: u32 = 1u;
// Threads that share eight rows, each taking every SLICES-th group of inputs: a power of two. 1 needs no barrier.
override SLICES: u32 = 1u;
// Lanes of a block that a workgroup has: 8, or fewer where a matrix has too few blocks to occupy the GPU with whole ones.
override LANES: u32 = 8u;
// Blocks of 64 rows a workgroup; 1 where it has not all their lanes.
override BLOCKS: u32 = 1u;
// Groups of 8 inputs that are multiplied in one go: 1, or 4 where threads read inputs together or weights share a scale.
override GROUPS: u32 = 1u;
// Whether groups are left over then.
override REST: bool = false;
override PARTIALS: u32 = LANES * BLOCKS * SLICES * COLUMNS;

// What a thread (lane, slice, block of the workgroup) computes.
struct Place {
    block: u32,
    lane: u32,
    // The first of its eight rows, in this array.
    row: u32,
    // The first column of the tile.
    first: u32,
}

var<workgroup> parts: array<Octet, PARTIALS>;

fn place(group: vec3<u32>, thread: vec3<u32>) -> Place {
    let parts = BLOCK_LANES / LANES;
    let block = group.y / parts * BLOCKS + thread.z;
    let lane = group.y % parts * LANES + thread.x;
    return Place(block, lane, block * BLOCK_ROWS + lane * 8u, group.x * COLUMNS);
}

// `sum` and the products of eight rows with eight inputs.
fn add(sum: Octet, rows: Rows, low: vec4<f32>, high: vec4<f32>) -> Octet {
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

// One for each column of the tile: named, not an array, as some drivers keep arrays in memory.
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

struct Tile {
    c0: Inputs,
    c1: Inputs,
    c2: Inputs,
    c3: Inputs,
    c4: Inputs,
    c5: Inputs,
    c6: Inputs,
    c7: Inputs,
}

// The inputs of every column from group `group` on. Columns beyond `last` repeat it; nobody reads them.
fn tile(first: u32, last: u32, group: u32, lane: u32) -> Tile {
    let width = matrix.groups * 2u;
    let i = group * 2u;
    var all: Tile;
    all.c0 = inputs(min(first, last), i, width, lane);
    if (COLUMNS > 1u) {
        all.c1 = inputs(min(first + 1u, last), i, width, lane);
    }
    if (COLUMNS > 2u) {
        all.c2 = inputs(min(first + 2u, last), i, width, lane);
        all.c3 = inputs(min(first + 3u, last), i, width, lane);
    }
    if (COLUMNS > 4u) {
        all.c4 = inputs(min(first + 4u, last), i, width, lane);
        all.c5 = inputs(min(first + 5u, last), i, width, lane);
        all.c6 = inputs(min(first + 6u, last), i, width, lane);
        all.c7 = inputs(min(first + 7u, last), i, width, lane);
    }
    return all;
}

// Adds the products of the weights at `at` with the `i`-th group of `all`.
fn add_group(sums: ptr<function, Sums>, at: u32, scales: Scales, all: Tile, i: u32) {
    let rows = rows_at(at, scales);
    let low = i * 2u;
    let high = low + 1u;
    (*sums).s0 = add((*sums).s0, rows, four(all.c0, low), four(all.c0, high));
    if (COLUMNS > 1u) {
        (*sums).s1 = add((*sums).s1, rows, four(all.c1, low), four(all.c1, high));
    }
    if (COLUMNS > 2u) {
        (*sums).s2 = add((*sums).s2, rows, four(all.c2, low), four(all.c2, high));
        (*sums).s3 = add((*sums).s3, rows, four(all.c3, low), four(all.c3, high));
    }
    if (COLUMNS > 4u) {
        (*sums).s4 = add((*sums).s4, rows, four(all.c4, low), four(all.c4, high));
        (*sums).s5 = add((*sums).s5, rows, four(all.c5, low), four(all.c5, high));
        (*sums).s6 = add((*sums).s6, rows, four(all.c6, low), four(all.c6, high));
        (*sums).s7 = add((*sums).s7, rows, four(all.c7, low), four(all.c7, high));
    }
}

fn part_of(thread: vec3<u32>, slice: u32, column: u32) -> u32 {
    return ((thread.z * SLICES + slice) * COLUMNS + column) * LANES + thread.x;
}

// Leaves the sums in the parts of slice 0.
fn accumulate(at: Place, thread: vec3<u32>, count: u32) {
    let last = max(count, 1u) - 1u;
    var sums = Sums();
    // A block beyond the last one repeats it: barriers want every thread.
    let block = min(at.block, (matrix.rows - 1u) / BLOCK_ROWS);
    let base = block * matrix.groups * GROUP_WORDS + at.lane;
    // Nothing is to be done after the end of a text.
    let groups = select(matrix.groups, 0u, count == 0u);
    let whole = groups / GROUPS * GROUPS;
    for (var group = thread.y * GROUPS; group < whole; group += SLICES * GROUPS) {
        let all = tile(at.first, last, group, thread.x);
        let first = base + group * GROUP_WORDS;
        let scales = scales_at(block, matrix.groups, group, at.lane);
        add_group(&sums, first, scales, all, 0u);
        if (GROUPS > 1u) {
            add_group(&sums, first + GROUP_WORDS, scales, all, 1u);
            add_group(&sums, first + 2u * GROUP_WORDS, scales, all, 2u);
            add_group(&sums, first + 3u * GROUP_WORDS, scales, all, 3u);
        }
    }
    if (REST) {
        for (var group = whole + thread.y; group < groups; group += SLICES) {
            // What lies beyond the last input is read by threads that nobody asks.
            let scales = scales_at(block, matrix.groups, group, at.lane);
            add_group(&sums, base + group * GROUP_WORDS, scales, tile(at.first, last, group, thread.x), 0u);
        }
    }
    let mine = part_of(thread, thread.y, 0u);
    parts[mine] = sums.s0;
    if (COLUMNS > 1u) {
        parts[mine + 1u * LANES] = sums.s1;
    }
    if (COLUMNS > 2u) {
        parts[mine + 2u * LANES] = sums.s2;
        parts[mine + 3u * LANES] = sums.s3;
    }
    if (COLUMNS > 4u) {
        parts[mine + 4u * LANES] = sums.s4;
        parts[mine + 5u * LANES] = sums.s5;
        parts[mine + 6u * LANES] = sums.s6;
        parts[mine + 7u * LANES] = sums.s7;
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

// Columns of this tile that exist: none after the end of a text.
fn present(first: u32, count: u32) -> u32 {
    return min(COLUMNS, max(count, first) - first);
}

// logits = W x
@compute @workgroup_size(LANES, SLICES, BLOCKS)
fn project_logits(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let at = place(group, thread);
    accumulate(at, thread, state.logits);
    for (var c = thread.y; c < present(at.first, state.logits); c += SLICES) {
        put_logits(at.first + c, at.row, total(thread, c));
    }
}

// y += W x + b
@compute @workgroup_size(LANES, SLICES, BLOCKS)
fn project_residual(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let at = place(group, thread);
    accumulate(at, thread, state.columns);
    for (var c = thread.y; c < present(at.first, state.columns); c += SLICES) {
        put_residual(at.first + c, at.row, total(thread, c));
    }
}

// output = gelu(W x + b)
@compute @workgroup_size(LANES, SLICES, BLOCKS)
fn project_gelu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let at = place(group, thread);
    accumulate(at, thread, state.columns);
    for (var c = thread.y; c < present(at.first, state.columns); c += SLICES) {
        put_gelu(at.first + c, at.row, total(thread, c));
    }
}

// Queries to the output, keys and values to the cache.
@compute @workgroup_size(LANES, SLICES, BLOCKS)
fn project_qkv(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let at = place(group, thread);
    accumulate(at, thread, state.columns);
    for (var c = thread.y; c < present(at.first, state.columns); c += SLICES) {
        put_qkv(at.first + c, at.row, total(thread, c));
    }
}

// output = silu(a) * b, of each two rows a and b of W x + b
@compute @workgroup_size(LANES, SLICES, BLOCKS)
fn project_gated_silu(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let at = place(group, thread);
    accumulate(at, thread, state.columns);
    for (var c = thread.y; c < present(at.first, state.columns); c += SLICES) {
        put_gated_silu(at.first + c, at.row, total(thread, c));
    }
}
