//! Which kernel multiplies a matrix with how many tokens: linear.wgsl for few, linear_tiled.wgsl for many.

use super::weights::GROUP;
use crate::engine::gpu::{Source, Tuning, shaders};
use crate::quantize::Format;

/// Tokens that one read of the weights serves in linear.wgsl.
const FEW: [u32; 4] = [1, 2, 4, 8];
/// Tokens of a tile of linear_tiled.wgsl.
const TILE: u32 = 64;
/// Threads of a workgroup of linear.wgsl that has a part of a block.
const NARROW_THREADS: u32 = 256;
/// Lanes of a block: eighths of its rows.
const BLOCK_LANES: u32 = 8;

/// One way to multiply, compiled for each of the kernels' entry points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    /// linear.wgsl with so many tokens a workgroup.
    Few(u32),
    /// The same with one token and a part of a block a workgroup, for matrices of few blocks.
    Narrow,
    /// linear_tiled.wgsl.
    Tiled,
}

impl Product {
    /// All that are used with `tuning`.
    pub fn all(tuning: &Tuning) -> Vec<Self> {
        let few = FEW.into_iter().filter(|&tokens| tokens == 1 || tokens <= tuning.linear_columns).map(Self::Few);
        let narrow = (tuning.narrow_below > 0).then_some(Self::Narrow);
        few.chain(narrow).chain((tuning.tiled_from > 0).then_some(Self::Tiled)).collect()
    }

    /// Which of them multiplies `tokens` tokens with a matrix of so many blocks: its index in [`Product::all`].
    pub fn index(all: &[Self], tuning: &Tuning, tokens: u32, blocks: u32) -> usize {
        let of = |wanted: Self| all.iter().position(|&product| product == wanted);
        let tiled = if tokens >= tuning.tiled_from { of(Self::Tiled) } else { None };
        let narrow = if tokens == 1 && blocks < tuning.narrow_below { of(Self::Narrow) } else { None };
        let few = FEW.into_iter().filter(|&most| most >= tokens).find_map(|most| of(Self::Few(most)));
        // A step of more tokens takes several workgroups of the widest.
        let widest = || all.iter().rposition(|product| matches!(product, Self::Few(_))).unwrap_or_default();
        tiled.or(narrow).or(few).unwrap_or_else(widest)
    }

    pub fn source(self) -> Source {
        match self {
            Self::Few(_) | Self::Narrow => shaders::LINEAR,
            Self::Tiled => shaders::LINEAR_TILED,
        }
    }

    /// The shader's constants for matrices in `format` with so many `inputs`.
    pub fn constants(self, tuning: &Tuning, inputs: &[usize], format: Format) -> Vec<(&'static str, f64)> {
        let (tokens, lanes) = match self {
            Self::Few(tokens) => (tokens, BLOCK_LANES),
            Self::Narrow => (1, tuning.narrow_lanes),
            Self::Tiled => {
                let threads = f64::from(TILE / tuning.tiled_columns);
                return vec![("COLUMNS", f64::from(tuning.tiled_columns)), ("TOKEN_THREADS", threads)];
            }
        };
        let [slices, blocks] = self.shape(tuning);
        // What a subgroup of eight threads reads together is 32 inputs, and so is what shares a scale.
        let groups = if tuning.together || format != Format::F16 { 4 } else { 1 };
        let rest = !inputs.iter().all(|inputs| inputs.is_multiple_of(groups * GROUP));
        vec![
            ("COLUMNS", f64::from(tokens)),
            ("SLICES", f64::from(slices)),
            ("LANES", f64::from(lanes)),
            ("BLOCKS", f64::from(blocks)),
            ("GROUPS", groups as f64),
            ("REST", f64::from(u8::from(rest))),
        ]
    }

    /// Threads that share eight rows, and blocks of 64 rows, of a workgroup.
    pub fn shape(self, tuning: &Tuning) -> [u32; 2] {
        match self {
            Self::Few(1) => [tuning.linear_slices, tuning.linear_blocks],
            Self::Few(tokens) => {
                // Many tokens are enough work for a thread already; more slices only cost workgroup memory.
                let slices = tuning.tile_slices * tuning.linear_columns / tokens;
                [slices.min(tuning.tile_slices.max(tuning.linear_slices)), tuning.tile_blocks]
            }
            Self::Narrow => [NARROW_THREADS / tuning.narrow_lanes, 1],
            Self::Tiled => [1, 1],
        }
    }

    /// Workgroups for `tokens` tokens and a matrix of so many blocks.
    pub fn workgroups(self, tuning: &Tuning, tokens: u32, blocks: u32) -> [u32; 2] {
        match self {
            Self::Few(most) => [tokens.div_ceil(most), blocks.div_ceil(self.shape(tuning)[1])],
            Self::Narrow => [tokens, blocks * BLOCK_LANES / tuning.narrow_lanes],
            Self::Tiled => [tokens.div_ceil(TILE), blocks],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_tokens_and_blocks_say_which() {
        let hardware = Tuning { tiled_from: 24, narrow_below: 33, ..Tuning::HARDWARE };
        for (tuning, tokens, blocks, product) in [
            (hardware, 1, 33, Product::Few(1)),
            (hardware, 1, 32, Product::Narrow),
            (hardware, 2, 32, Product::Few(2)),
            (hardware, 3, 32, Product::Few(4)),
            (hardware, 23, 32, Product::Few(8)),
            (hardware, 24, 32, Product::Tiled),
            (hardware, 512, 32, Product::Tiled),
            (Tuning { tiled_from: 0, ..hardware }, 512, 32, Product::Few(8)),
            (Tuning { linear_columns: 1, tiled_from: 0, ..hardware }, 512, 32, Product::Few(1)),
            (Tuning { narrow_below: 0, ..hardware }, 1, 1, Product::Few(1)),
        ] {
            let all = Product::all(&tuning);
            assert_eq!(all[Product::index(&all, &tuning, tokens, blocks)], product, "{tokens} of {all:?}");
        }
    }
}
