//! Workgroup shapes: which ones an adapter of a kind begins with.

use super::{AdapterReport, Arrays, SOFTWARE};

/// How much parallelism the kernels use inside a workgroup. The results are the same within rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tuning {
    /// Where weights, activations and the KV cache lie.
    pub arrays: Arrays,
    /// Whether eight threads read the inputs of a matrix together and hand them round. Only where a subgroup has exactly
    /// eight; elsewhere it is as if it were false.
    pub together: bool,
    /// Most tokens that one read of the weights serves: 1, 2, 4 or 8. More is faster, and takes longer to compile.
    pub linear_columns: u32,
    /// Threads that share eight rows of a matrix, for steps of one token: a power of two.
    pub linear_slices: u32,
    /// Blocks of 64 rows that a workgroup computes, for steps of one token.
    pub linear_blocks: u32,
    /// Steps of one token: matrices of fewer blocks of 64 rows are shared out in parts of blocks; 0: none is.
    pub narrow_below: u32,
    /// Eighths of a block in such a part: 2 or 4.
    pub narrow_lanes: u32,
    /// Threads that share eight rows of a matrix, for `linear_columns` tokens at once: a power of two. Fewer take more.
    pub tile_slices: u32,
    /// Blocks of 64 rows that a workgroup computes, for several tokens at once.
    pub tile_blocks: u32,
    /// Tokens of a step from which on matrices are multiplied tile by tile through workgroup memory; 0: never.
    pub tiled_from: u32,
    /// Tokens that a thread of such a tile computes: 4 or 8.
    pub tiled_columns: u32,
    /// Threads of a layer norm.
    pub norm_threads: u32,
    /// Threads of a workgroup that computes attention scores.
    pub score_threads: u32,
    /// Threads that share eight of a head's values.
    pub value_slices: u32,
    /// Threads that choose a token: a power of two.
    pub choose_threads: u32,
}

impl Tuning {
    /// For adapters that run on the CPU, where a barrier costs more than it saves and a texel less than a buffer's words.
    pub const SOFTWARE: Self = Self {
        arrays: Arrays::Textures,
        together: false,
        linear_columns: 4,
        linear_slices: 1,
        linear_blocks: 1,
        narrow_below: 0,
        narrow_lanes: 2,
        tile_slices: 1,
        tile_blocks: 1,
        tiled_from: 0,
        tiled_columns: 8,
        norm_threads: 8,
        score_threads: 16,
        value_slices: 1,
        choose_threads: 8,
    };
    /// For Mesa's llvmpipe.
    pub const LLVMPIPE: Self =
        Self { arrays: Arrays::StorageTextures, together: true, linear_columns: 8, ..Self::SOFTWARE };
    /// For hardware, where many threads hide the memory's latency.
    pub const HARDWARE: Self = Self {
        arrays: Arrays::Buffers,
        together: false,
        linear_columns: 8,
        linear_slices: 32,
        linear_blocks: 1,
        narrow_below: 0,
        narrow_lanes: 2,
        tile_slices: 8,
        tile_blocks: 1,
        tiled_from: 32,
        tiled_columns: 8,
        norm_threads: 128,
        score_threads: 64,
        value_slices: 16,
        choose_threads: 64,
    };
}

impl Tuning {
    pub(super) fn of(report: &AdapterReport) -> Self {
        match report.kind.as_str() {
            SOFTWARE if report.name.contains("llvmpipe") => Self::LLVMPIPE,
            SOFTWARE => Self::SOFTWARE,
            _ => Self::HARDWARE,
        }
    }
}
