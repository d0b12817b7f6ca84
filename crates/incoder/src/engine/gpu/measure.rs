//! What an adapter can do at best: the figures that others are held against.

use super::Gpu;
use crate::error::Result;
use std::time::Duration;
use web_time::Instant;

/// Bytes of a buffer that is copied into.
const BUFFER_BYTES: u64 = 128 << 20;
/// Uploaded bytes after which the staging memory is given back.
pub(crate) const SETTLE_BYTES: u64 = 64 << 20;

/// Times that an idle GPU is waited for; the shortest counts.
const IDLE_WAITS: usize = 2;

impl Gpu {
    /// How long a GPU that has nothing to do takes to hand over four bytes. Some browsers look for finished work on a timer only:
    /// there it is a tenth of a second.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] when the device is lost.
    pub(crate) async fn idle_wait(&self) -> Result<Duration> {
        let source = self.storage("four bytes", 4)?;
        let readable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.buffer("four bytes to read", 4, readable)?;
        self.settle().await?;
        let mut shortest = Duration::MAX;
        for _ in 0..IDLE_WAITS {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&source, 0, &staging, 0, Some(4));
            self.queue.submit([encoder.finish()]);
            let start = Instant::now();
            self.read::<u32>(&staging, 1).await?;
            shortest = shortest.min(start.elapsed());
        }
        Ok(shortest)
    }
}

/// Plain copies through staging memory into fresh buffers, in the pieces of an upload: no upload can be faster.
#[derive(Debug)]
pub struct StagingCopy<'a> {
    gpu: &'a Gpu,
    /// Kept to the end, as a model's buffers are.
    buffers: Vec<wgpu::Buffer>,
    /// Bytes written to the last of them.
    filled: u64,
    unsettled: u64,
}

impl<'a> StagingCopy<'a> {
    /// Nothing copied yet.
    pub fn new(gpu: &'a Gpu) -> Self {
        Self { gpu, buffers: Vec::new(), filled: 0, unsettled: 0 }
    }

    /// Copies `bytes`, at most 128 MiB and a multiple of 4.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] when no such buffer can be made, [`crate::Error::DeviceLost`] when the device is lost.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        let room = self.buffers.last().map_or(0, |buffer| buffer.size() - self.filled);
        if room < length {
            self.buffers.push(self.gpu.storage("copy", BUFFER_BYTES.min(self.gpu.max_binding_bytes()))?);
            self.filled = 0;
        }
        if let Some(buffer) = self.buffers.last() {
            self.gpu.queue.write_buffer(buffer, self.filled, bytes);
        }
        self.filled += length;
        self.unsettled += length;
        if self.unsettled >= SETTLE_BYTES {
            self.gpu.settle().await?;
            self.unsettled = 0;
        }
        Ok(())
    }

    /// Waits until everything has arrived.
    ///
    /// # Errors
    /// [`crate::Error::DeviceLost`] when the device is lost.
    pub async fn finish(self) -> Result<()> {
        self.gpu.settle().await
    }
}
