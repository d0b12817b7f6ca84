// Layer norm with a biased variance, or RMS norm; one workgroup a token. Sums cross threads by subgroup, then through workgroup memory.

override THREADS: u32 = 64u;
// Width of a row in groups of 4 values.
override WIDTH: u32 = 1u;
// Whether to norm only the last `logits` columns, packed to the front.
override LAST: bool = false;
// Whether the mean is subtracted: layer norm. Otherwise it is RMS norm.
override CENTRED: bool = true;
// Added to the variance.
override EPS: f32 = 1e-5;

@group(0) @binding(9) var<storage, read> scale: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read> shift: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read> x: array<vec4<f32>>;

var<workgroup> parts: array<f32, THREADS>;

// The sum of `value` over the workgroup, one part a subgroup.
fn total(value: f32, subgroup: u32, subgroups: u32) -> f32 {
    parts[subgroup] = subgroupAdd(value);
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < subgroups; i++) {
        sum += parts[i];
    }
    // The parts must be read before the next call overwrites them.
    workgroupBarrier();
    return sum;
}

@compute @workgroup_size(THREADS)
fn layer_norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
) {
    var row = group.y;
    if (LAST) {
        row += state.columns - state.logits;
    }
    let first = row * WIDTH;
    let size = f32(WIDTH * 4u);
    var mean = 0.0;
    if (CENTRED) {
        var sum = vec4(0.0);
        for (var i = thread; i < WIDTH; i += THREADS) {
            sum += x[first + i];
        }
        mean = total(dot(sum, vec4(1.0)), subgroup, subgroups) / size;
    }
    var squares = 0.0;
    for (var i = thread; i < WIDTH; i += THREADS) {
        let centred = x[first + i] - mean;
        squares += dot(centred, centred);
    }
    let deviation = inverseSqrt(total(squares, subgroup, subgroups) / size + EPS);
    for (var i = thread; i < WIDTH; i += THREADS) {
        output(group.y, i, WIDTH, (x[first + i] - mean) * deviation * scale[i] + shift[i]);
    }
}
