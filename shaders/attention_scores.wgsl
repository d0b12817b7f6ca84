// The score q · k of every cache row t that a column attends to, for each head. A thread owns four of them, so that what it reads of
// the query serves four rows.

override THREADS: u32 = 64u;
override HEADS: u32 = 1u;
override HEAD_DIM: u32 = 8u;
// Query heads that share a head of keys and values.
override QUERIES_PER_KEY: u32 = 1u;

@compute @workgroup_size(THREADS)
fn attention_scores(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let quad = group.x * THREADS + thread;
    let head = group.y;
    let column = state.column[group.z];
    let attended = column.prefix + column.tail_len;
    let t = vec4(quad * 4u) + vec4(0u, 1u, 2u, 3u);
    if (t.x >= attended) {
        return;
    }
    // What lies beyond the last row repeats it, and then weighs nothing.
    let inside = min(t, vec4(attended - 1u));
    let row = select(vec4(column.tail_start - column.prefix) + inside, inside, inside < vec4(column.prefix));
    let key_head = head / QUERIES_PER_KEY;
    let width = HEADS * HEAD_DIM / 4u;
    var sum = vec4(0.0);
    for (var i = 0u; i < HEAD_DIM / 8u; i++) {
        let query = head * HEAD_DIM / 4u + 2u * i;
        let low = input(group.z, query, width);
        let high = input(group.z, query + 1u, width);
        sum += vec4(
            product(cached_octet(row.x, key_head, i), low, high),
            product(cached_octet(row.y, key_head, i), low, high),
            product(cached_octet(row.z, key_head, i), low, high),
            product(cached_octet(row.w, key_head, i), low, high),
        );
    }
    put_scores(group.z * HEADS + head, quad, select(vec4(-3.0e38), sum, t < vec4(attended)));
}
