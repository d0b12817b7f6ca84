//! The limits of an adapter that decide whether a model runs.

use super::{AdapterReport, SOFTWARE};

/// Vulkan drivers and wgpu count a buffer's bytes in an i32 here and there.
const MAX_BUFFER_BYTES: u64 = i32::MAX as u64;

/// The limits of an adapter that decide whether a model runs, and in which pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Largest storage binding, bytes.
    pub binding_bytes: u64,
    /// Largest buffer, bytes.
    pub buffer_bytes: u64,
    /// A software adapter computes fewer tokens in one step.
    pub software: bool,
}

impl Default for MemoryLimits {
    /// What every WebGPU adapter allows: bindings of 128 MiB in buffers of 256 MiB.
    fn default() -> Self {
        Self { binding_bytes: 128 << 20, buffer_bytes: 256 << 20, software: false }
    }
}

impl From<&AdapterReport> for MemoryLimits {
    fn from(adapter: &AdapterReport) -> Self {
        let AdapterReport { max_binding_bytes, max_buffer_bytes, .. } = *adapter;
        Self { binding_bytes: max_binding_bytes, buffer_bytes: max_buffer_bytes, software: adapter.kind == SOFTWARE }
    }
}

impl MemoryLimits {
    /// Most bytes of one buffer: each is bound as a whole.
    pub fn buffer(&self) -> u64 {
        self.usable().into_iter().fold(MAX_BUFFER_BYTES, |least, (_, bytes)| least.min(bytes))
    }

    /// What the engine can use of each limit, bytes, by WebGPU's names.
    pub fn usable(&self) -> [(&'static str, u64); 2] {
        let limits = [("maxStorageBufferBindingSize", self.binding_bytes), ("maxBufferSize", self.buffer_bytes)];
        limits.map(|(name, bytes)| (name, bytes.min(MAX_BUFFER_BYTES)))
    }
}
