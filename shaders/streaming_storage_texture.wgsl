// What streaming.wgsl does, of a storage texture. A file of its own: not every browser reads them.

override THREADS: u32 = 64u;
// Values that one thread reads, a multiple of 4.
override READS: u32 = 64u;
// Texels in a row of the texture.
override WIDTH: u32 = 4096u;

@group(0) @binding(1) var texels: texture_storage_2d<rgba32uint, read>;
@group(0) @binding(2) var<storage, read_write> written: array<vec4<u32>>;

fn texel(i: u32) -> vec4<u32> {
    return textureLoad(texels, vec2(i % WIDTH, i / WIDTH));
}

@compute @workgroup_size(THREADS)
fn read_storage_texture(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    var sum = vec4(0u);
    var i = group.x * THREADS * READS + thread;
    for (var n = 0u; n < READS; n += 4u) {
        sum += (texel(i) ^ texel(i + THREADS)) + (texel(i + 2u * THREADS) ^ texel(i + 3u * THREADS));
        i += 4u * THREADS;
    }
    // Never true of what `fill` writes, but no compiler knows that.
    if (all(sum == vec4(0x9e3779b9u))) {
        written[0] = sum;
    }
}
