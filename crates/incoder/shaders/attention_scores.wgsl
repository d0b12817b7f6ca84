// The score q · k of every cache row t that a column attends to, for each head: one thread a row.

override THREADS: u32 = 64u;
override HEADS: u32 = 1u;
override HEAD_DIM: u32 = 8u;
override KV_F16: bool = true;

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

@group(0) @binding(8) var<uniform> state: State;

@compute @workgroup_size(THREADS)
fn attention_scores(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let t = group.x * THREADS + thread;
    let head = group.y;
    let column = state.column[group.z];
    if (t >= column.prefix + column.tail_len) {
        return;
    }
    let row = select(column.tail_start + t - column.prefix, t, t < column.prefix);
    var sum = 0.0;
    for (var i = 0u; i < HEAD_DIM / 8u; i++) {
        var low: vec4<f32>;
        var high: vec4<f32>;
        let word = head * HEAD_WORDS;
        if (KV_F16) {
            let packed = cached(row, word + i);
            low = vec4(unpack2x16float(packed.x), unpack2x16float(packed.y));
            high = vec4(unpack2x16float(packed.z), unpack2x16float(packed.w));
        } else {
            low = bitcast<vec4<f32>>(cached(row, word + 2u * i));
            high = bitcast<vec4<f32>>(cached(row, word + 2u * i + 1u));
        }
        let query = head * HEAD_DIM / 4u + 2u * i;
        let width = HEADS * HEAD_DIM / 4u;
        sum += dot(input(group.z, query, width), low) + dot(input(group.z, query + 1u, width), high);
    }
    put_score(group.z * HEADS + head, t, sum);
}
