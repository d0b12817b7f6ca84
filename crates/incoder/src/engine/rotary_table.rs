//! The table of rotary positions on the GPU.

use crate::arch::recipe::Positions;
use crate::engine::gpu::{Array, Gpu};
use crate::error::Result;

/// Cosine and sine of every pair of a head's values, for the positions `0..capacity`: two pairs a texel. `None` for a model whose
/// positions are not rotary.
///
/// It is always a texture: with it a kernel binds no more storage buffers than every adapter allows.
///
/// # Errors
/// [`crate::Error::Limit`] where the adapter has no textures of that size.
pub(super) fn rotary_table(gpu: &Gpu, positions: &Positions, capacity: usize) -> Result<Option<Array>> {
    let Positions::Rotary(rotary) = positions else { return Ok(None) };
    let texels: Vec<[f32; 2]> = (0..capacity).flat_map(|position| rotary.cos_sin(position)).collect();
    gpu.float_texture("rotary positions", bytemuck::cast_slice(&texels)).map(Some)
}
