//! Choosing on the GPU: steps that follow one another without waiting for the CPU.
//!
//! The GPU draws a token for each column as [`crate::sampling`] would and starts on the next step with them. What it drew from comes
//! back, and the CPU draws again from that, in double precision: its word counts, and steps that went on from other tokens are
//! forgotten.

use super::weights::BLOCK_ROWS;
use crate::engine::forward::Column;
use crate::engine::gpu::{self, Binding, Gpu, Kernel, Resource, shaders};
use crate::error::Result;
use crate::sampling::{MOST_TOLD, Sampling};

/// Logits of a block: `BLOCK` of choose.wgsl. Those of a column are padded to whole blocks.
const BLOCK: usize = BLOCK_ROWS;
/// Threads of `choose_best`.
const BEST_THREADS: u32 = 16;
/// Tokens after which nothing follows, at most; others end a text one step late.
const MOST_STOPS: usize = 8;
/// No token.
const NONE: u32 = u32::MAX;

/// How tokens are to be chosen, the same for all steps that follow one another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choosing<'a> {
    pub sampling: Sampling,
    /// Candidates to tell.
    pub told: usize,
    /// Ids that are never chosen.
    pub banned: &'a [u32],
    /// The context of each column, as two parts.
    pub contexts: &'a [[&'a [u32]; 2]],
    /// Tokens after which nothing follows.
    pub stops: &'a [u32],
}

/// What steps under way were started with, to be compared with what the next call asks for: steps that follow one another choose as
/// the first of them was told to.
#[derive(Debug, Default)]
pub(super) struct Started {
    sampling: Sampling,
    told: usize,
    banned: Vec<u32>,
    stops: Vec<u32>,
    /// The context of each column, as far as the repetition penalty looks at it.
    contexts: Vec<Vec<u32>>,
}

impl Started {
    pub fn new(choosing: &Choosing<'_>) -> Self {
        let Choosing { sampling, told, banned, contexts, stops } = *choosing;
        let contexts = match sampling.repetition_penalty {
            1.0 => Vec::new(),
            _ => contexts.iter().map(|context| context.concat()).collect(),
        };
        Self { sampling, told, banned: banned.to_vec(), stops: stops.to_vec(), contexts }
    }

    /// The columns went on with these tokens.
    pub fn follow(&mut self, ids: impl Iterator<Item = u32>) {
        self.contexts.iter_mut().zip(ids).for_each(|(context, id)| context.push(id));
    }

    /// Whether a step started now as `choosing` says would choose the same.
    pub fn chooses_as(&self, choosing: &Choosing<'_>) -> bool {
        let Choosing { sampling, told, banned, contexts, stops } = *choosing;
        let same = |(own, context): (&Vec<u32>, &[&[u32]; 2])| own.iter().eq(context.iter().copied().flatten());
        let alike = self.sampling == sampling && self.told == told && self.banned == banned && self.stops == stops;
        alike && (sampling.repetition_penalty == 1.0 || self.contexts.iter().zip(contexts).all(same))
    }
}

/// What a column may go on with.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Told {
    /// What the GPU drew, and went on with unless the text ends there.
    pub id: Option<u32>,
    /// The most probable tokens with their logits, best first; empty when there is none, or a logit that is not a number.
    pub candidates: Vec<(f32, u32)>,
}

/// `Choice` of choose.wgsl.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Choice {
    temperature: f32,
    top_p: f32,
    penalty: f32,
    top_k: u32,
    told: u32,
    min_p: f32,
    seed: [u32; 2],
    stops: [u32; MOST_STOPS],
}

/// Words of `Record` in choose.wgsl.
const RECORD_WORDS: usize = 4 + 2 * MOST_TOLD;

/// Bytes of the records of so many columns.
pub(super) fn record_bytes(columns: usize) -> u64 {
    (4 * RECORD_WORDS * columns) as u64
}

/// Bytes of the state of a step of so many columns.
fn state_bytes(columns: usize) -> u64 {
    16 + (size_of::<Column>() * columns) as u64
}

/// The kernels of choose.wgsl and what they work on.
#[derive(Debug)]
pub(super) struct Chooser {
    gpu: Gpu,
    best: Kernel,
    token: Kernel,
    bindings: wgpu::BindGroup,
    choice: wgpu::Buffer,
    marks: wgpu::Buffer,
    next: wgpu::Buffer,
    record: wgpu::Buffer,
    state: wgpu::Buffer,
    blocks: usize,
}

impl Chooser {
    /// Compiles the kernels for `vocab` logits of each of at most `columns` columns, which a step leaves in `logits`, and for its
    /// `state`.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] when the adapter's compiler refuses them.
    pub async fn new(
        gpu: &Gpu,
        vocab: usize,
        columns: usize,
        logits: &wgpu::Buffer,
        state: &wgpu::Buffer,
    ) -> Result<Self> {
        use Binding::{Read, Uniform, Write};
        let blocks = vocab.div_ceil(BLOCK);
        let bound = [(8, Uniform), (9, Uniform), (10, Read), (11, Write), (12, Write), (13, Write), (14, Write)];
        let layout = gpu::layout(gpu, "choose", &bound);
        let module = gpu.compiling("choose", || shaders::CHOOSE.module(gpu)).await?;
        let threads = f64::from(gpu.tuning().choose_threads);
        let constants = [("VOCAB", vocab as f64), ("THREADS", threads)];
        let kernel =
            async |name, constants| gpu.compiling(name, || Kernel::new(gpu, &module, name, &layout, constants)).await;
        let best = kernel("choose_best", &constants[..1]).await?;
        let token = kernel("choose_token", &constants[..]).await?;
        let choice = gpu.uniform("choice", &Choice::default())?;
        let marks = gpu.storage("marks", (16 * blocks * columns) as u64)?;
        let best_of_blocks = gpu.storage("best of blocks", (8 * blocks * columns) as u64)?;
        let record = gpu.storage("record", record_bytes(columns))?;
        let next = gpu.storage("next state", state_bytes(columns))?;
        let resources: [(u32, Resource<'_>); 7] = [
            (8, state.into()),
            (9, (&choice).into()),
            (10, logits.into()),
            (11, (&marks).into()),
            (12, (&best_of_blocks).into()),
            (13, (&record).into()),
            (14, (&next).into()),
        ];
        let bindings = gpu::bind(gpu, "choose", &layout, &resources);
        Ok(Self { gpu: gpu.clone(), best, token, bindings, choice, marks, next, record, state: state.clone(), blocks })
    }

    /// Says how the steps to come choose.
    pub fn start(&self, choosing: &Choosing<'_>) {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } = choosing.sampling;
        let mut stops = [NONE; MOST_STOPS];
        stops.iter_mut().zip(choosing.stops).for_each(|(to, stop)| *to = *stop);
        let choice = Choice {
            temperature: temperature as f32,
            top_p: top_p as f32,
            penalty: repetition_penalty as f32,
            top_k: if choosing.sampling.is_greedy() { 1 } else { top_k as u32 },
            told: choosing.told as u32,
            min_p: min_p as f32,
            seed: [seed as u32, (seed >> 32) as u32],
            stops,
        };
        self.gpu.queue.write_buffer(&self.choice, 0, bytemuck::bytes_of(&choice));
        let mut marks = vec![[0u32; 4]; self.blocks * choosing.contexts.len()];
        for (marks, context) in marks.chunks_exact_mut(self.blocks).zip(choosing.contexts) {
            let mut mark = |id: u32, first: usize| {
                if let Some(mark) = marks.get_mut(id as usize / BLOCK) {
                    mark[first + id as usize % BLOCK / 32] |= 1 << (id % 32);
                }
            };
            choosing.banned.iter().for_each(|&id| mark(id, 0));
            if repetition_penalty != 1.0 {
                context.iter().copied().flatten().for_each(|&id| mark(id, 2));
            }
        }
        self.gpu.queue.write_buffer(&self.marks, 0, bytemuck::cast_slice(&marks));
    }

    /// The step goes on from what the one before chose for its `columns`.
    pub fn follow(&self, encoder: &mut wgpu::CommandEncoder, columns: usize) {
        encoder.copy_buffer_to_buffer(&self.next, 0, &self.state, 0, Some(state_bytes(columns)));
    }

    /// The dispatches, after those of a step with logits of all its `columns`.
    pub fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, columns: usize) {
        self.dispatch_best(pass, columns);
        self.dispatch_token(pass, columns);
    }

    /// The first of them.
    pub fn dispatch_best(&self, pass: &mut wgpu::ComputePass<'_>, columns: usize) {
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.set_pipeline(&self.best.pipeline);
        pass.dispatch_workgroups(((self.blocks * columns) as u32).div_ceil(BEST_THREADS), 1, 1);
    }

    /// The second.
    pub fn dispatch_token(&self, pass: &mut wgpu::ComputePass<'_>, columns: usize) {
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.set_pipeline(&self.token.pipeline);
        pass.dispatch_workgroups(columns as u32, 1, 1);
    }

    /// Copies what was chosen, after the pass.
    pub fn tell(&self, encoder: &mut wgpu::CommandEncoder, columns: usize, staging: &wgpu::Buffer) {
        encoder.copy_buffer_to_buffer(&self.record, 0, staging, 0, Some(record_bytes(columns)));
    }
}

impl Default for Choice {
    fn default() -> Self {
        bytemuck::Zeroable::zeroed()
    }
}

impl Told {
    /// What the records of all columns say.
    pub fn all(words: &[u32]) -> Vec<Self> {
        words.chunks_exact(RECORD_WORDS).map(Self::new).collect()
    }

    fn new(words: &[u32]) -> Self {
        let count = (words[1] as usize).min(MOST_TOLD);
        let candidates = words[4..].chunks_exact(2).take(count).map(|pair| (f32::from_bits(pair[0]), pair[1]));
        Self { id: (words[0] != NONE).then_some(words[0]), candidates: candidates.collect() }
    }
}
