//! A model folder → its tensors by name, read by rows so that host memory does not grow with the model.

mod safetensors;
mod source;

pub use source::{BoxFuture, Folder, MemoryFolder, Source};

use crate::config::Config;
use crate::error::{Error, Result};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::ops::Range;

/// An index.json lists a few hundred tensors; anything near this is not one.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// How a tensor's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Little-endian bytes → f32. Exact.
    fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        let two = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
        match self {
            Self::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Self::F16 => {
                let halves: Vec<f16> = bytes.chunks_exact(2).map(|b| f16::from_bits(two(b))).collect();
                let mut out = vec![0.0; halves.len()];
                halves.convert_to_f32_slice(&mut out);
                out
            }
            Self::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_bits(two(b)).to_f32()).collect(),
        }
    }
}

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    source: usize,
    offset: u64,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// The opened checkpoint of one model: exactly the tensors its [`Config`] calls for, shapes checked.
pub struct Checkpoint {
    sources: Vec<Box<dyn Source>>,
    tensors: BTreeMap<String, Stored>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("files", &self.sources.len()).field("tensors", &self.tensors.len()).finish()
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, and checks every name and shape.
    ///
    /// Names may carry the prefix `model.` or not; `lm_head.weight` and `embed_positions.weights` are ignored
    /// (the head is tied, the positions are computed).
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a missing or damaged file, [`Error::Tensor`] for a missing, unexpected or misshapen tensor.
    pub async fn open(folder: &dyn Folder, config: &Config) -> Result<Self> {
        let sources = Self::files(folder).await?;
        let mut tensors = BTreeMap::new();
        for (i, source) in sources.iter().enumerate() {
            for (name, stored) in safetensors::read_header(source.as_ref(), i).await? {
                let short = name.strip_prefix("model.").unwrap_or(&name);
                if short == "lm_head.weight" || short == "embed_positions.weights" {
                    continue;
                }
                if tensors.insert(short.to_owned(), stored).is_some() {
                    return Err(Error::tensor(&name, "appears twice in the checkpoint"));
                }
            }
        }
        let checkpoint = Self { sources, tensors };
        checkpoint.check(config)?;
        Ok(checkpoint)
    }

    async fn files(folder: &dyn Folder) -> Result<Vec<Box<dyn Source>>> {
        if let Some(file) = folder.open("model.safetensors").await? {
            return Ok(vec![file]);
        }
        let name = "model.safetensors.index.json";
        let Some(index) = folder.open(name).await? else {
            let problem = match folder.open("pytorch_model.bin").await? {
                Some(_) => "is a torch checkpoint, which is not read yet; convert it to safetensors",
                None => "no such file in the model folder, and no model.safetensors.index.json either",
            };
            let file = if problem.starts_with("is") { "pytorch_model.bin" } else { "model.safetensors" };
            return Err(Error::checkpoint(file, problem));
        };
        let index: Index = serde_json::from_str(&source::text(index.as_ref(), MAX_INDEX_BYTES).await?)
            .map_err(|e| Error::checkpoint(name, format!("not a safetensors index: {e}")))?;
        let mut shards: Vec<&String> = index.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        if shards.is_empty() {
            return Err(Error::checkpoint(name, "names no shards"));
        }
        let mut files = Vec::new();
        for shard in shards {
            // A shard is a file of the same folder; a path would let an index read anywhere.
            if shard.contains(['/', '\\']) {
                return Err(Error::checkpoint(
                    name,
                    format!("names the shard {shard:?}, which is not a plain file name"),
                ));
            }
            let missing = || Error::checkpoint(shard, format!("no such file in the model folder ({name} names it)"));
            files.push(folder.open(shard).await?.ok_or_else(missing)?);
        }
        Ok(files)
    }

    fn check(&self, config: &Config) -> Result<()> {
        let expected = tensor_shapes(config);
        for (name, shape) in &expected {
            match self.tensors.get(name) {
                None => return Err(Error::tensor(name, "is missing from the checkpoint")),
                Some(stored) if &stored.shape != shape => {
                    let problem = format!("has shape {:?}, config.json calls for {shape:?}", stored.shape);
                    return Err(Error::tensor(name, problem));
                }
                Some(_) => {}
            }
        }
        match self.tensors.keys().find(|name| !expected.contains_key(*name)) {
            Some(name) => Err(Error::tensor(name, "is not part of an InCoder model with this config.json")),
            None => Ok(()),
        }
    }

    /// Bytes of all tensors as stored.
    pub fn stored_bytes(&self) -> u64 {
        self.tensors.values().map(|t| (t.shape.iter().product::<usize>() * t.dtype.bytes()) as u64).sum()
    }

    /// Rows `rows` of the tensor `name` (without the `model.` prefix) as f32, row-major; a vector is one row.
    ///
    /// # Errors
    /// [`Error::Tensor`] when a value is not finite, [`Error::Source`] when the bytes cannot be read.
    pub(crate) async fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let stored = self.tensors.get(name).ok_or_else(|| Error::tensor(name, "is missing from the checkpoint"))?;
        let columns = stored.shape.last().copied().unwrap_or(0);
        let row_bytes = columns * stored.dtype.bytes();
        let mut bytes = vec![0; rows.len() * row_bytes];
        let offset = stored.offset + (rows.start * row_bytes) as u64;
        self.sources[stored.source].read(offset, &mut bytes).await?;
        let values = stored.dtype.to_f32(&bytes);
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => {
                let (row, column) = (rows.start + i / columns, i % columns);
                Err(Error::tensor(
                    name,
                    format!("holds {} at row {row}, column {column}: the checkpoint is damaged", values[i]),
                ))
            }
            None => Ok(values),
        }
    }
}

/// The shape of every tensor of a model, by its name without the `model.` prefix. Linear weights are [out, in].
pub(crate) fn tensor_shapes(config: &Config) -> BTreeMap<String, Vec<usize>> {
    let (d, f) = (config.d_model, config.ffn_dim);
    let mut shapes = BTreeMap::new();
    shapes.insert("embed_tokens.weight".to_owned(), vec![config.vocab_size, d]);
    for part in ["weight", "bias"] {
        shapes.insert(format!("layer_norm.{part}"), vec![d]);
    }
    for layer in 0..config.num_layers {
        let linear = ["q", "k", "v", "out"].map(|p| (format!("self_attn.{p}_proj"), d, d));
        for (name, out, inputs) in linear.into_iter().chain([("fc1".to_owned(), f, d), ("fc2".to_owned(), d, f)]) {
            shapes.insert(format!("layers.{layer}.{name}.weight"), vec![out, inputs]);
            shapes.insert(format!("layers.{layer}.{name}.bias"), vec![out]);
        }
        for norm in ["self_attn_layer_norm", "final_layer_norm"] {
            shapes.insert(format!("layers.{layer}.{norm}.weight"), vec![d]);
            shapes.insert(format!("layers.{layer}.{norm}.bias"), vec![d]);
        }
    }
    shapes
}
