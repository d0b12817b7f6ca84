//! The values of tensors, each a function of the seed, the tensor's name and the element's index.

use crate::model::Tensor;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::io::{self, Write};

/// Elements made at a time: the buffers stay in the processor's cache.
const CHUNK: usize = 1 << 16;
/// The step of SplitMix64, <https://doi.org/10.1145/2660193.2660195>.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
/// The mean of a sum of four uniform 16-bit integers, and the reciprocal of its standard deviation.
const SUM_MEAN: i32 = 2 * 0xFFFF;
const SUM_SCALE: f64 = 1.0 / 37_837.227_233_4;

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// fp32.
    F32,
    /// fp16.
    F16,
    /// bf16: the values are rounded, see the crate's documentation.
    Bf16,
}

impl Dtype {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err("expected f32, f16 or bf16".into()),
        }
    }
}

/// A distribution close to normal (a sum of four uniforms: nothing lies beyond 3.5 standard deviations).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values {
    mean: f32,
    std: f32,
    signs: Signs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signs {
    AsTheyCome,
    /// Every value's sign is drawn.
    Random,
    /// Each element of an odd index is the negative of the one before it.
    Opposed,
}

impl Values {
    pub fn normal(mean: f64, std: f64) -> Self {
        Self { mean: mean as f32, std: (std * SUM_SCALE) as f32, signs: Signs::AsTheyCome }
    }

    /// The same with every value's sign drawn.
    pub fn with_random_signs(self) -> Self {
        Self { signs: Signs::Random, ..self }
    }

    /// The same, but each element of an odd index is the negative of the one before it.
    pub fn with_opposed_pairs(self) -> Self {
        Self { signs: Signs::Opposed, ..self }
    }

    fn fill(self, key: u64, start: u64, out: &mut [f32]) {
        for (index, value) in (start..).zip(out) {
            let drawn = if self.signs == Signs::Opposed { index & !1 } else { index };
            let word = mix(key.wrapping_add((drawn + 1).wrapping_mul(GAMMA)));
            let sum = (word & 0xFFFF) + (word >> 16 & 0xFFFF) + (word >> 32 & 0xFFFF) + (word >> 48);
            let magnitude = self.mean + self.std * (sum as i32 - SUM_MEAN) as f32;
            let negative = match self.signs {
                Signs::AsTheyCome => false,
                Signs::Random => word.count_ones() % 2 == 1,
                Signs::Opposed => index % 2 == 1,
            };
            *value = if negative { -magnitude } else { magnitude };
        }
    }
}

/// The output function of SplitMix64.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// FNV-1a.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// Makes a tensor's values, a piece at a time.
struct Encoder {
    values: Values,
    key: u64,
    dtype: Dtype,
    wide: Vec<f32>,
    halves: Vec<f16>,
    bytes: Vec<u8>,
}

impl Encoder {
    fn new(tensor: &Tensor, seed: u64, dtype: Dtype) -> Self {
        let key = mix(hash(tensor.name.as_bytes()) ^ mix(seed));
        Self {
            values: tensor.values,
            key,
            dtype,
            wide: vec![0.0; CHUNK],
            halves: vec![f16::ZERO; CHUNK],
            bytes: Vec::new(),
        }
    }

    /// `n` elements, at most [`CHUNK`], from `start` on, little-endian.
    fn encode(&mut self, start: u64, n: usize) -> &[u8] {
        let (wide, halves) = (&mut self.wide[..n], &mut self.halves[..n]);
        self.values.fill(self.key, start, wide);
        halves.convert_from_f32_slice(wide);
        if self.dtype != Dtype::F16 {
            halves.convert_to_f32_slice(wide);
        }
        self.bytes.resize(n * self.dtype.bytes(), 0);
        match self.dtype {
            Dtype::F32 => store(wide, &mut self.bytes, f32::to_le_bytes),
            Dtype::F16 => store(halves, &mut self.bytes, f16::to_le_bytes),
            Dtype::Bf16 => store(wide, &mut self.bytes, |value| bf16::from_f32(value).to_le_bytes()),
        }
        &self.bytes
    }
}

fn store<T: Copy, const N: usize>(values: &[T], out: &mut [u8], encode: impl Fn(T) -> [u8; N]) {
    for (value, out) in values.iter().zip(out.chunks_exact_mut(N)) {
        out.copy_from_slice(&encode(*value));
    }
}

/// Writes the tensor's values, little-endian; `wrote` gets the bytes of every piece.
pub(crate) fn write_tensor(
    tensor: &Tensor,
    seed: u64,
    dtype: Dtype,
    out: &mut dyn Write,
    wrote: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let mut encoder = Encoder::new(tensor, seed, dtype);
    let mut start = 0;
    while start < tensor.elements() {
        let n = (tensor.elements() - start).min(CHUNK as u64) as usize;
        let bytes = encoder.encode(start, n);
        out.write_all(bytes)?;
        wrote(bytes.len() as u64);
        start += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_moments_asked_for() {
        let mut values = vec![0.0; 1 << 18];
        Values::normal(1.0, 0.5).fill(7, 0, &mut values);
        let moment = |values: &[f32], center: f64, power| {
            values.iter().map(|&v| (f64::from(v) - center).powi(power)).sum::<f64>() / values.len() as f64
        };
        assert!((moment(&values, 0.0, 1) - 1.0).abs() < 0.005);
        assert!((moment(&values, 1.0, 2) - 0.25).abs() < 0.005);
        Values::normal(3.0, 0.1).with_random_signs().fill(7, 0, &mut values);
        assert!(moment(&values, 0.0, 1).abs() < 0.03 && values.iter().all(|v| (2.6..3.4).contains(&v.abs())));
    }

    #[test]
    fn an_element_does_not_depend_on_the_piece_it_is_made_in() {
        let values = Values::normal(0.0, 1.0).with_opposed_pairs();
        let (mut whole, mut part) = (vec![0.0; 100], vec![0.0; 41]);
        values.fill(3, 0, &mut whole);
        values.fill(3, 59, &mut part);
        assert_eq!(whole[59..], part);
        assert!(whole.chunks(2).all(|pair| pair[1] == -pair[0]));
    }
}
