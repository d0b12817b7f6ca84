//! Entry points of the shaders, compiled for the sizes of a model.

use super::step::at;
use crate::engine::gpu::{self, Binding, Gpu, Kernel, Texel};
use crate::error::Result;
use crate::quantize::Format;

/// An entry point: its layout, and its pipelines.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: &'static str,
    pub layout: wgpu::BindGroupLayout,
    pub kernels: Vec<Kernel>,
}

/// Compiles entry points and says how many pipelines are done.
pub(super) struct Compiler<'a> {
    pub gpu: &'a Gpu,
    pub done: u64,
    pub on_compiled: &'a mut dyn FnMut(u64),
}

impl Compiler<'_> {
    pub async fn entry(
        &mut self,
        source: gpu::Source,
        name: &'static str,
        bindings: &[(u32, Binding)],
        variants: &[Vec<(&str, f64)>],
    ) -> Result<Entry> {
        self.entry_for(Format::F16, source, name, bindings, variants).await
    }

    /// An entry point that reads a matrix in `format`.
    pub async fn entry_for(
        &mut self,
        format: Format,
        source: gpu::Source,
        name: &'static str,
        bindings: &[(u32, Binding)],
        variants: &[Vec<(&str, f64)>],
    ) -> Result<Entry> {
        let gpu = self.gpu;
        let mut bindings = bindings.to_vec();
        if format != Format::F16 {
            bindings.push((at::SCALES, Binding::ReadArray(Texel::Words)));
        }
        let layout = gpu::layout(gpu, name, &bindings);
        let module = gpu.compiling(name, || source.module_for(gpu, format)).await?;
        let mut kernels = Vec::with_capacity(variants.len());
        for constants in variants {
            kernels.push(gpu.compiling(name, || Kernel::new(gpu, &module, name, &layout, constants)).await?);
            self.done += 1;
            (self.on_compiled)(self.done);
        }
        Ok(Entry { name, layout, kernels })
    }
}
