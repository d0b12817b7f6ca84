//! Row-major rows → the layout of linear.wgsl.
//!
//! In blocks of 64 rows; in each, for every group of 8 inputs, words of 16 bytes: of one row in fp16, of two in 8 bits, of four in 4. A
//! thread owns eight neighbouring rows, and neighbouring words are of neighbouring threads. Rows that are missing from the last
//! block are 0.

use super::weights::{BLOCK_ROWS, GROUP};
use crate::quantize::Format;
use half::f16;

/// Groups of inputs that are packed together: a cache line of every row in fp16.
const TILE_GROUPS: usize = 4;
/// Rows of a thread.
const OWN_ROWS: usize = 8;
/// Bytes of a word.
const WORD: usize = 16;

/// Packs `rows` of `row_bytes` bytes each. `put` takes bytes and where they go.
pub(super) fn pack_rows(format: Format, rows: &[u8], row_bytes: usize, put: &mut dyn FnMut(usize, &[u8])) {
    // What the shaders expect to be flipped in four bytes of quantized weights: see weights_in_q8.wgsl and weights_in_q4.wgsl.
    match format {
        Format::F16 => pack::<{ 2 * GROUP }>(rows, row_bytes, [0; 4], put),
        Format::Q8 => pack::<GROUP>(rows, row_bytes, [0x80, 0x80, 0x80, 0], put),
        Format::Q4 => pack::<{ GROUP / 2 }>(rows, row_bytes, [0, 0, 0, 0x80], put),
    }
}

/// `UNIT`: bytes of a row's group.
fn pack<const UNIT: usize>(rows: &[u8], row_bytes: usize, flipped: [u8; 4], put: &mut dyn FnMut(usize, &[u8])) {
    let groups = row_bytes / UNIT;
    let group_bytes = BLOCK_ROWS * UNIT;
    let mut tile = vec![0; TILE_GROUPS * group_bytes];
    for (block, rows) in rows.chunks(BLOCK_ROWS * row_bytes).enumerate() {
        for first in (0..groups).step_by(TILE_GROUPS) {
            let count = TILE_GROUPS.min(groups - first);
            tile.fill(0);
            for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
                let to = place(row, UNIT);
                let bytes = &bytes[first * UNIT..(first + count) * UNIT];
                for (group, bytes) in bytes.chunks_exact(UNIT).enumerate() {
                    let at = group * group_bytes + to;
                    tile[at..at + UNIT].copy_from_slice(bytes);
                }
            }
            if flipped != [0; 4] {
                tile.chunks_exact_mut(4).for_each(|four| four.iter_mut().zip(flipped).for_each(|(to, by)| *to ^= by));
            }
            put((block * groups + first) * group_bytes, &tile[..count * group_bytes]);
        }
    }
}

/// Where in a group the `unit` bytes of a row lie: a word has some neighbouring rows of one thread.
fn place(row: usize, unit: usize) -> usize {
    let (thread, own) = (row / OWN_ROWS, row % OWN_ROWS);
    let of_word = WORD / unit;
    (own / of_word * (BLOCK_ROWS / OWN_ROWS) + thread) * WORD + own % of_word * unit
}

/// Packs the scales of every row, `groups` each, and the minima where there are any: for every 32 inputs of a block a word of each
/// thread with one scale of each of its rows, and then the same of the minima.
pub(super) fn pack_scales(scales: &[f16], minima: &[f16], groups: usize, put: &mut dyn FnMut(usize, &[u8])) {
    let kinds = if minima.is_empty() { &[scales][..] } else { &[scales, minima] };
    let block_values = BLOCK_ROWS * groups;
    for block in 0..scales.len().div_ceil(block_values) {
        let mut packed = vec![f16::ZERO; block_values * kinds.len()];
        for (kind, values) in kinds.iter().enumerate() {
            let values = &values[block * block_values..values.len().min((block + 1) * block_values)];
            for (row, values) in values.chunks_exact(groups).enumerate() {
                for (group, value) in values.iter().enumerate() {
                    packed[(group * kinds.len() + kind) * BLOCK_ROWS + row] = *value;
                }
            }
        }
        put(block * packed.len() * size_of::<f16>(), bytemuck::cast_slice(&packed));
    }
}
