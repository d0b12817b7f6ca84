// Rotary positions: queries and keys are rotated, two values at a time, by their token's position. The two of a pair lie side by side
// here. This file goes before the kernels that multiply; not_rotary.wgsl takes its place for models without.

// Cosine and sine of two pairs a texel, position after position, in rows of 1,024 texels.
@group(0) @binding(18) var rotary: texture_2d<f32>;

fn rotated_two(values: vec4<f32>, texel: u32) -> vec4<f32> {
    let turn = textureLoad(rotary, vec2(texel % 1024u, texel / 1024u), 0);
    return vec4(
        values.x * turn.x - values.y * turn.y,
        values.y * turn.x + values.x * turn.y,
        values.z * turn.z - values.w * turn.w,
        values.w * turn.z + values.z * turn.w,
    );
}

// Eight values of a head, from value `first` on, at a position.
fn rotated(values: Octet, position: u32, first: u32, head_dim: u32) -> Octet {
    let texel = (position * head_dim + first) / 4u;
    return Octet(rotated_two(values.low, texel), rotated_two(values.high, texel + 1u));
}
