//! The kernels of one layer, each fed random inputs of its own.

use super::KernelCheck;
use super::arrays::{Values, array, cache, cached, read};
use crate::arch::recipe::Op;
use crate::checkpoint::config::Config;
use crate::engine::choose::{Chooser, Choosing, Told, record_bytes};
use crate::engine::cpu::{Reference, stored};
use crate::engine::forward::{Column, Kv, sinusoids};
use crate::engine::gpu::{Array, Gpu, Resource, Texel};
use crate::engine::rotary_table::rotary_table;
use crate::engine::step::{MOST_COLUMNS, Shapes, Step};
use crate::engine::tensors::Tensors;
use crate::engine::weights::{BLOCK_ROWS, Weights};
use crate::error::{Error, Result};
use crate::sampling::{Draw, Sampling};

/// Largest error, relative to the largest value: fp32 sums in another order.
const TOLERANCE: f32 = 2e-5;
/// Of a value that was rounded to fp16, relative to itself: one rounding step where the sums differ in their last bits.
const STORED_TOLERANCE: f32 = 2e-3;
/// Candidates that are compared where tokens are chosen.
const TOLD: usize = 5;

/// What differences are held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relative {
    /// The largest value there is.
    Largest,
    /// Each value itself.
    Itself,
}

/// A layer on both sides, and the kernels for it.
#[derive(Debug)]
pub(crate) struct Kernels<'a> {
    gpu: &'a Gpu,
    config: &'a Config,
    reference: Reference,
    weights: Weights,
    shapes: Shapes,
    step: Step,
}

/// The results so far of a step of `tokens`.
struct Checks {
    tokens: usize,
    done: Vec<KernelCheck>,
}

impl<'a> Kernels<'a> {
    /// The first layer of the model in `tensors`, with a cache of `capacity` rows.
    ///
    /// # Errors
    /// As [`Gpu::check_kernels`], and what reading the tensors reports.
    pub async fn new(gpu: &'a Gpu, config: &'a Config, tensors: &Tensors, capacity: usize, kv: Kv) -> Result<Self> {
        let reference = Reference::load(config, tensors, capacity, kv, &mut |_| {}).await?;
        let weights = Weights::load(gpu, config, tensors, &mut |_| {}).await?;
        let shapes = Shapes::new(&tensors.config(config), capacity, kv);
        let step = Step::new(gpu, shapes.clone(), &mut |_| ()).await?;
        Ok(Self { gpu, config, reference, weights, shapes, step })
    }

    /// Every kernel, in a step of `count` tokens, the last `logits` of which have logits.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when the device is lost.
    pub async fn check(&mut self, count: usize, logits: usize, seed: u32) -> Result<Vec<KernelCheck>> {
        let mut random = Values(seed + 77);
        let mut checks = Checks { tokens: count, done: Vec::new() };
        let inputs = random.many(count * self.config.d_model);
        self.check_norms(&inputs, logits, &mut checks).await?;
        self.check_matrices(&inputs, logits, &mut random, &mut checks).await?;
        self.check_cache(&inputs, &mut checks).await?;
        self.check_attention(&mut random, &mut checks).await?;
        self.check_choosing(count.min(logits), &mut random, &mut checks).await?;
        Ok(checks.done)
    }

    /// The operations of the layer, and those before and after it.
    fn ops(&self) -> Vec<Op> {
        let mut ops: Vec<Op> = self.reference.recipe.all().cloned().collect();
        // Both norms of a layer are one kernel.
        let mut norms = 0;
        ops.retain(|op| {
            norms += usize::from(matches!(op, Op::Norm(_)));
            !matches!(op, Op::Norm(_)) || norms == 1
        });
        ops
    }

    /// Runs the dispatches that `build` adds to an empty step.
    fn run(
        &mut self,
        columns: &[Column],
        logits: usize,
        build: impl FnOnce(&mut Step, &Weights) -> Result<()>,
    ) -> Result<()> {
        self.step.clear();
        build(&mut self.step, &self.weights)?;
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        self.step.encode(&mut encoder, columns, logits);
        self.gpu.queue.submit([encoder.finish()]);
        Ok(())
    }

    async fn read(&self, output: Resource<'_>) -> Result<Vec<f32>> {
        read(self.gpu, output).await
    }

    fn floats(&self, width: usize, values: &[f32]) -> Result<Array> {
        array(self.gpu, Texel::Floats, width / 4, values)
    }

    /// A value that no kernel writes must not pass for a result.
    fn poisoned(&self, width: usize, rows: usize) -> Result<Array> {
        self.floats(width, &vec![f32::NAN; width * rows])
    }

    /// What a step of so many tokens after nothing is made of.
    fn columns(&self, count: usize) -> Vec<Column> {
        (0..count).map(|i| Column::context(((i * 31 + 7) % self.config.vocab_size) as u32, i)).collect()
    }

    async fn check_norms(&mut self, inputs: &[f32], logits: usize, checks: &mut Checks) -> Result<()> {
        let (d, count) = (self.config.d_model, checks.tokens);
        let columns = self.columns(count);
        let x = self.gpu.upload("x", inputs)?;
        for op in self.ops() {
            match &op {
                Op::Embed { table, scale } => {
                    let rows = if self.shapes.rotary { 1 } else { self.shapes.capacity };
                    let positions = self.gpu.upload("positions", &sinusoids(0..rows, d))?;
                    let out = self.gpu.upload("out", &vec![f32::NAN; count * d])?;
                    self.run(&columns, logits, |step, weights| {
                        step.embed(weights.matrix(table)?, &positions, &out);
                        Ok(())
                    })?;
                    let expected: Vec<f32> =
                        columns.iter().flat_map(|column| self.reference.embedded(table, *scale, column)).collect();
                    checks.add("embed", d, &self.read((&out).into()).await?, &expected);
                }
                Op::Norm(norm) => {
                    let out = self.poisoned(d, count)?;
                    self.run(&columns, logits, |step, weights| {
                        step.norm(&x, weights.norm(norm)?, &out);
                        Ok(())
                    })?;
                    let expected = rows(inputs, d, |x| self.reference.norm(norm, x));
                    checks.add("layer_norm", d, &self.read((&out).into()).await?, &expected);
                }
                Op::FinalNorm(norm) => {
                    let out = self.poisoned(d, logits)?;
                    self.run(&columns, logits, |step, weights| {
                        step.norm_last(&x, weights.norm(norm)?, &out);
                        Ok(())
                    })?;
                    let expected = rows(&inputs[(count - logits) * d..], d, |x| self.reference.norm(norm, x));
                    checks.add("layer_norm, the last", d, &self.read((&out).into()).await?, &expected);
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn check_matrices(
        &mut self,
        inputs: &[f32],
        logits: usize,
        random: &mut Values,
        checks: &mut Checks,
    ) -> Result<()> {
        let Config { d_model: d, ffn_dim: ffn, vocab_size: vocab, .. } = *self.config;
        let count = checks.tokens;
        let (columns, input) = (self.columns(count), self.floats(d, inputs)?);
        for op in self.ops() {
            match &op {
                Op::Gelu(linear) | Op::GatedSilu { gate: linear, .. } => {
                    let out = self.poisoned(ffn, count)?;
                    self.run(&columns, logits, |step, weights| {
                        step.activation(&input, weights.linear(linear)?, &out);
                        Ok(())
                    })?;
                    let expected = rows(inputs, d, |x| self.reference.activated(&op, x));
                    let name = if matches!(op, Op::Gelu(_)) { "project_gelu" } else { "project_gated_silu" };
                    checks.add(name, ffn, &self.read((&out).into()).await?, &expected);
                }
                Op::FeedForwardOutput(linear) => {
                    let (inner, before) = (random.many(count * ffn), random.many(count * d));
                    let (inner_array, out) = (self.floats(ffn, &inner)?, self.gpu.upload("out", &before)?);
                    self.run(&columns, logits, |step, weights| {
                        step.residual(&inner_array, weights.linear(linear)?, &out);
                        Ok(())
                    })?;
                    let product = rows(&inner, ffn, |x| self.reference.linear(linear, x));
                    let expected: Vec<f32> = product.iter().zip(&before).map(|(a, b)| a + b).collect();
                    checks.add("project_residual", d, &self.read((&out).into()).await?, &expected);
                }
                Op::Logits(head) => {
                    let stride = vocab.next_multiple_of(BLOCK_ROWS);
                    let out = self.gpu.upload("out", &vec![f32::NAN; logits * stride])?;
                    self.run(&columns, logits, |step, weights| {
                        step.logits(&input, weights.matrix(head)?, &out);
                        Ok(())
                    })?;
                    let padded = self.read((&out).into()).await?;
                    let got: Vec<f32> = padded.chunks_exact(stride).flat_map(|row| &row[..vocab]).copied().collect();
                    let expected = rows(&inputs[..logits * d], d, |x| self.reference.product(head, x));
                    checks.add("project_logits", vocab, &got, &expected);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Queries, and the keys and values that go to the cache.
    async fn check_cache(&mut self, inputs: &[f32], checks: &mut Checks) -> Result<()> {
        let (d, head_dim, count) = (self.config.d_model, self.config.head_dim(), checks.tokens);
        let (q_width, kv_width) = (self.config.query_width(), self.config.kv_width());
        let (shapes, columns, input) = (self.shapes.clone(), self.columns(count), self.floats(d, inputs)?);
        let rotary = rotary_table(self.gpu, &self.reference.recipe.positions, shapes.capacity)?;
        for op in self.ops() {
            let Op::QueryKeyValue { query, key, value } = &op else { continue };
            let (keys, values) = (shapes.cache(self.gpu, "keys")?, shapes.cache(self.gpu, "values")?);
            let q = self.poisoned(q_width, count)?;
            self.run(&columns, 1, |step, weights| {
                step.qkv(&input, weights.linear(query)?, rotary.as_ref(), &q, [&keys, &values]);
                Ok(())
            })?;
            // The GPU has the values of a pair that is rotated side by side.
            let ordered = |values: Vec<f32>| if shapes.rotary { in_pairs(&values, head_dim) } else { values };
            let each = columns.iter().zip(inputs.chunks_exact(d));
            let expected: Vec<f32> =
                each.clone().flat_map(|(column, x)| ordered(self.reference.query(query, x, column))).collect();
            checks.add("project_qkv, queries", q_width, &self.read((&q).into()).await?, &expected);
            for (cache, name) in [(&keys, "project_qkv, keys"), (&values, "project_qkv, values")] {
                let by_head = cached(self.gpu, &shapes, cache).await?;
                let at = |row: usize, head: usize| &by_head[(head * shapes.capacity + row) * head_dim..][..head_dim];
                let heads = |row: usize| (0..shapes.kv_heads).flat_map(move |head| at(row, head));
                let got: Vec<f32> = (0..count).flat_map(heads).copied().collect();
                let mut expected = Vec::with_capacity(count * kv_width);
                for (column, x) in each.clone() {
                    let unstored = match name {
                        "project_qkv, keys" => ordered(self.reference.rotated(key, x, column)),
                        _ => self.reference.linear(value, x),
                    };
                    expected.extend(stored(shapes.kv, unstored).ok_or(Error::KvOverflow { what: "keys", layer: 0 })?);
                }
                let tolerance = if shapes.kv == Kv::F16 { STORED_TOLERANCE } else { 4.0 * TOLERANCE };
                checks.add_with(name, kv_width, (tolerance, Relative::Itself), &got, &expected);
            }
        }
        Ok(())
    }

    /// Scores and values together, over a shared prefix with ragged tails.
    async fn check_attention(&mut self, random: &mut Values, checks: &mut Checks) -> Result<()> {
        let (q_width, kv_width) = (self.config.query_width(), self.config.kv_width());
        let Shapes { capacity, heads, kv, .. } = self.shapes;
        let column = |prefix: usize, tail_start: usize, tail_len: usize| Column {
            token: 0,
            position: (prefix + tail_len - 1) as u32,
            row: 0,
            prefix: prefix as u32,
            tail_start: tail_start as u32,
            tail_len: tail_len as u32,
            ..Column::default()
        };
        let shared = capacity / 2;
        let columns = [
            column(1, 0, 0),
            column(capacity, 0, 0),
            column(shared, shared, 1),
            column(shared, shared + 1, capacity - shared - 1),
            column(shared, capacity - 1, 1),
        ];
        let queries = random.many(columns.len() * q_width);
        let kept = |values: Vec<f32>| stored(kv, values).ok_or(Error::KvOverflow { what: "values", layer: 0 });
        let (keys, values) = (kept(random.many(capacity * kv_width))?, kept(random.many(capacity * kv_width))?);
        let caches = [cache(self.gpu, &self.shapes, &keys)?, cache(self.gpu, &self.shapes, &values)?];
        let q = self.floats(q_width, &queries)?;
        let (words, lines) = (capacity.div_ceil(4) as u32, (columns.len() * heads) as u32);
        let scores = self.gpu.array("scores", Texel::Floats, words, lines)?;
        let out = self.poisoned(q_width, columns.len())?;
        self.run(&columns, 1, |step, _| {
            step.scores(&q, &caches[0], &scores);
            step.values(&scores, &caches[1], &out);
            Ok(())
        })?;
        let each = columns.iter().zip(queries.chunks_exact(q_width));
        let expected = each.flat_map(|(column, query)| self.reference.attend(column, query, &keys, &values));
        let expected: Vec<f32> = expected.collect();
        checks.add("attention", q_width, &self.read((&out).into()).await?, &expected);
        Ok(())
    }

    /// The most probable tokens of random logits, by their ids.
    async fn check_choosing(&self, columns: usize, random: &mut Values, checks: &mut Checks) -> Result<()> {
        let vocab = self.config.vocab_size;
        let told = TOLD.min(vocab);
        let logits: Vec<Vec<f32>> = (0..columns).map(|_| random.many(vocab)).collect();
        let (draws, contexts) = (vec![Draw::default(); columns], vec![[&[][..]; 2]; columns]);
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let choosing = Choosing { sampling, told, banned: &[], contexts: &contexts, stops: &[] };
        let (mut got, mut expected) = (Vec::new(), Vec::new());
        for (told, logits) in choose(self.gpu, &logits, &draws, &choosing).await?.iter().zip(&logits) {
            let mut ids: Vec<u32> = (0..vocab as u32).collect();
            ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            expected.extend([ids[0]].iter().chain(&ids[..choosing.told]).map(|&id| id as f32));
            let candidates = told.candidates.iter().map(|&(_, id)| id as f32).chain([f32::NAN].into_iter().cycle());
            got.extend(
                [told.id.map_or(f32::NAN, |id| id as f32)].into_iter().chain(candidates).take(1 + choosing.told),
            );
        }
        checks.add_with("choose", 1 + told, (0.0, Relative::Itself), &got, &expected);
        Ok(())
    }
}

/// What `each` makes of the rows of `values`.
fn rows(values: &[f32], width: usize, each: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
    values.chunks_exact(width).flat_map(each).collect()
}

/// The heads of `values` with the two of every pair, which are half a head apart, side by side.
fn in_pairs(values: &[f32], head_dim: usize) -> Vec<f32> {
    let half = head_dim / 2;
    values.chunks_exact(head_dim).flat_map(|head| (0..half).flat_map(|i| [head[i], head[half + i]])).collect()
}

/// What the kernels of choose.wgsl say of the `logits` of each column.
///
/// # Errors
/// [`Error::Kernel`] when they do not compile, [`Error::DeviceLost`] when the device is lost.
pub(crate) async fn choose(
    gpu: &Gpu,
    logits: &[Vec<f32>],
    draws: &[Draw],
    choosing: &Choosing<'_>,
) -> Result<Vec<Told>> {
    let (count, vocab) = (logits.len(), logits[0].len());
    let mut padded = Vec::new();
    for logits in logits {
        padded.extend_from_slice(logits);
        padded.resize(padded.len().next_multiple_of(BLOCK_ROWS), 0.0);
    }
    let buffer = gpu.upload("logits", &padded)?;
    let columns: Vec<Column> = draws.iter().map(|&draw| Column { draw, ..Column::default() }).collect();
    let state = gpu.uniform("state", &[[0u32; 4]; 2 * MOST_COLUMNS + 1])?;
    gpu.queue.write_buffer(&state, 0, bytemuck::cast_slice(&[count as u32; 2]));
    gpu.queue.write_buffer(&state, 16, bytemuck::cast_slice(&columns));
    let chooser = Chooser::new(gpu, vocab, count, &buffer, &state).await?;
    chooser.start(choosing);
    let readable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let staging = gpu.buffer("staging", record_bytes(count), readable)?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    chooser.dispatch(&mut encoder.begin_compute_pass(&Default::default()), count);
    chooser.tell(&mut encoder, count, &staging);
    gpu.queue.submit([encoder.finish()]);
    Ok(Told::all(&gpu.read(&staging, record_bytes(count) as usize / 4).await?))
}

impl Checks {
    fn add(&mut self, kernel: &'static str, width: usize, got: &[f32], expected: &[f32]) {
        self.add_with(kernel, width, (TOLERANCE, Relative::Largest), got, expected);
    }

    /// Where rows of `width` differ most. Differences are shares of at least 1.
    fn add_with(
        &mut self,
        kernel: &'static str,
        width: usize,
        (tolerance, relative): (f32, Relative),
        got: &[f32],
        expected: &[f32],
    ) {
        let largest = expected.iter().fold(1f32, |most, value| most.max(value.abs()));
        let missing = [f32::NAN].into_iter().cycle();
        let mut worst = (0, 0.0, 0.0, 0.0);
        for (i, (got, &expected)) in got.iter().copied().chain(missing).zip(expected).enumerate() {
            let scale = if relative == Relative::Largest { largest } else { expected.abs().max(1.0) };
            let difference = (got - expected).abs() / scale;
            let error = if difference.is_nan() { f32::INFINITY } else { difference };
            if i == 0 || error > worst.1 {
                worst = (i, error, got, expected);
            }
        }
        let (i, error, got, expected) = worst;
        let (tokens, token, value) = (self.tokens, i / width, i % width);
        self.done.push(KernelCheck { kernel, tokens, error, tolerance, token, value, got, expected });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_difference_is_found_and_what_is_no_number_is_wrong() {
        let check = |got: &[f32], expected: &[f32], relative| {
            let mut checks = Checks { tokens: 1, done: Vec::new() };
            checks.add_with("a", 2, (0.1, relative), got, expected);
            let KernelCheck { token, value, error, .. } = checks.done[0];
            (token, value, error, checks.done[0].is_right())
        };
        let expected = [1.0, 10.0, 2.0, 4.0];
        assert_eq!(check(&expected, &expected, Relative::Largest), (0, 0, 0.0, true));
        assert_eq!(check(&[1.0, 10.5, 2.0, 3.75], &expected, Relative::Largest), (0, 1, 0.05, true));
        assert_eq!(check(&[1.0, 10.5, 2.0, 3.5], &expected, Relative::Itself), (1, 1, 0.125, false));
        assert_eq!(check(&[1.0, 10.0, f32::NAN, 9.0], &expected, Relative::Largest), (1, 0, f32::INFINITY, false));
        assert_eq!(check(&[1.0, 10.0, 2.0], &expected, Relative::Largest), (1, 1, f32::INFINITY, false));
    }
}
