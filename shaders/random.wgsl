// Random weights, written where the kernels read them: eight values of a row a thread, a block's rows of one group of inputs a
// workgroup. The same values as random.rs makes, in whole numbers only, so that every adapter makes the same. The layout is that of
// linear.wgsl.

struct Matrix {
    // Groups of 8 inputs.
    groups: u32,
    // Rows of this array, and the row of the whole matrix that it begins with.
    rows: u32,
    first_row: u32,
    stride: u32,
}

// One of the tensors that the matrix consists of.
struct Part {
    key: u32,
    // What a value is multiplied with, in units of 2^-24.
    step: u32,
    // 1: each value of an odd column is the negative of the one before it.
    opposed: u32,
    // The row of the matrix that it begins with.
    first_row: u32,
}

struct Parts {
    part: array<Part, 3>,
    // 1: rows of the first two parts take turns.
    alternating: u32,
    // Half of a head's values where those of a pair lie side by side in the heads of the first two parts; 0 elsewhere.
    half: u32,
}

@group(0) @binding(9) var<uniform> matrix: Matrix;
@group(0) @binding(10) var<uniform> parts: Parts;

// The last steps of MurmurHash3.
fn mix(start: u32) -> u32 {
    var word = start;
    word = (word ^ (word >> 16u)) * 0x85ebca6bu;
    word = (word ^ (word >> 13u)) * 0xc2b2ae35u;
    return word ^ (word >> 16u);
}

// The bits of the fp16 value that is n times 2^-24, rounded towards zero.
fn half(n: u32) -> u32 {
    let shift = max(firstLeadingBit(n | 1u), 10u) - 10u;
    return (shift << 10u) + (n >> shift);
}

// The value in one column of a row with the key `row`.
fn value(part: Part, row: u32, column: u32) -> u32 {
    let odd = column & part.opposed;
    let word = mix(row + (column - odd) * 0x9e3779b9u);
    // Four uniform bytes, less the mean of their sum.
    let pairs = (word & 0xff00ffu) + ((word >> 8u) & 0xff00ffu);
    let sum = i32((pairs & 0xffffu) + (pairs >> 16u)) - 510;
    let sign = u32(sum < 0) ^ odd;
    return (sign << 15u) | half(u32(abs(sum)) * part.step);
}

@compute @workgroup_size(64)
fn random(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
    let row = group.y * 64u + slot % 8u * 8u + slot / 8u;
    var word = vec4(0u);
    // Rows that are missing from the last block are 0.
    if (row < matrix.rows) {
        let of_all = matrix.first_row + row;
        var i = u32(of_all >= parts.part[1].first_row) + u32(of_all >= parts.part[2].first_row);
        var row_of_part = of_all - parts.part[i].first_row;
        if (parts.alternating == 1u) {
            i = of_all % 2u;
            row_of_part = of_all / 2u;
        } else if (parts.half > 0u && i < 2u) {
            let within = row_of_part % (2u * parts.half);
            row_of_part += within % 2u * parts.half + within / 2u - within;
        }
        let part = parts.part[i];
        let key = mix(part.key ^ row_of_part);
        for (var pair = 0u; pair < 4u; pair++) {
            let column = 8u * group.x + 2u * pair;
            word[pair] = value(part, key, column) | (value(part, key, column + 1u) << 16u);
        }
    }
    put_weight((group.y * matrix.groups + group.x) * 64u + slot, word);
}
