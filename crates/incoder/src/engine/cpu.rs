//! The model in plain single precision on the CPU: the oracle of every kernel, and the engine of a machine without a GPU.
//!
//! Source: `XGLMForCausalLM` of Hugging Face transformers 4.46. Written to be read: one loop for each line of the paper's
//! arithmetic, no blocking, no threads.

use crate::checkpoint::config::Config;
use crate::engine::forward::{Column, Kv, sinusoids};
use crate::engine::tensors::Tensors;
use crate::error::{Error, Result};
use crate::quantize::Rows;

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

/// y = W x + b for W [outputs, inputs].
#[derive(Debug)]
pub(crate) struct Linear {
    pub weight: Matrix,
    /// [outputs].
    pub bias: Vec<f32>,
}

impl Linear {
    async fn load(tensors: &Tensors, name: &str, outputs: usize, inputs: usize) -> Result<Self> {
        let weight = Matrix::load(tensors, &format!("{name}.weight"), [outputs, inputs]).await?;
        let bias = tensors.rows(&format!("{name}.bias"), 0..1).await?;
        Ok(Self { weight, bias })
    }

    /// [outputs] of one input row.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut y = self.weight.product(x);
        add(&mut y, &self.bias);
        y
    }
}

/// Scale and shift of a layer norm, both [d_model].
#[derive(Debug)]
pub(crate) struct Norm {
    /// [d_model].
    pub weight: Vec<f32>,
    /// [d_model].
    pub bias: Vec<f32>,
}

impl Norm {
    async fn load(tensors: &Tensors, name: &str) -> Result<Self> {
        let weight = tensors.rows(&format!("{name}.weight"), 0..1).await?;
        let bias = tensors.rows(&format!("{name}.bias"), 0..1).await?;
        Ok(Self { weight, bias })
    }

    /// Layer norm of one row: eps 1e-5, biased variance.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let n = x.len() as f32;
        let mean = x.iter().sum::<f32>() / n;
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
        let scale = 1.0 / (variance + 1e-5).sqrt();
        x.iter().zip(&self.weight).zip(&self.bias).map(|((v, w), b)| (v - mean) * scale * w + b).collect()
    }
}

#[derive(Debug)]
pub(crate) struct Layer {
    pub attention_norm: Norm,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub out: Linear,
    pub ffn_norm: Norm,
    pub fc1: Linear,
    pub fc2: Linear,
    /// [capacity, d_model] each.
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// A loaded model on the CPU with its KV cache.
#[derive(Debug)]
pub(crate) struct Reference {
    config: Config,
    kv: Kv,
    capacity: usize,
    /// The KV cache at hand: its number.
    slot: usize,
    /// The keys and values of the others, layer by layer.
    parked: Vec<Vec<[Vec<f32>; 2]>>,
    /// [vocab, d_model], also the head unless that is its own.
    embedding: Matrix,
    /// [vocab, d_model]; `None` where it is the embedding.
    head: Option<Matrix>,
    positions: Vec<f32>,
    pub layers: Vec<Layer>,
    pub final_norm: Norm,
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
        let (d, f) = (config.d_model, config.ffn_dim);
        check_room(capacity.saturating_mul(d).saturating_mul(2 * config.num_layers + 1))?;
        let table = [config.vocab_size, d];
        let embedding = Matrix::load(tensors, "embed_tokens.weight", table).await?;
        loaded((config.vocab_size * d) as u64);
        let head = match config.tie_word_embeddings {
            true => None,
            false => {
                let head = Matrix::load(tensors, config.head_name(), table).await?;
                loaded((config.vocab_size * d) as u64);
                Some(head)
            }
        };
        let mut layers = Vec::with_capacity(config.num_layers);
        for i in 0..config.num_layers {
            let at = |name: &str| format!("layers.{i}.{name}");
            layers.push(Layer {
                attention_norm: Norm::load(tensors, &at("self_attn_layer_norm")).await?,
                query: Linear::load(tensors, &at("self_attn.q_proj"), d, d).await?,
                key: Linear::load(tensors, &at("self_attn.k_proj"), d, d).await?,
                value: Linear::load(tensors, &at("self_attn.v_proj"), d, d).await?,
                out: Linear::load(tensors, &at("self_attn.out_proj"), d, d).await?,
                ffn_norm: Norm::load(tensors, &at("final_layer_norm")).await?,
                fc1: Linear::load(tensors, &at("fc1"), f, d).await?,
                fc2: Linear::load(tensors, &at("fc2"), d, f).await?,
                keys: vec![0.0; capacity * d],
                values: vec![0.0; capacity * d],
            });
            loaded((4 * d * d + 2 * d * f) as u64);
        }
        Ok(Self {
            config: config.clone(),
            kv: kv.first(),
            capacity,
            slot: 0,
            parked: Vec::new(),
            embedding,
            head,
            positions: sinusoids(0..capacity, d),
            layers,
            final_norm: Norm::load(tensors, "layer_norm").await?,
        })
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
        let values = self.capacity * self.config.d_model;
        let count = self.parked.len().max(slot.max(self.slot) + 1);
        self.parked.resize_with(count, Vec::new);
        if slot != self.slot && self.parked[slot].is_empty() {
            check_room(values.saturating_mul(2 * self.layers.len()))?;
            self.parked[slot] = self.layers.iter().map(|_| [vec![0.0; values], vec![0.0; values]]).collect();
        }
        let mut chosen = std::mem::take(&mut self.parked[slot]);
        for (layer, [keys, values]) in self.layers.iter_mut().zip(&mut chosen) {
            std::mem::swap(&mut layer.keys, keys);
            std::mem::swap(&mut layer.values, values);
        }
        self.parked[self.slot] = chosen;
        self.slot = slot;
        Ok(())
    }

    /// One step: appends every column to the cache; the logits [vocab] after each of the last `logits` columns.
    ///
    /// # Errors
    /// [`Error::KvOverflow`] when the cache cannot hold a key or a value.
    pub fn forward(&mut self, columns: &[Column], logits: usize) -> Result<Vec<Vec<f32>>> {
        let (d, heads, head_dim) = (self.config.d_model, self.config.heads, self.config.head_dim());
        let mut x: Vec<Vec<f32>> = columns.iter().map(|column| self.embedded(column)).collect();
        for (i, layer) in self.layers.iter_mut().enumerate() {
            let mut queries = Vec::with_capacity(columns.len());
            for (column, x) in columns.iter().zip(&x) {
                let h = layer.attention_norm.apply(x);
                let row = column.row as usize * d..(column.row as usize + 1) * d;
                let fits = |what, values| stored(self.kv, values).ok_or(Error::KvOverflow { what, layer: i });
                layer.keys[row.clone()].copy_from_slice(&fits("keys", layer.key.apply(&h))?);
                layer.values[row].copy_from_slice(&fits("values", layer.value.apply(&h))?);
                let scale = (head_dim as f32).powf(-0.5);
                queries.push(layer.query.apply(&h).into_iter().map(|q| q * scale).collect::<Vec<f32>>());
            }
            for ((column, query), x) in columns.iter().zip(&queries).zip(&mut x) {
                let mixed: Vec<f32> = (0..heads)
                    .flat_map(|head| {
                        let at = head * head_dim..(head + 1) * head_dim;
                        attend(column, &query[at.clone()], &layer.keys, &layer.values, d, at.start)
                    })
                    .collect();
                add(x, &layer.out.apply(&mixed));
                let h = layer.ffn_norm.apply(x);
                let inner: Vec<f32> = layer.fc1.apply(&h).into_iter().map(gelu).collect();
                add(x, &layer.fc2.apply(&inner));
            }
        }
        Ok(x[columns.len() - logits..].iter().map(|x| self.head(&self.final_norm.apply(x))).collect())
    }

    /// E[token] * scale + P[position], [d_model].
    pub fn embedded(&self, column: &Column) -> Vec<f32> {
        let d = self.config.d_model;
        let scale = if self.config.scale_embedding { (d as f32).sqrt() } else { 1.0 };
        let embedded = self.embedding.row(column.token as usize);
        let position = &self.positions[column.position as usize * d..][..d];
        embedded.iter().zip(position).map(|(e, p)| e * scale + p).collect()
    }

    /// E h, or W h of a head of its own: [vocab].
    pub fn head(&self, h: &[f32]) -> Vec<f32> {
        self.head.as_ref().unwrap_or(&self.embedding).product(h)
    }
}

/// Asks for room for the KV cache and the positions before any of it is taken: running out later would end the program.
fn check_room(values: usize) -> Result<()> {
    let what = "the KV cache (ask for a shorter context)".to_owned();
    let need = (values as u64).saturating_mul(4);
    Vec::<f32>::new().try_reserve_exact(values).map_err(|_| Error::OutOfMemory { what, need })
}

/// softmax(q Kᵀ) V of one head, whose slice of every cache row [d] begins at `offset`.
pub(crate) fn attend(
    column: &Column,
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    d: usize,
    offset: usize,
) -> Vec<f32> {
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

/// Exact GELU: x Φ(x), with the error function.
pub(crate) fn gelu(x: f32) -> f32 {
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
