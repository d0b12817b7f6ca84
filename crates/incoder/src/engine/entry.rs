//! Entry points of the shaders, compiled for the sizes of a model.

use super::step::at;
use crate::engine::gpu::{self, Binding, Gpu, Kernel, Source, Texel};
use crate::error::Result;
use crate::quantize::Format;

/// An entry point: its layout, and its pipelines.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: &'static str,
    pub layout: wgpu::BindGroupLayout,
    pub kernels: Vec<Kernel>,
}

/// A shader file that has the entry point, and the constants that it is compiled with.
pub(super) type Variant = (Source, Vec<(&'static str, f64)>);

/// Compiles entry points and says how many pipelines are done.
pub(super) struct Compiler<'a> {
    gpu: &'a Gpu,
    /// Whether the model's positions are rotary.
    rotary: bool,
    done: u64,
    on_compiled: &'a mut dyn FnMut(u64),
    /// Shader files, for matrices in a format.
    modules: Vec<(&'static str, Format, wgpu::ShaderModule)>,
}

impl<'a> Compiler<'a> {
    pub fn new(gpu: &'a Gpu, rotary: bool, on_compiled: &'a mut dyn FnMut(u64)) -> Self {
        Self { gpu, rotary, done: 0, on_compiled, modules: Vec::new() }
    }

    /// An entry point whose matrix, if it reads one, is in `format`.
    pub async fn entry(
        &mut self,
        format: Format,
        name: &'static str,
        bindings: &[(u32, Binding)],
        variants: &[Variant],
    ) -> Result<Entry> {
        let gpu = self.gpu;
        let mut bindings = bindings.to_vec();
        if format != Format::F16 {
            bindings.push((at::SCALES, Binding::ReadArray(Texel::Words)));
        }
        let layout = gpu::layout(gpu, name, &bindings);
        let mut kernels = Vec::with_capacity(variants.len());
        for (source, constants) in variants {
            let module = self.module(name, *source, format).await?;
            kernels.push(gpu.compiling(name, || Kernel::new(gpu, &module, name, &layout, constants)).await?);
            self.done += 1;
            (self.on_compiled)(self.done);
        }
        Ok(Entry { name, layout, kernels })
    }

    /// The file that `name` is in, which is read once.
    async fn module(&mut self, name: &str, source: Source, format: Format) -> Result<wgpu::ShaderModule> {
        let known = self.modules.iter().find(|(file, of, _)| (*file, *of) == (source.name, format));
        if let Some((_, _, module)) = known {
            return Ok(module.clone());
        }
        let module = self.gpu.compiling(name, || source.module_for(self.gpu, format, self.rotary)).await?;
        self.modules.push((source.name, format, module.clone()));
        Ok(module)
    }
}
