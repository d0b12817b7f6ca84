// A matrix in 8 bits a weight. One of the files weights_in_*.wgsl goes before a kernel that reads one; all of them declare the same.
//
// Inside a block of 64 rows, for every group of 8 inputs, come 16 bytes each for the rows 0 and 1, 8 and 9, to 56 and 57, then for
// 2 and 3, 10 and 11, and so on. Of four weights in a u32 the first three are stored larger by 128, and the fourth as it is: with
// its neighbours masked away each is a whole number that f32 holds, and no bits have to be moved.

// 16-byte words of a group of 8 inputs in a block.
const GROUP_WORDS = 32u;

const MASKS = vec4<u32>(0xffu, 0xff00u, 0xff0000u, 0xff000000u);
// What the places of the four make of them.
const PLACES = vec4<f32>(1.0, 0x1p-8, 0x1p-16, 0x1p-24);
const OFFSETS = vec4<f32>(-128.0, -128.0, -128.0, 0.0);

// What the weights of a thread's eight rows are to be multiplied with, for 32 inputs.
struct Scales {
    rows: Octet,
}

fn scales_at(block: u32, groups: u32, group: u32, lane: u32) -> Scales {
    return Scales(unpacked(scale_word((block * ((groups + 3u) / 4u) + group / 4u) * 8u + lane)));
}

fn four_weights(word: u32, scale: f32) -> vec4<f32> {
    return vec4<f32>(bitcast<vec4<i32>>(vec4(word) & MASKS)) * (PLACES * scale) + OFFSETS * scale;
}

fn scaled(low: u32, high: u32, scale: f32) -> Octet {
    return Octet(four_weights(low, scale), four_weights(high, scale));
}

// The weights of the eight rows whose first word is at `first`.
fn rows_at(first: u32, scales: Scales) -> Rows {
    let a = weight(first, 0u);
    let b = weight(first, 8u);
    let c = weight(first, 16u);
    let d = weight(first, 24u);
    return Rows(
        scaled(a.x, a.y, scales.rows.low.x),
        scaled(a.z, a.w, scales.rows.low.y),
        scaled(b.x, b.y, scales.rows.low.z),
        scaled(b.z, b.w, scales.rows.low.w),
        scaled(c.x, c.y, scales.rows.high.x),
        scaled(c.z, c.w, scales.rows.high.y),
        scaled(d.x, d.y, scales.rows.high.z),
        scaled(d.z, d.w, scales.rows.high.w),
    );
}

// The weights of one row of a block for one group of inputs.
fn row_at(block: u32, groups: u32, group: u32, row: u32) -> Octet {
    let scales = scales_at(block, groups, group, row / 8u).rows;
    let word = weight((block * groups + group) * GROUP_WORDS, row % 8u / 2u * 8u + row / 8u);
    let of_four = select(scales.high, scales.low, row % 8u < 4u);
    let scale = of_four[row % 4u];
    return scaled(select(word.z, word.x, row % 2u == 0u), select(word.w, word.y, row % 2u == 0u), scale);
}
