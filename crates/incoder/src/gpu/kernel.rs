//! A WGSL entry point with its override constants → a pipeline that arrays and buffers can be bound to.

use super::array::{Array, Texel};
use super::{Gpu, shaders};

/// A shader file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// The file's name without `.wgsl`, for labels.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
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
    /// An array that is read, as declared in arrays_in_buffers.wgsl and arrays_in_textures.wgsl.
    ReadArray(Texel),
    /// An array that is written.
    WriteArray(Texel),
}

impl Binding {
    fn ty(self, textures: bool) -> wgpu::BindingType {
        let buffer = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
        let view_dimension = wgpu::TextureViewDimension::D2;
        match self {
            Self::Uniform => buffer(wgpu::BufferBindingType::Uniform),
            Self::ReadArray(texel) if textures => {
                wgpu::BindingType::Texture { sample_type: texel.sample_type(), view_dimension, multisampled: false }
            }
            Self::WriteArray(texel) if textures => wgpu::BindingType::StorageTexture {
                access: wgpu::StorageTextureAccess::WriteOnly,
                format: texel.format(),
                view_dimension,
            },
            Self::Read | Self::ReadArray(_) => buffer(wgpu::BufferBindingType::Storage { read_only: true }),
            Self::Write | Self::WriteArray(_) => buffer(wgpu::BufferBindingType::Storage { read_only: false }),
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
    /// The compiled module: the file that says where arrays lie, then the kernel.
    pub fn module(&self, gpu: &Gpu) -> wgpu::ShaderModule {
        let arrays = if gpu.tuning().textures { shaders::ARRAYS_IN_TEXTURES } else { shaders::ARRAYS_IN_BUFFERS };
        // Browsers require the directive that naga does not know.
        let enable = if self.subgroups && cfg!(target_arch = "wasm32") { "enable subgroups;\n" } else { "" };
        let source = wgpu::ShaderSource::Wgsl(format!("{enable}{arrays}\n{}", self.text).into());
        gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(self.name), source })
    }
}

/// The layout of the numbered `bindings` in group 0.
pub(crate) fn layout(gpu: &Gpu, name: &str, bindings: &[(u32, Binding)]) -> wgpu::BindGroupLayout {
    let entry = |&(number, binding): &(u32, Binding)| wgpu::BindGroupLayoutEntry {
        binding: number,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: binding.ty(gpu.tuning().textures),
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
