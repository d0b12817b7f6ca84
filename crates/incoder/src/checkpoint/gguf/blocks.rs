//! The types of a GGUF file's tensors, and what their blocks hold.
//!
//! Source: the structures and `dequantize_row_*` of ggml's `ggml-quants.c`.

use half::{bf16, f16};

/// How the values of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q4K,
    Q6K,
}

/// The types that are not read, by their numbers.
const OTHERS: [(u32, &str); 21] = [
    (6, "Q5_0"),
    (7, "Q5_1"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (13, "Q5_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl Kind {
    /// The type that a file gives the number `number`.
    ///
    /// # Errors
    /// What is wrong with it, for one that is not read.
    pub fn read(number: u32) -> Result<Self, String> {
        let kind = match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            other => {
                let named = OTHERS.iter().find(|(number, _)| *number == other);
                let name = named.map_or_else(|| format!("the type {other}"), |(_, name)| (*name).to_owned());
                return Err(format!("is stored as {name}; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K are read"));
            }
        };
        Ok(kind)
    }

    /// Values of a block.
    pub fn values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q4K => 144,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a row of `columns` values.
    pub fn bytes(self, columns: usize) -> usize {
        columns / self.values() * self.block_bytes()
    }

    /// The values of whole blocks, appended to `out`.
    pub fn unpack(self, bytes: &[u8], out: &mut Vec<f32>) {
        for block in bytes.chunks_exact(self.block_bytes()) {
            match self {
                Self::F32 => out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
                Self::F16 => out.push(half_at(block, 0)),
                Self::Bf16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                Self::Q8_0 => {
                    let scale = half_at(block, 0);
                    out.extend(block[2..].iter().map(|&quant| scale * f32::from(quant as i8)));
                }
                Self::Q4_0 => {
                    let scale = half_at(block, 0);
                    out.extend(nibbles(&block[2..]).map(|quant| scale * (quant - 8.0)));
                }
                Self::Q4_1 => {
                    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
                    out.extend(nibbles(&block[4..]).map(|quant| scale * quant + minimum));
                }
                Self::Q4K => unpack_q4_k(block, out),
                Self::Q6K => unpack_q6_k(block, out),
            }
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low halves of all bytes, then the high ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.iter().map(|byte| f32::from(byte & 15)).chain(bytes.iter().map(|byte| f32::from(byte >> 4)))
}

/// Eight groups of 32 values, whose scales and minima have six bits each.
fn unpack_q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (scale, minimum, packed) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    let six_bits = |group: usize| match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => (packed[group + 4] & 15 | packed[group - 4] >> 6 << 4, packed[group + 4] >> 4 | packed[group] >> 6 << 4),
    };
    for (pair, quants) in block[16..].chunks_exact(32).enumerate() {
        let mut quants = nibbles(quants);
        for group in [2 * pair, 2 * pair + 1] {
            let (of_scale, of_minimum) = six_bits(group);
            let (scale, minimum) = (scale * f32::from(of_scale), minimum * f32::from(of_minimum));
            out.extend(quants.by_ref().take(32).map(|quant| scale * quant - minimum));
        }
    }
}

/// Sixteen groups of 16 values: four low bits of each, then two high ones, then the scales of the groups.
fn unpack_q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales, scale) = (&block[..128], &block[128..192], &block[192..208], half_at(block, 208));
    for half in 0..2 {
        let (low, high, scales) = (&low[64 * half..][..64], &high[32 * half..][..32], &scales[8 * half..][..8]);
        for part in 0..4 {
            for i in 0..32 {
                let byte = low[i + 32 * (part % 2)];
                let four = if part < 2 { byte & 15 } else { byte >> 4 };
                let quant = i32::from(four | (high[i] >> (2 * part) & 3) << 4) - 32;
                out.push(scale * f32::from(scales[2 * part + i / 16] as i8) * quant as f32);
            }
        }
    }
}
