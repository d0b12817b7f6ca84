//! A WGSL entry point with its override constants → a pipeline that buffers can be bound to.

use super::Gpu;
use std::borrow::Cow;

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
}

/// One compiled entry point.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub pipeline: wgpu::ComputePipeline,
}

impl Source {
    /// The compiled module.
    pub fn module(&self, gpu: &Gpu) -> wgpu::ShaderModule {
        // Browsers require the directive that naga does not know.
        let text = if self.subgroups && cfg!(target_arch = "wasm32") {
            Cow::Owned(format!("enable subgroups;\n{}", self.text))
        } else {
            Cow::Borrowed(self.text)
        };
        let source = wgpu::ShaderSource::Wgsl(text);
        gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(self.name), source })
    }
}

/// The layout of `bindings` in group 0, numbered in order.
pub(crate) fn layout(gpu: &Gpu, name: &str, bindings: &[Binding]) -> wgpu::BindGroupLayout {
    let entry = |(i, binding): (usize, &Binding)| wgpu::BindGroupLayoutEntry {
        binding: i as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding {
                Binding::Uniform => wgpu::BufferBindingType::Uniform,
                other => wgpu::BufferBindingType::Storage { read_only: *other == Binding::Read },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = bindings.iter().enumerate().map(entry).collect();
    gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(name), entries: &entries })
}

/// Binds `buffers` to `layout`, in order.
pub(crate) fn bind(
    gpu: &Gpu,
    name: &str,
    layout: &wgpu::BindGroupLayout,
    buffers: &[&wgpu::Buffer],
) -> wgpu::BindGroup {
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
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
