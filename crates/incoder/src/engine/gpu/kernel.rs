//! A WGSL entry point with its override constants → a pipeline that arrays and buffers can be bound to.

use super::array::{Array, Arrays, Texel};
use super::{Gpu, shaders};
use crate::quantize::Format;

/// A shader file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// The file's name without `.wgsl`, for labels.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Whether it is one of the model's kernels, before which go step.wgsl and where arrays lie.
    pub model: bool,
    /// Whether it multiplies matrices: linear_outputs.wgsl goes before it, too.
    pub multiplies: bool,
    /// Whether it uses subgroup operations.
    pub subgroups: bool,
}

/// How an entry point uses one binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binding {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    Write,
    /// `var<uniform>`
    Uniform,
    /// An array that is read, as the files arrays_in_*.wgsl declare it.
    ReadArray(Texel),
    /// An array that is written.
    WriteArray(Texel),
    /// `texture_2d<f32>`, wherever arrays are.
    Texture,
}

impl Binding {
    fn ty(self, arrays: Arrays) -> wgpu::BindingType {
        let buffer = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
        let view_dimension = wgpu::TextureViewDimension::D2;
        let image =
            |access, texel: Texel| wgpu::BindingType::StorageTexture { access, format: texel.format(), view_dimension };
        match (self, arrays) {
            (Self::Texture, _) => {
                let sample_type = Texel::Floats.sample_type();
                wgpu::BindingType::Texture { sample_type, view_dimension, multisampled: false }
            }
            (Self::Uniform, _) => buffer(wgpu::BufferBindingType::Uniform),
            (Self::Read, _) | (Self::ReadArray(_), Arrays::Buffers) => {
                buffer(wgpu::BufferBindingType::Storage { read_only: true })
            }
            (Self::Write, _) | (Self::WriteArray(_), Arrays::Buffers) => {
                buffer(wgpu::BufferBindingType::Storage { read_only: false })
            }
            (Self::ReadArray(texel), Arrays::Textures) => {
                wgpu::BindingType::Texture { sample_type: texel.sample_type(), view_dimension, multisampled: false }
            }
            (Self::ReadArray(texel), Arrays::StorageTextures) => image(wgpu::StorageTextureAccess::ReadOnly, texel),
            (Self::WriteArray(texel), _) => image(wgpu::StorageTextureAccess::WriteOnly, texel),
        }
    }
}

/// What is bound.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Resource<'a> {
    Array(&'a Array),
    Buffer(&'a wgpu::Buffer),
}

impl<'a> From<&'a Array> for Resource<'a> {
    fn from(array: &'a Array) -> Self {
        Self::Array(array)
    }
}

impl<'a> From<&'a wgpu::Buffer> for Resource<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        Self::Buffer(buffer)
    }
}

/// One compiled entry point.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub pipeline: wgpu::ComputePipeline,
}

impl Source {
    /// The compiled module; where it reads a matrix, one in fp16.
    pub fn module(&self, gpu: &Gpu) -> wgpu::ShaderModule {
        self.module_for(gpu, Format::F16, false)
    }

    /// The compiled module for matrices in `format`; of a model whose positions are `rotary` or not.
    pub fn module_for(&self, gpu: &Gpu, format: Format, rotary: bool) -> wgpu::ShaderModule {
        let arrays = match gpu.tuning().arrays {
            Arrays::Buffers => shaders::ARRAYS_IN_BUFFERS,
            Arrays::Textures => shaders::ARRAYS_IN_TEXTURES,
            Arrays::StorageTextures => shaders::ARRAYS_IN_STORAGE_TEXTURES,
        };
        let together = gpu.tuning().together;
        let inputs = if together { shaders::INPUTS_READ_TOGETHER } else { shaders::INPUTS_READ_ALONE };
        let weights = match format {
            Format::F16 => shaders::WEIGHTS_IN_FP16,
            Format::Q8 => shaders::WEIGHTS_IN_Q8,
            Format::Q4 => shaders::WEIGHTS_IN_Q4,
        };
        let rotation = if rotary { shaders::ROTARY } else { shaders::NOT_ROTARY };
        let [rotation, outputs] = if self.multiplies { [rotation, shaders::LINEAR_OUTPUTS] } else { [""; 2] };
        let before = match self.model {
            true => [arrays, shaders::STEP, shaders::OCTETS, inputs, weights, rotation, outputs].join("\n"),
            false => String::new(),
        };
        // Browsers require the directive that naga does not know.
        let enable =
            if (self.subgroups || together) && cfg!(target_arch = "wasm32") { "enable subgroups;" } else { "" };
        let text = [enable, &before, self.text].join("\n");
        #[cfg(test)]
        let text = match gpu.spoilt {
            Some([name, from, to]) if name == self.name => text.replace(from, to),
            _ => text,
        };
        let source = wgpu::ShaderSource::Wgsl(text.into());
        gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(self.name), source })
    }
}

/// The layout of the numbered `bindings` in group 0.
pub(crate) fn layout(gpu: &Gpu, name: &str, bindings: &[(u32, Binding)]) -> wgpu::BindGroupLayout {
    let entry = |&(number, binding): &(u32, Binding)| wgpu::BindGroupLayoutEntry {
        binding: number,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: binding.ty(gpu.tuning().arrays),
        count: None,
    };
    let entries: Vec<_> = bindings.iter().map(entry).collect();
    gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries })
}

/// Binds `resources` to `layout`, by their numbers.
pub(crate) fn bind(
    gpu: &Gpu,
    name: &str,
    layout: &wgpu::BindGroupLayout,
    resources: &[(u32, Resource<'_>)],
) -> wgpu::BindGroup {
    let mut entries = Vec::with_capacity(resources.len());
    for &(binding, resource) in resources {
        let resource = match resource {
            Resource::Array(array) => array.resource(),
            Resource::Buffer(buffer) => buffer.as_entire_binding(),
        };
        entries.push(wgpu::BindGroupEntry { binding, resource });
    }
    gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(name), layout, entries: &entries })
}

impl Kernel {
    /// Compiles `entry` of `module` with the override constants `constants`.
    pub fn new(
        gpu: &Gpu,
        module: &wgpu::ShaderModule,
        entry: &str,
        layout: &wgpu::BindGroupLayout,
        constants: &[(&str, f64)],
    ) -> Self {
        let pipeline_layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(entry),
            bind_group_layouts: &[Some(layout)],
            ..Default::default()
        });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: Some(&pipeline_layout),
            module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Self { pipeline }
    }
}
