//! What lies in arrays on the GPU: written to and read back as plain values.

use crate::engine::forward::Kv;
use crate::engine::gpu::{Array, Arrays, Gpu, Resource, TEXEL_BYTES, Texel};
use crate::engine::step::Shapes;
use crate::error::Result;
use half::f16;

/// Repeatable values in -1..1.
#[derive(Debug)]
pub(crate) struct Values(pub u32);

impl Values {
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn many(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// An array of rows of `width` texels each that holds `values`.
///
/// # Errors
/// As [`Gpu::array`].
pub(crate) fn array<T: bytemuck::Pod>(gpu: &Gpu, texel: Texel, width: usize, values: &[T]) -> Result<Array> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let rows = bytes.len() / (width * TEXEL_BYTES as usize);
    let array = gpu.array("array", texel, width as u32, rows as u32)?;
    match &array {
        Array::Buffer(buffer) => gpu.queue.write_buffer(buffer, 0, bytes),
        Array::Texture(texture, _) => {
            let bytes_per_row = Some(width as u32 * TEXEL_BYTES as u32);
            let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row, rows_per_image: None };
            gpu.queue.write_texture(texture.as_image_copy(), bytes, layout, texture.size());
        }
    }
    Ok(array)
}

/// All of `output`.
///
/// # Errors
/// As [`Gpu::buffer`] and [`Gpu::read`].
pub(crate) async fn read<T: bytemuck::Pod>(gpu: &Gpu, output: Resource<'_>) -> Result<Vec<T>> {
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let readable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    match output {
        Resource::Buffer(buffer) | Resource::Array(Array::Buffer(buffer)) => {
            let size = buffer.size();
            let staging = gpu.buffer("staging", size, readable)?;
            encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, Some(size));
            gpu.queue.submit([encoder.finish()]);
            gpu.read(&staging, size as usize / size_of::<T>()).await
        }
        Resource::Array(Array::Texture(texture, _)) => {
            let row_bytes = texture.width() * TEXEL_BYTES as u32;
            // What the API wants rows of a copy to be multiples of.
            let stride = row_bytes.next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT);
            let size = u64::from(stride * texture.height());
            let staging = gpu.buffer("staging", size, readable)?;
            let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(stride), rows_per_image: None };
            let to = wgpu::TexelCopyBufferInfo { buffer: &staging, layout };
            encoder.copy_texture_to_buffer(texture.as_image_copy(), to, texture.size());
            gpu.queue.submit([encoder.finish()]);
            let padded: Vec<T> = gpu.read(&staging, size as usize / size_of::<T>()).await?;
            let (row, stride) = (row_bytes as usize / size_of::<T>(), stride as usize / size_of::<T>());
            Ok(padded.chunks_exact(stride).flat_map(|padded| &padded[..row]).copied().collect())
        }
    }
}

/// A cache of keys or values that holds `rows` [capacity, width of all heads].
///
/// # Errors
/// As [`Gpu::array`].
pub(crate) fn cache(gpu: &Gpu, shapes: &Shapes, rows: &[f32]) -> Result<Array> {
    let halves: Vec<f16> = rows.iter().map(|v| f16::from_f32(*v)).collect();
    let rows: &[u8] = if shapes.kv == Kv::F16 { bytemuck::cast_slice(&halves) } else { bytemuck::cast_slice(rows) };
    let (capacity, of_head) = (shapes.capacity, shapes.head_words());
    let words = rows.len() / TEXEL_BYTES as usize / capacity;
    let word = |row: usize, word: usize| &rows[(row * words + word) * TEXEL_BYTES as usize..][..TEXEL_BYTES as usize];
    let mut bytes = Vec::with_capacity(rows.len());
    if gpu.tuning().arrays == Arrays::Buffers {
        // [head, row, word of the head]
        for head in 0..shapes.kv_heads {
            for row in 0..capacity {
                (0..of_head).for_each(|w| bytes.extend_from_slice(word(row, head * of_head + w)));
            }
        }
    } else {
        // [word, row]
        (0..words).for_each(|w| (0..capacity).for_each(|row| bytes.extend_from_slice(word(row, w))));
    }
    array(gpu, Texel::Words, capacity, &bytes)
}

/// What lies in a cache, as [head, row, head dim].
///
/// # Errors
/// As [`read`].
pub(crate) async fn cached(gpu: &Gpu, shapes: &Shapes, cache: &Array) -> Result<Vec<f32>> {
    let raw: Vec<f32> = read(gpu, cache.into()).await?;
    let by_head = if matches!(cache, Array::Buffer(_)) {
        raw
    } else {
        let mut ordered = Vec::with_capacity(raw.len());
        for head in 0..shapes.kv_heads {
            for row in 0..shapes.capacity {
                for word in head * shapes.head_words()..(head + 1) * shapes.head_words() {
                    ordered.extend_from_slice(&raw[(word * shapes.capacity + row) * 4..][..4]);
                }
            }
        }
        ordered
    };
    Ok(match shapes.kv {
        Kv::F32 => by_head,
        _ => bytemuck::cast_slice::<f32, f16>(&by_head).iter().map(|half| half.to_f32()).collect(),
    })
}
