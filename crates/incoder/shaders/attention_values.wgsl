// y[column, head] = softmax(scores) V. Thread `pair` owns two of the head's values; SLICES threads share a pair, each taking
// every SLICES-th cache row with its own running maximum, joined at the end.

// HEAD_DIM / 2.
override PAIRS: u32 = 4u;
// 1 needs no barrier.
override SLICES: u32 = 1u;
override HEADS: u32 = 1u;
override CAPACITY: u32 = 1u;
override KV_F16: bool = true;

override PARTIALS: u32 = PAIRS * SLICES;

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

@group(0) @binding(0) var<storage, read> scores: array<f32>;
@group(0) @binding(1) var<storage, read> values: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> state: State;

var<workgroup> part_max: array<f32, SLICES>;
var<workgroup> part_sum: array<f32, SLICES>;
var<workgroup> part_out: array<vec2<f32>, PARTIALS>;

@compute @workgroup_size(PAIRS, SLICES)
fn attention_values(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let head = group.x;
    let column = state.column[group.y];
    let attended = column.prefix + column.tail_len;
    let first = (group.y * HEADS + head) * CAPACITY;
    // Below every score; a slice without rows keeps it, and weighs nothing.
    var highest = -3.0e38;
    for (var t = thread.y; t < attended; t += SLICES) {
        highest = max(highest, scores[first + t]);
    }
    var sum = 0.0;
    var out = vec2(0.0);
    for (var t = thread.y; t < attended; t += SLICES) {
        let weight = exp(scores[first + t] - highest);
        let row = select(column.tail_start + t - column.prefix, t, t < column.prefix);
        let pair = (head * CAPACITY + row) * PAIRS + thread.x;
        var value: vec2<f32>;
        if (KV_F16) {
            value = unpack2x16float(values[pair]);
        } else {
            value = bitcast<vec2<f32>>(vec2(values[2u * pair], values[2u * pair + 1u]));
        }
        sum += weight;
        out += weight * value;
    }
    if (SLICES > 1u) {
        part_out[thread.y * PAIRS + thread.x] = out;
        if (thread.x == 0u) {
            part_max[thread.y] = highest;
            part_sum[thread.y] = sum;
        }
        workgroupBarrier();
        if (thread.y > 0u) {
            return;
        }
        for (var slice = 0u; slice < SLICES; slice++) {
            highest = max(highest, part_max[slice]);
        }
        sum = 0.0;
        out = vec2(0.0);
        for (var slice = 0u; slice < SLICES; slice++) {
            let weight = exp(part_max[slice] - highest);
            sum += weight * part_sum[slice];
            out += weight * part_out[slice * PAIRS + thread.x];
        }
    }
    y[(group.y * HEADS + head) * PAIRS + thread.x] = out / sum;
}
