// A matrix in fp16. One of the files weights_in_*.wgsl goes before a kernel that reads one; all of them declare the same.
//
// Inside a block of 64 rows, for every group of 8 inputs, come 16 bytes each of the rows 0, 8, 16 to 56, then of 1, 9, 17 to 57, and
// so on.

// 16-byte words of a group of 8 inputs in a block.
const GROUP_WORDS = 64u;

// What the weights of a thread's eight rows are to be multiplied with, for 32 inputs: they have no scales.
struct Scales {
    none: u32,
}

fn scales_at(block: u32, groups: u32, group: u32, lane: u32) -> Scales {
    return Scales(0u);
}

// The weights of the eight rows whose first word is at `first`.
fn rows_at(first: u32, scales: Scales) -> Rows {
    return Rows(
        unpacked(weight(first, 0u)),
        unpacked(weight(first, 8u)),
        unpacked(weight(first, 16u)),
        unpacked(weight(first, 24u)),
        unpacked(weight(first, 32u)),
        unpacked(weight(first, 40u)),
        unpacked(weight(first, 48u)),
        unpacked(weight(first, 56u)),
    );
}

// The weights of one row of a block for one group of inputs.
fn row_at(block: u32, groups: u32, group: u32, row: u32) -> Octet {
    return unpacked(weight((block * groups + group) * GROUP_WORDS, row % 8u * 8u + row / 8u));
}
