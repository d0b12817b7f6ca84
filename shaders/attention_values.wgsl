// output[column, head] = softmax(scores) V. A thread owns eight of the head's values; SLICES threads share them, each taking every
// SLICES-th four of the cache rows with its own maximum, joined at the end.

// HEAD_DIM / 8.
override OCTETS: u32 = 1u;
// 1 needs no barrier.
override SLICES: u32 = 1u;
override HEADS: u32 = 1u;
// Query heads that share a head of keys and values.
override QUERIES_PER_KEY: u32 = 1u;

override PARTIALS: u32 = OCTETS * SLICES;

var<workgroup> part_max: array<f32, SLICES>;
var<workgroup> part_sum: array<f32, SLICES>;
var<workgroup> part_out: array<Octet, PARTIALS>;

@compute @workgroup_size(OCTETS, SLICES)
fn attention_values(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) thread: vec3<u32>) {
    let head = group.x;
    let value_head = head / QUERIES_PER_KEY;
    let column = state.column[group.y];
    let attended = column.prefix + column.tail_len;
    let line = group.y * HEADS + head;
    let quads = (attended + 3u) / 4u;
    // Below every score; a slice without rows keeps it, and weighs nothing.
    var highest_of_four = vec4(-3.0e38);
    for (var i = thread.y; i < quads; i += SLICES) {
        highest_of_four = max(highest_of_four, scores(line, i));
    }
    let highest_of_two = max(highest_of_four.xy, highest_of_four.zw);
    var highest = max(highest_of_two.x, highest_of_two.y);
    var sum_of_four = vec4(0.0);
    var low = vec4(0.0);
    var high = vec4(0.0);
    for (var i = thread.y; i < quads; i += SLICES) {
        // Beyond the last row, where the share is 0, it repeats that row.
        let t = min(vec4(i * 4u) + vec4(0u, 1u, 2u, 3u), vec4(attended - 1u));
        let row = select(vec4(column.tail_start - column.prefix) + t, t, t < vec4(column.prefix));
        let share = exp(scores(line, i) - highest);
        let value0 = cached_octet(row.x, value_head, thread.x);
        let value1 = cached_octet(row.y, value_head, thread.x);
        let value2 = cached_octet(row.z, value_head, thread.x);
        let value3 = cached_octet(row.w, value_head, thread.x);
        sum_of_four += share;
        low += share.x * value0.low + share.y * value1.low + share.z * value2.low + share.w * value3.low;
        high += share.x * value0.high + share.y * value1.high + share.z * value2.high + share.w * value3.high;
    }
    var sum = dot(sum_of_four, vec4(1.0));
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
