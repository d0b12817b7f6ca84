//! The model in plain single precision on the CPU: the oracle of every kernel, and the engine of a machine without a GPU.
//!
//! Written to be read: one loop for each line of a paper's arithmetic, no blocking, no threads. What is computed is in the recipe
//! of the model's architecture (`arch/`).

use crate::arch::recipe::{Linear, Norm, Op, Positions, Recipe, Weight};
use crate::checkpoint::config::Config;
use crate::engine::forward::{Column, Kv, sinusoids};
use crate::engine::tensors::Tensors;
use crate::error::{Error, Result};
use crate::quantize::Rows;
use std::collections::BTreeMap;

/// Rows that are read and quantized at a time.
const ROWS_AT_ONCE: usize = 256;

/// A matrix [outputs, inputs], row-major.
#[derive(Debug)]
pub(crate) enum Matrix {
    Plain { columns: usize, values: Vec<f32> },
    Quantized { columns: usize, parts: Vec<Rows> },
}

impl Matrix {
    async fn load(tensors: &Tensors, name: &str, [rows, columns]: [usize; 2]) -> Result<Self> {
        let Some(quantization) = tensors.quantization else {
            return Ok(Self::Plain { columns, values: tensors.rows(name, 0..rows).await? });
        };
        let mut parts = Vec::with_capacity(rows.div_ceil(ROWS_AT_ONCE));
        for first in (0..rows).step_by(ROWS_AT_ONCE) {
            parts.push(tensors.quantized(name, first..rows.min(first + ROWS_AT_ONCE), quantization).await?);
        }
        Ok(Self::Quantized { columns, parts })
    }

    /// What each row gives, as values.
    fn each_row<T>(&self, mut of_row: impl FnMut(&[f32]) -> T) -> Vec<T> {
        match self {
            Self::Plain { columns, values } => values.chunks_exact(*columns).map(of_row).collect(),
            Self::Quantized { columns, parts } => {
                let mut values = vec![0.0; *columns];
                let rows = parts.iter().flat_map(|part| (0..part.count()).map(move |row| (part, row)));
                let of_row = |(part, row): (&Rows, usize)| {
                    part.values(row, &mut values);
                    of_row(&values)
                };
                rows.map(of_row).collect()
            }
        }
    }

    /// W x: [outputs].
    pub fn product(&self, x: &[f32]) -> Vec<f32> {
        self.each_row(|row| dot(row, x))
    }

    /// One row as values.
    fn row(&self, row: usize) -> Vec<f32> {
        match self {
            Self::Plain { columns, values } => values[row * columns..][..*columns].to_vec(),
            Self::Quantized { columns, parts } => {
                let mut values = vec![0.0; *columns];
                parts[row / ROWS_AT_ONCE].values(row % ROWS_AT_ONCE, &mut values);
                values
            }
        }
    }
}

/// A loaded model on the CPU with its KV cache.
#[derive(Debug)]
pub(crate) struct Reference {
    config: Config,
    pub recipe: Recipe,
    kv: Kv,
    capacity: usize,
    /// The KV cache at hand: its number.
    slot: usize,
    /// The keys and values of every layer, [capacity, width of all heads] each.
    cache: Vec<[Vec<f32>; 2]>,
    /// Those of the other KV caches.
    parked: Vec<Vec<[Vec<f32>; 2]>>,
    /// By name.
    matrices: BTreeMap<String, Matrix>,
    vectors: BTreeMap<String, Vec<f32>>,
    /// What is added to the embedding, [capacity, d_model].
    positions: Vec<f32>,
}

impl Reference {
    /// Reads the weights, exact, and makes room for `capacity` tokens.
    pub async fn load(
        config: &Config,
        tensors: &Tensors,
        capacity: usize,
        kv: Kv,
        loaded: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let recipe = config.recipe();
        let values = capacity.saturating_mul(config.kv_width());
        check_room(
            values.saturating_mul(2 * config.num_layers).saturating_add(capacity.saturating_mul(config.d_model)),
        )?;
        let (mut matrices, mut vectors) = (BTreeMap::new(), BTreeMap::new());
        for (name, shape) in recipe.tensors() {
            let parameters = shape.iter().product::<usize>() as u64;
            match shape[..] {
                [rows, columns] => {
                    let matrix = Matrix::load(tensors, &name, [rows, columns]).await?;
                    matrices.insert(name, matrix);
                }
                _ => {
                    let vector = tensors.rows(&name, 0..1).await?;
                    vectors.insert(name, vector);
                }
            }
            loaded(parameters);
        }
        let positions = match recipe.positions {
            Positions::Sinusoids => sinusoids(0..capacity, config.d_model),
            Positions::Rotary(_) => Vec::new(),
        };
        let cache = (0..config.num_layers).map(|_| [vec![0.0; values], vec![0.0; values]]).collect();
        let (config, kv) = (config.clone(), kv.first());
        Ok(Self { config, recipe, kv, capacity, slot: 0, cache, parked: Vec::new(), matrices, vectors, positions })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How keys and values are stored.
    pub fn kv(&self) -> Kv {
        self.kv
    }

    /// Keys and values are stored in fp32 from here on; those that are there were rounded.
    pub fn widen(&mut self) {
        self.kv = Kv::F32;
    }

    /// Goes over to KV cache number `slot`, which is made where it is not there yet.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when there is no room for one more.
    pub fn select(&mut self, slot: usize) -> Result<()> {
        let (values, layers) = (self.capacity * self.config.kv_width(), self.config.num_layers);
        let count = self.parked.len().max(slot.max(self.slot) + 1);
        self.parked.resize_with(count, Vec::new);
        if slot != self.slot && self.parked[slot].is_empty() {
            check_room(values.saturating_mul(2 * layers))?;
            self.parked[slot] = (0..layers).map(|_| [vec![0.0; values], vec![0.0; values]]).collect();
        }
        if slot != self.slot {
            let chosen = std::mem::take(&mut self.parked[slot]);
            self.parked[self.slot] = std::mem::replace(&mut self.cache, chosen);
            self.slot = slot;
        }
        Ok(())
    }

    /// One step: appends every column to the cache; the logits [vocab] after each of the last `logits` columns.
    ///
    /// # Errors
    /// [`Error::KvOverflow`] when the cache cannot hold a key or a value.
    pub fn forward(&mut self, columns: &[Column], logits: usize) -> Result<Vec<Vec<f32>>> {
        let mut cache = std::mem::take(&mut self.cache);
        let made = self.step(&mut cache, columns, logits);
        self.cache = cache;
        made
    }

    /// What the recipe says, operation by operation: each for every column before the next.
    fn step(&self, cache: &mut [[Vec<f32>; 2]], columns: &[Column], logits: usize) -> Result<Vec<Vec<f32>>> {
        let mut x = Vec::new();
        let [mut h, mut q, mut mixed, mut inner] = [const { Vec::<Vec<f32>>::new() }; 4];
        let mut made = Vec::new();
        for (layer, op) in &self.recipe.ops {
            match op {
                Op::Embed { table, scale } => {
                    x = columns.iter().map(|column| self.embedded(table, *scale, column)).collect();
                }
                Op::Norm(norm) => h = x.iter().map(|x| self.norm(norm, x)).collect(),
                Op::QueryKeyValue { query, key, value } => {
                    q.clear();
                    for (column, h) in columns.iter().zip(&h) {
                        let width = self.config.kv_width();
                        let row = column.row as usize * width..(column.row as usize + 1) * width;
                        let [keys, values] = &mut cache[*layer];
                        let stored =
                            |what, values| stored(self.kv, values).ok_or(Error::KvOverflow { what, layer: *layer });
                        keys[row.clone()].copy_from_slice(&stored("keys", self.rotated(key, h, column))?);
                        values[row].copy_from_slice(&stored("values", self.linear(value, h))?);
                        q.push(self.query(query, h, column));
                    }
                }
                Op::Attention => {
                    let [keys, values] = &cache[*layer];
                    mixed = columns.iter().zip(&q).map(|(column, q)| self.attend(column, q, keys, values)).collect();
                }
                Op::AttentionOutput(linear) => {
                    x.iter_mut().zip(&mixed).for_each(|(x, mixed)| add(x, &self.linear(linear, mixed)));
                }
                Op::Gelu(_) | Op::GatedSilu { .. } => inner = h.iter().map(|h| self.activated(op, h)).collect(),
                Op::FeedForwardOutput(linear) => {
                    x.iter_mut().zip(&inner).for_each(|(x, inner)| add(x, &self.linear(linear, inner)));
                }
                Op::FinalNorm(norm) => {
                    h = x[columns.len() - logits..].iter().map(|x| self.norm(norm, x)).collect();
                }
                Op::Logits(head) => made = h.iter().map(|h| self.product(head, h)).collect(),
            }
        }
        Ok(made)
    }

    /// E[token] * scale, + P[position] where positions are added: [d_model].
    pub fn embedded(&self, table: &Weight, scale: f64, column: &Column) -> Vec<f32> {
        let d = table.inputs;
        let mut embedded = self.matrices[&table.name].row(column.token as usize);
        embedded.iter_mut().for_each(|e| *e *= scale as f32);
        if !self.positions.is_empty() {
            add(&mut embedded, &self.positions[column.position as usize * d..][..d]);
        }
        embedded
    }

    /// Norm of one row, with a biased variance; or RMS norm.
    pub fn norm(&self, norm: &Norm, x: &[f32]) -> Vec<f32> {
        let (n, kind) = (x.len() as f32, self.recipe.norm);
        let mean = if kind.centred { x.iter().sum::<f32>() / n } else { 0.0 };
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
        let deviation = 1.0 / (variance + kind.eps).sqrt();
        let mut y: Vec<f32> =
            x.iter().zip(&self.vectors[&norm.scale]).map(|(v, scale)| (v - mean) * deviation * scale).collect();
        norm.shift.iter().for_each(|shift| add(&mut y, &self.vectors[shift]));
        y
    }

    /// W x + b: [outputs].
    pub fn linear(&self, linear: &Linear, x: &[f32]) -> Vec<f32> {
        let mut y = self.product(&linear.weight, x);
        linear.bias.iter().for_each(|bias| add(&mut y, &self.vectors[bias]));
        y
    }

    /// The queries or keys of one row, rotated where positions are rotary.
    pub fn rotated(&self, linear: &Linear, x: &[f32], column: &Column) -> Vec<f32> {
        let mut y = self.linear(linear, x);
        if let Positions::Rotary(rotary) = &self.recipe.positions {
            rotary.rotate(&mut y, column.position as usize);
        }
        y
    }

    /// The queries of one row, scaled.
    pub fn query(&self, linear: &Linear, x: &[f32], column: &Column) -> Vec<f32> {
        let scale = (self.config.head_dim() as f32).powf(-0.5);
        self.rotated(linear, x, column).into_iter().map(|q| q * scale).collect()
    }

    /// What attention makes of the queries of one column, heads side by side.
    pub fn attend(&self, column: &Column, query: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
        let (head_dim, width) = (self.config.head_dim(), self.config.kv_width());
        let sharing = self.config.heads / self.config.kv_heads;
        let heads = query.chunks_exact(head_dim).enumerate();
        heads.flat_map(|(head, query)| attend(column, query, keys, values, width, head / sharing * head_dim)).collect()
    }

    /// The inner values of the feed-forward layer, of one row.
    pub fn activated(&self, op: &Op, h: &[f32]) -> Vec<f32> {
        match op {
            Op::GatedSilu { gate, up } => {
                let gates = self.linear(gate, h).into_iter().map(silu);
                gates.zip(self.linear(up, h)).map(|(gate, value)| gate * value).collect()
            }
            op => op.linears().into_iter().flat_map(|linear| self.linear(linear, h)).map(gelu).collect(),
        }
    }

    /// W x: [outputs].
    pub fn product(&self, weight: &Weight, x: &[f32]) -> Vec<f32> {
        self.matrices[&weight.name].product(x)
    }
}

/// Asks for room for the KV cache and the positions before any of it is taken: running out later would end the program.
fn check_room(values: usize) -> Result<()> {
    let what = "the KV cache (ask for a shorter context)".to_owned();
    let need = (values as u64).saturating_mul(4);
    Vec::<f32>::new().try_reserve_exact(values).map_err(|_| Error::OutOfMemory { what, need })
}

/// softmax(q Kᵀ) V of one head, whose slice of every cache row [d] begins at `offset`.
fn attend(column: &Column, query: &[f32], keys: &[f32], values: &[f32], d: usize, offset: usize) -> Vec<f32> {
    let tail = column.tail_start..column.tail_start + column.tail_len;
    let rows: Vec<usize> = (0..column.prefix).chain(tail).map(|row| row as usize * d + offset).collect();
    let scores: Vec<f32> = rows.iter().map(|&row| dot(query, &keys[row..row + query.len()])).collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f32 = weights.iter().sum();
    let mut out = vec![0.0; query.len()];
    for (weight, &row) in weights.iter().zip(&rows) {
        for (o, v) in out.iter_mut().zip(&values[row..row + query.len()]) {
            *o += weight * v;
        }
    }
    out.iter_mut().for_each(|o| *o /= sum);
    out
}

/// x σ(x).
fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// Exact GELU: x Φ(x), with the error function.
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// What the cache gives back of `values`; `None` when it cannot hold them.
pub(crate) fn stored(kv: Kv, mut values: Vec<f32>) -> Option<Vec<f32>> {
    if kv.first() == Kv::F16 {
        let most = half::f16::MAX.to_f32();
        if values.iter().any(|v| v.abs().partial_cmp(&most).is_none_or(|order| order.is_gt())) {
            return None;
        }
        values.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
    }
    Some(values)
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Sixteen running sums, so that the compiler can use vector registers.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}
