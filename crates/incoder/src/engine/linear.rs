//! Which kernel multiplies a matrix with how many tokens: linear.wgsl for few, linear_tiled.wgsl for many.

use super::weights::GROUP;
use crate::engine::gpu::{Source, Tuning, shaders};

/// Tokens that one read of the weights serves in linear.wgsl.
const FEW: [u32; 4] = [1, 2, 4, 8];
/// Tokens of a tile of linear_tiled.wgsl.
const TILE: u32 = 64;

/// One way to multiply, compiled for each of the kernels' entry points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Product {
    /// linear.wgsl with so many tokens a workgroup.
    Few(u32),
    /// linear_tiled.wgsl.
    Tiled,
}

impl Product {
    /// All that are used with `tuning`, by the number of tokens that they are for.
    pub fn all(tuning: &Tuning) -> Vec<Self> {
        let few = FEW.into_iter().filter(|&tokens| tokens == 1 || tokens <= tuning.linear_columns).map(Self::Few);
        few.chain((tuning.tiled_from > 0).then_some(Self::Tiled)).collect()
    }

    /// Which of them multiplies `tokens` tokens: its index in [`Product::all`].
    pub fn index(all: &[Self], tuning: &Tuning, tokens: u32) -> usize {
        if all.last() == Some(&Self::Tiled) && tokens >= tuning.tiled_from {
            return all.len() - 1;
        }
        let few = all.iter().filter(|product| matches!(product, Self::Few(_))).count();
        FEW[..few - 1].iter().position(|&most| most >= tokens).unwrap_or(few - 1)
    }

    pub fn source(self) -> Source {
        match self {
            Self::Few(_) => shaders::LINEAR,
            Self::Tiled => shaders::LINEAR_TILED,
        }
    }

    /// The shader's constants for matrices with so many `inputs`.
    pub fn constants(self, tuning: &Tuning, inputs: &[usize]) -> Vec<(&'static str, f64)> {
        let Self::Few(tokens) = self else {
            let threads = f64::from(TILE / tuning.tiled_columns);
            return vec![("COLUMNS", f64::from(tuning.tiled_columns)), ("TOKEN_THREADS", threads)];
        };
        let [slices, blocks] = self.shape(tuning);
        // What a subgroup of eight threads reads together is 32 inputs.
        let groups = if tuning.together { 4 } else { 1 };
        let rest = !inputs.iter().all(|inputs| inputs.is_multiple_of(groups * GROUP));
        vec![
            ("COLUMNS", f64::from(tokens)),
            ("SLICES", f64::from(slices)),
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
            Self::Tiled => [1, 1],
        }
    }

    /// Workgroups for `tokens` tokens and a matrix of so many blocks.
    pub fn workgroups(self, tuning: &Tuning, tokens: u32, blocks: u32) -> [u32; 2] {
        let most = match self {
            Self::Few(most) => most,
            Self::Tiled => TILE,
        };
        [tokens.div_ceil(most), blocks.div_ceil(self.shape(tuning)[1])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_tokens_says_which() {
        let hardware = Tuning { tiled_from: 24, ..Tuning::HARDWARE };
        for (tuning, tokens, product) in [
            (hardware, 1, Product::Few(1)),
            (hardware, 2, Product::Few(2)),
            (hardware, 3, Product::Few(4)),
            (hardware, 23, Product::Few(8)),
            (hardware, 24, Product::Tiled),
            (hardware, 512, Product::Tiled),
            (Tuning { tiled_from: 0, ..hardware }, 512, Product::Few(8)),
            (Tuning { linear_columns: 1, tiled_from: 0, ..hardware }, 512, Product::Few(1)),
        ] {
            let all = Product::all(&tuning);
            assert_eq!(all[Product::index(&all, &tuning, tokens)], product, "{tokens} of {all:?}");
        }
    }
}
