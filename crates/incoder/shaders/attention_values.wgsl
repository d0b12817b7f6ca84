// output[column, head] = softmax(scores) V. A thread owns eight of the head's values; SLICES threads share them, each taking every
// SLICES-th cache row with its own running maximum, joined at the end.

// HEAD_DIM / 8.
override OCTETS: u32 = 1u;
// 1 needs no barrier.
override SLICES: u32 = 1u;
override HEADS: u32 = 1u;
override KV_F16: bool = true;

override PARTIALS: u32 = OCTETS * SLICES;

struct Column {
    token: u32,
    position: u32,
    row: u32,
    prefix: u32,
    tail_start: u32,
    tail_len: u32,
    spare: vec2<u32>,
}

struct State {
    columns: u32,
    logits: u32,
    spare: vec2<u32>,
    column: array<Column, 128>,
}

struct Octet {
    low: vec4<f32>,
    high: vec4<f32>,
}

@group(0) @binding(8) var<uniform> state: State;

var<workgroup> part_max: array<f32, SLICES>;
var<workgroup> part_sum: array<f32, SLICES>;
var<workgroup> part_out: array<Octet, PARTIALS>;

fn value_at(row: u32, head: u32, octet: u32) -> Octet {
    let word = head * HEAD_WORDS;
    if (KV_F16) {
        let packed = cached(row, word + octet);
        return Octet(
            vec4(unpack2x16float(packed.x), unpack2x16float(packed.y)),
            vec4(unpack2x16float(packed.z), unpack2x16float(packed.w)),
        );
    }
    return Octet(
        bitcast<vec4<f32>>(cached(row, word + 2u * octet)),
        bitcast<vec4<f32>>(cached(row, word + 2u * octet + 1u)),
    );
}

@compute @workgroup_size(OCTETS, SLICES)
fn attention_values(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let head = group.x;
    let column = state.column[group.y];
    let attended = column.prefix + column.tail_len;
    let line = group.y * HEADS + head;
    // Below every score; a slice without rows keeps it, and weighs nothing.
    var highest = -3.0e38;
    for (var t = thread.y; t < attended; t += SLICES) {
        highest = max(highest, score(line, t));
    }
    var sum = 0.0;
    var low = vec4(0.0);
    var high = vec4(0.0);
    for (var t = thread.y; t < attended; t += SLICES) {
        let row = select(column.tail_start + t - column.prefix, t, t < column.prefix);
        let share = exp(score(line, t) - highest);
        let value = value_at(row, head, thread.x);
        sum += share;
        low += share * value.low;
        high += share * value.high;
    }
    if (SLICES > 1u) {
        part_out[thread.y * OCTETS + thread.x] = Octet(low, high);
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
        low = vec4(0.0);
        high = vec4(0.0);
        for (var slice = 0u; slice < SLICES; slice++) {
            let share = exp(part_max[slice] - highest);
            let part = part_out[slice * OCTETS + thread.x];
            sum += share * part_sum[slice];
            low += share * part.low;
            high += share * part.high;
        }
    }
    let at = (head * OCTETS + thread.x) * 2u;
    output(group.y, at, HEADS * OCTETS * 2u, low / sum);
    output(group.y, at + 1u, HEADS * OCTETS * 2u, high / sum);
}
