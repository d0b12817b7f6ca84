// scores[column, head, t] = q · k for every cache row t that a column attends to, one thread a row.

override THREADS: u32 = 64u;
override HEADS: u32 = 1u;
override HEAD_DIM: u32 = 8u;
override CAPACITY: u32 = 1u;
override KV_F16: bool = true;

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

@group(0) @binding(0) var<storage, read> queries: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> scores: array<f32>;
@group(0) @binding(3) var<storage, read> state: State;

@compute @workgroup_size(THREADS)
fn attention_scores(@builtin(global_invocation_id) thread: vec3<u32>) {
    let t = thread.x;
    let head = thread.y;
    let column = state.column[thread.z];
    if (t >= column.prefix + column.tail_len) {
        return;
    }
    let row = select(column.tail_start + t - column.prefix, t, t < column.prefix);
    let query = (thread.z * HEADS + head) * HEAD_DIM / 4u;
    let key = (head * CAPACITY + row) * HEAD_DIM;
    var score = 0.0;
    for (var i = 0u; i < HEAD_DIM / 8u; i++) {
        var low: vec4<f32>;
        var high: vec4<f32>;
        if (KV_F16) {
            let packed = keys[key / 8u + i];
            low = vec4(unpack2x16float(packed.x), unpack2x16float(packed.y));
            high = vec4(unpack2x16float(packed.z), unpack2x16float(packed.w));
        } else {
            low = bitcast<vec4<f32>>(keys[key / 4u + 2u * i]);
            high = bitcast<vec4<f32>>(keys[key / 4u + 2u * i + 1u]);
        }
        score += dot(queries[query + 2u * i], low) + dot(queries[query + 2u * i + 1u], high);
    }
    scores[(thread.z * HEADS + head) * CAPACITY + t] = score;
}
