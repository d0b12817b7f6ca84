//! What one forward step is asked to compute, the same for every backend.

use crate::sampling::Draw;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// One token of a step: what it is, where its keys and values go, and what it attends to.
///
/// A column attends to cache rows `0..prefix` and then to `tail_start..tail_start + tail_len`; its own row is among
/// them. A prefill column has only a prefix (causal), a branch of several candidates has the shared context as its
/// prefix and its own tail, so candidates share one copy of the context and nothing is padded.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub(crate) struct Column {
    /// Token id.
    pub token: u32,
    /// Position in its text, from 0.
    pub position: u32,
    /// The KV cache row that it writes.
    pub row: u32,
    /// Rows from 0 that it attends to.
    pub prefix: u32,
    /// First row of its tail.
    pub tail_start: u32,
    /// Rows of its tail.
    pub tail_len: u32,
    /// The draw of the token after it, where the GPU chooses.
    pub draw: Draw,
}

impl Column {
    /// A token of the context itself: row and position agree, everything before it is attended to.
    pub fn context(token: u32, position: usize) -> Self {
        let position = position as u32;
        Self { token, position, row: position, prefix: position + 1, ..Self::default() }
    }

    /// What `token` is to a branch after this one.
    pub fn followed_by(&self, token: u32) -> Self {
        let draw = Draw { step: self.draw.step + 1, ..self.draw };
        let (position, row, tail_len) = (self.position + 1, self.row + 1, self.tail_len + 1);
        Self { token, position, row, tail_len, draw, ..*self }
    }

    /// Cache rows that it attends to.
    pub fn attended(&self) -> u32 {
        self.prefix + self.tail_len
    }
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kv {
    /// Half precision until a key or value lies beyond its range, and single precision from there on: the context is computed
    /// again before anything is chosen from it. The default.
    #[default]
    Auto,
    /// Half precision. A key or value beyond its range is an error.
    F16,
    /// Single precision: twice the memory, no rounding.
    F32,
}

impl Kv {
    /// Bytes of a value, to begin with.
    pub fn bytes(self) -> usize {
        match self {
            Self::Auto | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// What a session begins with.
    pub(crate) fn first(self) -> Self {
        if self == Self::Auto { Self::F16 } else { self }
    }
}

/// Rows of XGLM's sinusoidal table, whose row 2 is for position 0: [positions, d_model], sines then cosines.
///
/// Source: `XGLMSinusoidalPositionalEmbedding` of transformers 4.46, whose single-precision arithmetic this follows:
/// the divisor is n - 1, and an odd width gets a zero column.
pub(crate) fn sinusoids(positions: Range<usize>, d_model: usize) -> Vec<f32> {
    let half = d_model / 2;
    let step = (10000f64.ln() / (half as f64 - 1.0)) as f32;
    let frequencies: Vec<f32> = (0..half).map(|i| (i as f32 * -step).exp()).collect();
    let mut table = vec![0.0; positions.len() * d_model];
    for (position, row) in positions.zip(table.chunks_exact_mut(d_model)) {
        for (i, f) in frequencies.iter().enumerate() {
            let angle = (position + 2) as f32 * f;
            row[i] = angle.sin();
            row[half + i] = angle.cos();
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinusoids_are_those_of_the_reference() {
        let cases: serde_json::Value =
            serde_json::from_str(include_str!("../../../../tests/oracle/sinusoid.json")).unwrap();
        for d_model in [64, 2048, 4096] {
            let case = &cases[d_model.to_string()];
            let table = sinusoids(0..2048, d_model);
            for (row, expected) in case["rows"].as_object().unwrap() {
                // Rows 0 and 1 come before the first position.
                let Some(position) = row.parse::<usize>().unwrap().checked_sub(2) else { continue };
                for (column, expected) in case["cols"].as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
                    let got = table[position * d_model + column.as_u64().unwrap() as usize];
                    let error = (f64::from(got) - expected.as_f64().unwrap()).abs();
                    assert!(error < 2e-4, "width {d_model}, row {row}, column {column}: {got}, expected {expected}");
                }
            }
        }
    }
}
