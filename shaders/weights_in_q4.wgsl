// A matrix in 4 bits a weight. One of the files weights_in_*.wgsl goes before a kernel that reads one; all of them declare the same.
//
// Inside a block of 64 rows, for every group of 8 inputs, come 16 bytes each for the rows 0 to 3, 8 to 11, to 56 to 59, then for 4 to
// 7, 12 to 15, and so on. Of eight weights in a u32 the last is stored less by 8: with its neighbours masked away each is a whole
// number that f32 holds, and no bits have to be moved. Of every 32 inputs a thread has two words: the scales of its rows, and what
// their weights are at 0.

// 16-byte words of a group of 8 inputs in a block.
const GROUP_WORDS = 16u;

const LOW_MASKS = vec4<u32>(0xfu, 0xf0u, 0xf00u, 0xf000u);
const HIGH_MASKS = vec4<u32>(0xf0000u, 0xf00000u, 0xf000000u, 0xf0000000u);
// What the places of the eight make of them.
const LOW_PLACES = vec4<f32>(1.0, 0x1p-4, 0x1p-8, 0x1p-12);
const HIGH_PLACES = vec4<f32>(0x1p-16, 0x1p-20, 0x1p-24, 0x1p-28);
const HIGH_OFFSETS = vec4<f32>(0.0, 0.0, 0.0, 8.0);

// What makes values of the weights of a thread's eight rows, for 32 inputs.
struct Scales {
    rows: Octet,
    minima: Octet,
}

fn scales_at(block: u32, groups: u32, group: u32, lane: u32) -> Scales {
    let first = (block * ((groups + 3u) / 4u) + group / 4u) * 16u + lane;
    return Scales(unpacked(scale_word(first)), unpacked(scale_word(first + 8u)));
}

fn scaled(word: u32, scale: f32, minimum: f32) -> Octet {
    return Octet(
        vec4<f32>(bitcast<vec4<i32>>(vec4(word) & LOW_MASKS)) * (LOW_PLACES * scale) + minimum,
        vec4<f32>(bitcast<vec4<i32>>(vec4(word) & HIGH_MASKS)) * (HIGH_PLACES * scale) + (HIGH_OFFSETS * scale + minimum),
    );
}

// The weights of the eight rows whose first word is at `first`.
fn rows_at(first: u32, scales: Scales) -> Rows {
    let a = weight(first, 0u);
    let b = weight(first, 8u);
    return Rows(
        scaled(a.x, scales.rows.low.x, scales.minima.low.x),
        scaled(a.y, scales.rows.low.y, scales.minima.low.y),
        scaled(a.z, scales.rows.low.z, scales.minima.low.z),
        scaled(a.w, scales.rows.low.w, scales.minima.low.w),
        scaled(b.x, scales.rows.high.x, scales.minima.high.x),
        scaled(b.y, scales.rows.high.y, scales.minima.high.y),
        scaled(b.z, scales.rows.high.z, scales.minima.high.z),
        scaled(b.w, scales.rows.high.w, scales.minima.high.w),
    );
}

// The weights of one row of a block for one group of inputs.
fn row_at(block: u32, groups: u32, group: u32, row: u32) -> Octet {
    let scales = scales_at(block, groups, group, row / 8u);
    let word = weight((block * groups + group) * GROUP_WORDS, row % 8u / 4u * 8u + row / 8u);
    let of_four = select(scales.rows.high, scales.rows.low, row % 8u < 4u);
    let minima = select(scales.minima.high, scales.minima.low, row % 8u < 4u);
    return scaled(word[row % 4u], of_four[row % 4u], minima[row % 4u]);
}
