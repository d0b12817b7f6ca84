//! The large arrays that kernels read: in storage buffers, or in textures.

use super::Gpu;
use crate::error::{Error, Result};

/// Texels of a row of a texture that holds a list: `WEIGHTS_WIDTH` of arrays_in_textures.wgsl.
const LIST_WIDTH: u32 = 1024;

/// Where the large arrays lie: weights, activations and the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Arrays {
    /// In storage buffers: what hardware reads best.
    Buffers,
    /// In textures, for adapters that read a buffer lane by lane.
    Textures,
    /// In textures that are read as storage textures, for adapters that look the level up for every texel of others.
    StorageTextures,
}

/// Bytes of a [`Texel`].
pub(crate) const TEXEL_BYTES: u64 = 16;

/// What an array consists of, 16 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Texel {
    /// Eight fp16 or four fp32.
    Words,
    /// Four fp32.
    Floats,
}

impl Texel {
    pub fn format(self) -> wgpu::TextureFormat {
        match self {
            Self::Words => wgpu::TextureFormat::Rgba32Uint,
            Self::Floats => wgpu::TextureFormat::Rgba32Float,
        }
    }

    pub fn sample_type(self) -> wgpu::TextureSampleType {
        match self {
            Self::Words => wgpu::TextureSampleType::Uint,
            Self::Floats => wgpu::TextureSampleType::Float { filterable: false },
        }
    }
}

/// An array on the GPU, where [`super::Tuning::arrays`] says.
#[derive(Debug)]
pub(crate) enum Array {
    Buffer(wgpu::Buffer),
    Texture(wgpu::Texture, wgpu::TextureView),
}

impl Array {
    pub fn resource(&self) -> wgpu::BindingResource<'_> {
        match self {
            Self::Buffer(buffer) => buffer.as_entire_binding(),
            Self::Texture(_, view) => wgpu::BindingResource::TextureView(view),
        }
    }

    /// Gives the memory back: in a browser the last handle does not.
    pub fn destroy(&self) {
        match self {
            Self::Buffer(buffer) => buffer.destroy(),
            Self::Texture(texture, _) => texture.destroy(),
        }
    }
}

impl Gpu {
    /// A texture that holds `values` as a list of four a texel, 1,024 texels a row, whatever [`super::Tuning::arrays`] says.
    ///
    /// # Errors
    /// As [`Gpu::array`].
    pub(crate) fn float_texture(&self, what: &str, values: &[f32]) -> Result<Array> {
        let (row_bytes, texels) = (LIST_WIDTH * TEXEL_BYTES as u32, values.len().div_ceil(4) as u32);
        let rows = texels.div_ceil(LIST_WIDTH).max(1);
        let array = self.texture(what, Texel::Floats, LIST_WIDTH, rows)?;
        if let Array::Texture(texture, _) = &array {
            let mut bytes = bytemuck::cast_slice(values).to_vec();
            bytes.resize((rows * row_bytes) as usize, 0);
            let layout =
                wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row_bytes), rows_per_image: None };
            self.queue.write_texture(texture.as_image_copy(), &bytes, layout, texture.size());
        }
        Ok(array)
    }

    /// An array of `rows` rows of `width` texels each.
    ///
    /// # Errors
    /// [`Error::Limit`] when it could not be bound; memory failures surface in [`Gpu::check`].
    pub(crate) fn array(&self, what: &str, texel: Texel, width: u32, rows: u32) -> Result<Array> {
        let bytes = u64::from(width) * u64::from(rows) * TEXEL_BYTES;
        if self.tuning().arrays == Arrays::Buffers {
            return Ok(Array::Buffer(self.storage(what, bytes)?));
        }
        self.texture(what, texel, width, rows)
    }

    fn texture(&self, what: &str, texel: Texel, width: u32, rows: u32) -> Result<Array> {
        let bytes = u64::from(width) * u64::from(rows) * TEXEL_BYTES;
        if bytes > self.max_binding_bytes() {
            let (need, have) = (bytes, self.max_binding_bytes());
            return Err(Error::Limit { what: format!("{what} (a texture, bytes)"), need, have });
        }
        let most = self.device.limits().max_texture_dimension_2d;
        if width.max(rows) > most {
            let (need, have) = (u64::from(width.max(rows)), u64::from(most));
            return Err(Error::Limit { what: format!("{what} (a side of a texture, texels)"), need, have });
        }
        let texture = self.device.create_texture(&wgpu::TextureDescriptor {
            label: Some(what),
            size: wgpu::Extent3d { width: width.max(1), height: rows.max(1), depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: texel.format(),
            usage: wgpu::TextureUsages::TEXTURE_BINDING
                | wgpu::TextureUsages::STORAGE_BINDING
                | wgpu::TextureUsages::COPY_DST
                | wgpu::TextureUsages::COPY_SRC,
            view_formats: &[],
        });
        let view = texture.create_view(&wgpu::TextureViewDescriptor::default());
        Ok(Array::Texture(texture, view))
    }

    /// A list of `bytes` bytes of 16-byte words, which [`Gpu::write_words`] fills.
    ///
    /// # Errors
    /// As [`Gpu::array`].
    pub(crate) fn words(&self, what: &str, bytes: u64) -> Result<Array> {
        let count = bytes.div_ceil(TEXEL_BYTES) as u32;
        match self.tuning().arrays {
            Arrays::Buffers => self.array(what, Texel::Words, count, 1),
            _ => self.array(what, Texel::Words, LIST_WIDTH, count.div_ceil(LIST_WIDTH)),
        }
    }

    /// Most bytes of one list.
    pub(crate) fn max_words_bytes(&self) -> u64 {
        let (row, binding) = (self.words_row_bytes(), self.max_binding_bytes());
        match self.tuning().arrays {
            Arrays::Buffers => binding,
            _ => (binding / row).min(u64::from(self.device.limits().max_texture_dimension_2d)) * row,
        }
    }

    /// What the offsets of [`Gpu::write_words`] are multiples of, bytes.
    pub(crate) fn words_row_bytes(&self) -> u64 {
        match self.tuning().arrays {
            Arrays::Buffers => TEXEL_BYTES,
            _ => u64::from(LIST_WIDTH) * TEXEL_BYTES,
        }
    }

    /// Writes `bytes` bytes of `words` from `offset` on: `fill` puts pieces, each with its place.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when there is no staging memory.
    pub(crate) fn write_words(
        &self,
        words: &Array,
        offset: u64,
        bytes: u64,
        fill: impl FnOnce(&mut dyn FnMut(usize, &[u8])),
    ) -> Result<()> {
        match words {
            Array::Buffer(buffer) => self.write_with(buffer, offset, bytes, |view| {
                fill(&mut |at, piece| view.slice(at..at + piece.len()).copy_from_slice(piece));
            }),
            Array::Texture(texture, _) => {
                let row_bytes = self.words_row_bytes();
                let rows = bytes.div_ceil(row_bytes);
                // The end of the last row belongs to nobody.
                let mut texels = vec![0; (rows * row_bytes) as usize];
                fill(&mut |at, piece| texels[at..at + piece.len()].copy_from_slice(piece));
                let mut to = texture.as_image_copy();
                to.origin.y = (offset / row_bytes) as u32;
                let layout = wgpu::TexelCopyBufferLayout {
                    offset: 0,
                    bytes_per_row: Some(row_bytes as u32),
                    rows_per_image: None,
                };
                let size = wgpu::Extent3d { width: LIST_WIDTH, height: rows as u32, depth_or_array_layers: 1 };
                self.queue.write_texture(to, &texels, layout, size);
                Ok(())
            }
        }
    }
}
