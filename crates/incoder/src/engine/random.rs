//! Random weights, made wherever they are needed: each value is a function of the seed, its tensor's name, its row and its column,
//! in whole numbers, so that every device makes the same. The matrices on a GPU come from the same function in random.wgsl.

use crate::arch::recipe::{Op, Weight};
use crate::checkpoint::config::Config;
use crate::error::{Error, Result};
use crate::quantize::{self, Format, Rows};
use half::f16;
use std::collections::BTreeMap;
use std::ops::Range;

/// The mean of a sum of four uniform bytes, and its standard deviation.
const SUM_MEAN: i32 = 510;
const SUM_STD: f64 = 147.801_217_857_5;
/// Standard deviations of a uniform whole number from -127 to 127, and of one from 0 to 15.
const BYTE_STD: f64 = 73.611_593_3;
const NIBBLE_STD: f64 = 4.609_772_2;
/// What a matrix's values are counted in: the least that fp16 holds.
const UNIT: f64 = 1.0 / (1 << 24) as f64;

/// Standard deviation of the logits.
const LOGIT_STD: f64 = 3.0;
/// Standard deviation of what all feed-forward layers together add to the embedding, which has 1, as what attention adds.
const FEED_FORWARD_STD: f64 = 6.0;
/// Standard deviation of the queries and keys; attention scores then have its square: clearly not uniform.
const QUERY_STD: f64 = 1.5;
/// Root mean square of gelu(x) for a standard normal x.
const GELU_RMS: f64 = 0.65;
const BIAS_STD: f64 = 0.05;
/// Relative spread of layer-norm weights.
const NORM_STD: f64 = 0.1;

/// How random.wgsl makes the values of a matrix: its `Part`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Part {
    pub key: u32,
    pub step: u32,
    pub opposed: u32,
    /// The row of its matrix that it begins with.
    pub first_row: u32,
}

impl Part {
    fn value(self, row: u32, column: u32) -> f16 {
        let odd = column & self.opposed;
        let drawn = draw(self.key, row, column - odd);
        let sign = u32::from(drawn < 0) ^ odd;
        f16::from_bits((sign << 15 | half(drawn.unsigned_abs().wrapping_mul(self.step))) as u16)
    }
}

/// The last steps of MurmurHash3.
fn mix(mut word: u32) -> u32 {
    word = (word ^ (word >> 16)).wrapping_mul(0x85EB_CA6B);
    word = (word ^ (word >> 13)).wrapping_mul(0xC2B2_AE35);
    word ^ (word >> 16)
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811C_9DC5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A sum of four uniform bytes, less its mean: close to normal, nothing lies beyond 3.5 standard deviations.
fn draw(key: u32, row: u32, column: u32) -> i32 {
    let word = mix(mix(key ^ row).wrapping_add(column.wrapping_mul(0x9E37_79B9)));
    word.to_le_bytes().into_iter().map(i32::from).sum::<i32>() - SUM_MEAN
}

/// The bits of the fp16 value that is `n` times 2^-24, rounded towards zero.
fn half(n: u32) -> u32 {
    let shift = (n | 1).ilog2().max(10) - 10;
    (shift << 10) + (n >> shift)
}

/// The tensors of a model of random weights.
///
/// The scale is such that greedy output is not one token over and over, whatever the sizes. Weights of 1 / sqrt(inputs) keep
/// activations near 1, and each kind of layer adds as much whatever their number. The final layer norm's weights have random
/// signs: with weights near 1 an untrained model whose head is tied answers every token with that token. fc2 takes the hidden
/// values in pairs of opposite sign, so that GELU's positive mean, which is the same at every position, cancels.
#[derive(Debug)]
pub(crate) struct Random {
    seed: u32,
    shapes: BTreeMap<String, Vec<usize>>,
    matrices: BTreeMap<String, Matrix>,
    /// The scale of the last norm.
    last: String,
}

/// How the values of a matrix are spread.
#[derive(Debug, Clone, Copy)]
struct Matrix {
    /// Standard deviation of an output, where inputs have 1.
    std: f64,
    inputs: usize,
    /// Whether values come in pairs of opposite sign.
    opposed: bool,
}

impl Random {
    pub fn new(config: &Config, seed: u32) -> Self {
        let recipe = config.recipe();
        let share = (config.num_layers as f64).sqrt().recip();
        let (mut matrices, mut last) = (BTreeMap::new(), String::new());
        let mut matrix = |weight: &Weight, std: f64, opposed: bool| {
            matrices.insert(weight.name.clone(), Matrix { std, inputs: weight.inputs, opposed });
        };
        for op in recipe.all() {
            op.table().into_iter().for_each(|table| matrix(table, 1.0, false));
            match op {
                Op::QueryKeyValue { query, key, value } => {
                    matrix(&query.weight, QUERY_STD, false);
                    matrix(&key.weight, QUERY_STD, false);
                    matrix(&value.weight, 1.0, false);
                }
                Op::AttentionOutput(linear) => matrix(&linear.weight, share, false),
                Op::FeedForwardOutput(linear) => matrix(&linear.weight, FEED_FORWARD_STD * share / GELU_RMS, true),
                Op::FinalNorm(norm) => last.clone_from(&norm.scale),
                _ => op.linears().into_iter().for_each(|linear| matrix(&linear.weight, 1.0, false)),
            }
        }
        Self { seed, shapes: recipe.tensors(), matrices, last }
    }

    fn key(&self, name: &str) -> u32 {
        mix(hash(name.as_bytes()) ^ mix(self.seed))
    }

    /// How the matrix `name` is made.
    pub fn part(&self, name: &str) -> Part {
        let Some(&Matrix { std, inputs, opposed }) = self.matrices.get(name) else { return Part::default() };
        let step = (std / (inputs as f64).sqrt() / SUM_STD / UNIT).round() as u32;
        Part { key: self.key(name), step, opposed: u32::from(opposed), first_row: 0 }
    }

    /// A bias, or what a layer norm has.
    fn vector(&self, name: &str, length: usize) -> Vec<f32> {
        let (mean, relative) = match name {
            last if last == self.last => (LOGIT_STD, NORM_STD),
            _ if name.ends_with("norm.weight") => (1.0, NORM_STD),
            _ => (0.0, BIAS_STD),
        };
        let key = self.key(name);
        let value = |i: u32| {
            let size = mean + relative * mean.max(1.0) * f64::from(draw(key, 0, i)) / SUM_STD;
            let negative = name == self.last && draw(key, 1, i) < 0;
            (if negative { -size } else { size }) as f32
        };
        (0..length as u32).map(value).collect()
    }

    /// Fills `out` [rows × columns] with rows of the matrix `name`.
    pub fn read_halves(&self, name: &str, rows: Range<usize>, out: &mut [f16]) {
        let part = self.part(name);
        let columns = out.len() / rows.len().max(1);
        for (row, out) in rows.zip(out.chunks_exact_mut(columns.max(1))) {
            out.iter_mut().enumerate().for_each(|(column, out)| *out = part.value(row as u32, column as u32));
        }
    }

    /// Rows of the matrix `name` as they could be quantized: with uniform quants and one scale for all, of the standard deviation
    /// that the values have. To search for the scales of the values themselves would take minutes for 6B.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the model has no matrix of that name.
    pub fn quantized(&self, name: &str, rows: Range<usize>, format: Format) -> Result<Rows> {
        let Some(&[_, columns]) = self.shapes.get(name).map(Vec::as_slice) else {
            return Err(Error::tensor(name, "is no matrix of the model"));
        };
        let part = self.part(name);
        let std = f64::from(part.step) * UNIT * SUM_STD;
        let scale = f16::from_f64(std / if format == Format::Q4 { NIBBLE_STD } else { BYTE_STD });
        // Rounded to seven bits, so that fp16 holds 7.5 of it exactly.
        let scale = f16::from_bits((scale.to_bits() + 8) & !15);
        let minimum = f16::from_f32(-7.5 * scale.to_f32());
        let row_bytes = format.row_bytes(columns);
        let mut quants = Vec::with_capacity(rows.len() * row_bytes);
        let groups = rows.len() * columns.div_ceil(quantize::GROUP);
        for row in rows {
            let key = mix(part.key ^ row as u32);
            for column in 0..row_bytes.div_ceil(4) as u32 {
                let word = mix(key.wrapping_add(column.wrapping_mul(0x9E37_79B9)));
                let four = match format {
                    // Of a pair, the first in the low half, the second is the opposite of the first.
                    Format::Q4 if part.opposed == 1 => (word & 0x0F0F_0F0F) | ((!word << 4) & 0xF0F0_F0F0),
                    Format::Q4 => word,
                    _ => {
                        let [a, b, c, d] = word.to_le_bytes().map(|byte| (byte as i8).max(-127));
                        let four = if part.opposed == 1 { [a, -a, c, -c] } else { [a, b, c, d] };
                        u32::from_le_bytes(four.map(|quant| quant as u8))
                    }
                };
                quants.extend_from_slice(&four.to_le_bytes()[..4.min(row_bytes - 4 * column as usize)]);
            }
        }
        let minima = if format == Format::Q4 { vec![minimum; groups] } else { Vec::new() };
        Ok(Rows { format, columns, quants, scales: vec![scale; groups], minima })
    }

    /// Rows of the tensor `name`; a vector is one row.
    ///
    /// # Errors
    /// [`Error::Tensor`] when the model has none of that name.
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        match self.shapes.get(name).map(Vec::as_slice) {
            Some(&[length]) => Ok(self.vector(name, length)),
            Some(&[_, columns]) => {
                let mut halves = vec![f16::ZERO; rows.len() * columns];
                self.read_halves(name, rows, &mut halves);
                Ok(halves.into_iter().map(f16::to_f32).collect())
            }
            _ => Err(Error::tensor(name, "is no part of the model")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_the_next_towards_zero() {
        for n in (0..5000).chain((0..1 << 28).step_by(977)) {
            let bits = half(n) as u16;
            let value = |bits| f64::from(f16::from_bits(bits).to_f32());
            let exact = f64::from(n) * UNIT;
            assert!(value(bits) <= exact && value(bits + 1) > exact, "{n} is {}", value(bits));
        }
    }

    #[test]
    fn tensors_have_the_moments_asked_for() {
        let json =
            r#"{"model_type":"xglm","num_layers":4,"d_model":256,"attention_heads":4,"ffn_dim":1024,"vocab_size":512}"#;
        let random = Random::new(&Config::from_json(json).unwrap(), 3);
        let moments = |values: &[f32]| {
            let mean = |values: &mut dyn Iterator<Item = f64>, n: usize| values.sum::<f64>() / n as f64;
            let mean_of_all = mean(&mut values.iter().map(|&v| f64::from(v)), values.len());
            (mean_of_all, mean(&mut values.iter().map(|&v| f64::from(v).powi(2)), values.len()).sqrt())
        };
        let share = 0.5;
        for (name, rows, std) in [
            ("embed_tokens.weight", 512, 1.0 / 16.0),
            ("layers.1.self_attn.q_proj.weight", 256, 1.5 / 16.0),
            ("layers.1.self_attn.v_proj.weight", 256, 1.0 / 16.0),
            ("layers.1.self_attn.out_proj.weight", 256, share / 16.0),
            ("layers.3.fc1.weight", 1024, 1.0 / 16.0),
            ("layers.3.fc2.weight", 256, 6.0 * share / 0.65 / 32.0),
        ] {
            let (mean, rms) = moments(&random.rows(name, 0..rows).unwrap());
            assert!((rms / std - 1.0).abs() < 0.01 && mean.abs() < 0.01 * std, "{name}: mean {mean}, rms {rms}");
        }
        let fc2 = random.rows("layers.0.fc2.weight", 5..9).unwrap();
        assert!(fc2.chunks(2).all(|pair| pair[1] == -pair[0]));
        let norm = random.rows("layers.0.final_layer_norm.weight", 0..1).unwrap();
        assert!(norm.len() == 256 && norm.iter().all(|v| (0.6..1.4).contains(v)));
        let last = random.rows("layer_norm.weight", 0..1).unwrap();
        assert!(moments(&last).0.abs() < 0.6 && last.iter().all(|v| (1.9..4.1).contains(&v.abs())), "{last:?}");
        assert!((moments(&random.rows("layers.0.fc1.bias", 0..1).unwrap()).1 / 0.05 - 1.0).abs() < 0.1);
        assert!(random.rows("layers.4.fc1.bias", 0..1).is_err());
    }

    #[test]
    fn quantized_tensors_have_the_same_moments() {
        let json =
            r#"{"model_type":"xglm","num_layers":4,"d_model":256,"attention_heads":4,"ffn_dim":1024,"vocab_size":512}"#;
        let random = Random::new(&Config::from_json(json).unwrap(), 3);
        let rms = |values: &[f32]| {
            let squares: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
            (squares / values.len() as f64).sqrt()
        };
        for format in [Format::Q8, Format::Q4] {
            for (name, columns) in [("layers.1.self_attn.q_proj.weight", 256), ("layers.3.fc2.weight", 1024)] {
                let values = random.quantized(name, 0..256, format).unwrap().all_values();
                let plain = random.rows(name, 0..256).unwrap();
                let ratio = rms(&values) / rms(&plain);
                assert!((ratio - 1.0).abs() < 0.02, "{name}, {format:?}: {ratio}");
                let opposed = values.chunks(2).all(|pair| pair[0] == -pair[1]);
                assert_eq!(opposed, name.ends_with("fc2.weight"), "{name}, {format:?}");
                let some = random.quantized(name, 70..90, format).unwrap().all_values();
                assert_eq!(some[..], values[70 * columns..90 * columns]);
            }
        }
    }

    #[test]
    fn no_two_rows_tensors_or_seeds_are_alike() {
        let json =
            r#"{"model_type":"xglm","num_layers":2,"d_model":64,"attention_heads":4,"ffn_dim":64,"vocab_size":64}"#;
        let config = Config::from_json(json).unwrap();
        let mut rows = Vec::new();
        for seed in [1, 2] {
            let random = Random::new(&config, seed);
            for name in ["layers.0.fc1.weight", "layers.1.fc1.weight"] {
                rows.extend(random.rows(name, 0..64).unwrap().chunks(64).map(<[f32]>::to_vec));
            }
        }
        let count = rows.len();
        rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
        rows.dedup();
        assert_eq!((rows.len(), count), (256, 256));
    }
}
