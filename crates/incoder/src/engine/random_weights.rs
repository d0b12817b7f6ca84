//! The matrices of a model of random weights, made on the GPU.

use super::stack::{Order, Stack};
use super::step::at;
use super::weights::Slice;
use crate::engine::gpu::{self, Binding, Gpu, Kernel, Resource, Texel, shaders};
use crate::engine::random::{Part, Random};
use crate::error::Result;

/// Most tensors that a matrix consists of.
const MOST_PARTS: usize = 3;

/// What random.wgsl calls `Parts`: the tensors that a matrix consists of, and the order of its rows.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Parts {
    part: [Part; MOST_PARTS],
    alternating: u32,
    /// Half of the head dim where pairs lie side by side; 0 elsewhere.
    half: u32,
    spare: [u32; 2],
}

impl Parts {
    pub fn new(random: &Random, stack: &Stack) -> Self {
        let mut made = Self::default();
        // A part that is not there begins behind every row.
        made.part.iter_mut().for_each(|part| part.first_row = u32::MAX);
        for ((to, name), &start) in made.part.iter_mut().zip(&stack.names).zip(&stack.starts) {
            *to = Part { first_row: start as u32, ..random.part(name) };
        }
        match stack.order {
            Order::Stacked => {}
            Order::Alternating => made.alternating = 1,
            Order::Pairs { head_dim } => made.half = head_dim as u32 / 2,
        }
        made
    }
}

/// The kernel of random.wgsl.
#[derive(Debug)]
pub(super) struct Maker {
    layout: wgpu::BindGroupLayout,
    kernel: Kernel,
}

impl Maker {
    /// # Errors
    /// [`crate::Error::Kernel`] when it does not compile.
    pub async fn new(gpu: &Gpu) -> Result<Self> {
        let name = "random";
        let bindings = [
            (at::WEIGHTS_WRITTEN, Binding::WriteArray(Texel::Words)),
            (at::MATRIX, Binding::Uniform),
            (at::PARTS, Binding::Uniform),
        ];
        let layout = gpu::layout(gpu, name, &bindings);
        let module = gpu.compiling(name, || shaders::RANDOM.module(gpu)).await?;
        let kernel = gpu.compiling(name, || Kernel::new(gpu, &module, name, &layout, &[])).await?;
        Ok(Self { layout, kernel })
    }

    /// Makes the weights of `slice`, a part of a matrix of `groups` groups of inputs.
    ///
    /// # Errors
    /// As [`Gpu::uniform`].
    pub fn make(&self, gpu: &Gpu, slice: &Slice, groups: u32, parts: &Parts) -> Result<()> {
        let parts = gpu.uniform("parts", parts)?;
        let resources: [(u32, Resource<'_>); 3] = [
            (at::WEIGHTS_WRITTEN, (&slice.weights).into()),
            (at::MATRIX, (&slice.dimensions).into()),
            (at::PARTS, (&parts).into()),
        ];
        let bindings = gpu::bind(gpu, "random", &self.layout, &resources);
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&self.kernel.pipeline);
            pass.set_bind_group(0, &bindings, &[]);
            pass.dispatch_workgroups(groups, slice.blocks, 1);
        }
        gpu.queue.submit([encoder.finish()]);
        Ok(())
    }
}
