//! A model folder → its tensors by name, read by rows so that host memory does not grow with the model.

pub mod config;
mod encode;
pub(crate) mod fields;
mod gguf;
pub mod json;
mod quantized;
mod safetensors;
mod source;
mod torch;

pub use encode::{Encoder, Encoding, Entry, Tensor};
pub use gguf::GgufFolder;
pub use source::{BoxFuture, Folder, MemoryFolder, Source};

use crate::checkpoint::config::Config;
use crate::error::{Error, Result};
use crate::quantize::Quantization;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// An index.json lists a few hundred tensors, and some hold metadata; anything near this is not one.
const MAX_INDEX_BYTES: u64 = 32 << 20;
/// What wrappers of a model put before the names of its tensors: torch.compile, data-parallel training, the classes of transformers.
const PREFIXES: [&str; 3] = ["_orig_mod.", "module.", "model."];
/// The output head, which is the embedding where the two are tied.
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "embed_tokens.weight";

/// How a tensor's values are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    F16,
    Bf16,
    /// Quantized weights in 8 bits.
    I8,
    /// Quantized weights in 4 bits, two a byte.
    U8,
    /// In a way that is not read, by its name: accepted for tensors that nobody needs.
    Other(String),
}

impl Dtype {
    /// Bytes of a value; 0 where they are not read.
    fn bytes(&self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::I8 | Self::U8 => 1,
            Self::Other(_) => 0,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Other(name) => name,
        }
    }

    /// Little-endian bytes → f32. Exact.
    fn to_f32(&self, bytes: &[u8]) -> Vec<f32> {
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
            // Nobody asks: `check` has refused it, or it is read with its scales.
            Self::I8 | Self::U8 | Self::Other(_) => Vec::new(),
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
    /// Elements from one index of a dimension to the next.
    strides: Vec<usize>,
}

impl Stored {
    /// Elements from one row to the next and from one column to the next; a vector is one row.
    fn steps(&self) -> (u64, u64) {
        let step = |back: usize| self.strides.len().checked_sub(back).map_or(0, |i| self.strides[i] as u64);
        (step(2), step(1))
    }
}

/// The strides of a tensor whose elements lie in the order of its indices.
fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(shape[i]);
    }
    strides
}

/// The opened checkpoint of one model: exactly the tensors its [`Config`] calls for, shapes checked.
pub struct Checkpoint {
    sources: Vec<Box<dyn Source>>,
    tensors: BTreeMap<String, Stored>,
    /// What the model calls for, whether quantized or not.
    shapes: BTreeMap<String, Vec<usize>>,
    quantization: Option<Quantization>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("files", &self.sources.len()).field("tensors", &self.tensors.len()).finish()
    }
}

/// Which files hold the weights.
enum Files {
    Safetensors(Vec<Box<dyn Source>>),
    Torch(Vec<Box<dyn Source>>),
}

impl Checkpoint {
    /// Opens the weights in `folder` and checks every name and shape. The first of these that is there counts:
    /// `model.safetensors`, `model.safetensors.index.json` with its shards, `pytorch_model.bin`,
    /// `pytorch_model.bin.index.json` with its shards.
    ///
    /// Names may carry the prefix `model.` or not. Tables of positions are ignored: they are computed. Where the
    /// head is tied to the embedding the checkpoint may have it as `embed_tokens.weight`, as `lm_head.weight`, or as both.
    /// Nothing in a torch checkpoint is executed.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a missing or damaged file, [`Error::Tensor`] for a missing, unexpected or misshapen tensor.
    pub async fn open(folder: &dyn Folder, config: &Config) -> Result<Self> {
        let files = Self::files(folder).await?;
        let (Files::Safetensors(sources) | Files::Torch(sources)) = &files;
        let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
        for (i, source) in sources.iter().enumerate() {
            let found = match files {
                Files::Safetensors(_) => safetensors::read_header(source.as_ref(), i).await?,
                Files::Torch(_) => torch::read_tensors(source.as_ref(), i).await?,
            };
            for (name, stored) in found {
                let short = without_prefixes(&name);
                if config.architecture.ignores(short) {
                    continue;
                }
                let plain = matches!(stored.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
                if !plain && (config.quantization.is_none() || matches!(stored.dtype, Dtype::Other(_))) {
                    let dtype = stored.dtype.name();
                    return Err(Error::tensor(&name, format!("is stored as {dtype}; F32, F16 and BF16 are read")));
                }
                if let Some(before) = tensors.insert(short.to_owned(), stored) {
                    let (first, second) = (sources[before.source].name(), source.name());
                    let place = match first == second {
                        true => format!("twice in {first}, with and without a prefix"),
                        false => format!("twice in the checkpoint: in {first} and in {second}"),
                    };
                    return Err(Error::tensor(&name, format!("is {place}")));
                }
            }
        }
        let (Files::Safetensors(sources) | Files::Torch(sources)) = files;
        let shapes = config.recipe().tensors();
        let mut checkpoint = Self { sources, tensors, shapes, quantization: config.quantization };
        if config.tie_word_embeddings {
            checkpoint.untie(config)?;
        }
        checkpoint.check()?;
        Ok(checkpoint)
    }

    /// Of a tied head and embedding, which are one tensor, one stays.
    fn untie(&mut self, config: &Config) -> Result<()> {
        let Some(head) = self.tensors.remove(HEAD) else { return Ok(()) };
        let shape = [config.vocab_size, config.d_model];
        if head.shape != shape {
            return Err(misshapen(HEAD, &head.shape, &shape));
        }
        self.tensors.entry(EMBEDDING.to_owned()).or_insert(head);
        Ok(())
    }

    async fn files(folder: &dyn Folder) -> Result<Files> {
        if let Some(file) = folder.open("model.safetensors").await? {
            return Ok(Files::Safetensors(vec![file]));
        }
        if let Some(shards) = shards(folder, "model.safetensors.index.json").await? {
            return Ok(Files::Safetensors(shards));
        }
        if let Some(file) = folder.open("pytorch_model.bin").await? {
            return Ok(Files::Torch(vec![file]));
        }
        if let Some(shards) = shards(folder, "pytorch_model.bin.index.json").await? {
            return Ok(Files::Torch(shards));
        }
        let problem = "no such file in the model folder, and no pytorch_model.bin or index.json of either";
        Err(Error::checkpoint("model.safetensors", problem))
    }

    fn check(&self) -> Result<()> {
        let expected = self.expected();
        for (name, (shape, dtype)) in &expected {
            match self.tensors.get(name) {
                None if name == HEAD => {
                    let problem = "is missing from the checkpoint, and config.json has tie_word_embeddings false: a model whose \
                                   head is its embedding has it true";
                    return Err(Error::tensor(name, problem));
                }
                None => return Err(Error::tensor(name, "is missing from the checkpoint")),
                Some(stored) if &stored.shape != shape => return Err(misshapen(name, &stored.shape, shape)),
                Some(stored) => check_dtype(name, &stored.dtype, *dtype)?,
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

    /// Names (without prefixes) and shapes of all tensors; linear weights are [out, in]. A quantized one counts as what it was.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.shapes.iter().map(|(name, shape)| (name.as_str(), &shape[..]))
    }

    /// Rows `rows` of the tensor `name` (without the `model.` prefix) as f32, row-major; a vector is one row.
    ///
    /// # Errors
    /// [`Error::Tensor`] when a value is not finite, [`Error::Source`] when the bytes cannot be read.
    pub async fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        if let Some(format) = self.format(name) {
            return Ok(self.stored_rows(name, format, rows).await?.all_values());
        }
        let stored = self.stored(name)?;
        let mut bytes = vec![0; self.row_bytes(stored) * rows.len()];
        self.read(stored, rows.clone(), &mut bytes).await?;
        let values = stored.dtype.to_f32(&bytes);
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(not_finite(name, stored, &rows, i, values[i])),
            None => Ok(values),
        }
    }

    /// The same as fp16, rounded to nearest where the tensor is stored as f32 or bf16.
    ///
    /// # Errors
    /// As [`Checkpoint::rows`], and [`Error::Tensor`] for a value beyond the range of fp16.
    pub async fn halves(&self, name: &str, rows: Range<usize>) -> Result<Vec<f16>> {
        let columns = self.shapes.get(name).and_then(|shape| shape.last()).copied().unwrap_or(0);
        let mut halves = vec![f16::ZERO; columns * rows.len()];
        self.read_halves(name, rows, &mut halves).await?;
        Ok(halves)
    }

    /// Fills `out` [rows × columns] with what [`Checkpoint::halves`] returns.
    pub(crate) async fn read_halves(&self, name: &str, rows: Range<usize>, out: &mut [f16]) -> Result<()> {
        if self.format(name).is_some() {
            out.convert_from_f32_slice(&self.rows(name, rows.clone()).await?);
            return match out.iter().all(|half| half.is_finite()) {
                true => Ok(()),
                false => Err(Error::tensor(name, "holds values beyond the range of fp16, which is 65504")),
            };
        }
        let stored = self.stored(name)?;
        if stored.dtype == Dtype::F16 && cfg!(target_endian = "little") {
            self.read(stored, rows.clone(), bytemuck::cast_slice_mut(out)).await?;
            // A plain pass first: it runs at the speed of memory, `position` does not.
            if out.iter().fold(false, |any, half| any | (half.to_bits() & 0x7c00 == 0x7c00))
                && let Some(i) = out.iter().position(|half| !half.is_finite())
            {
                return Err(not_finite(name, stored, &rows, i, out[i].to_f32()));
            }
            return Ok(());
        }
        let values = self.rows(name, rows.clone()).await?;
        out.convert_from_f32_slice(&values);
        match out.iter().position(|half| !half.is_finite()) {
            Some(i) => {
                let (row, column) = (rows.start + i / columns(stored), i % columns(stored));
                let problem = format!(
                    "holds {} at row {row}, column {column}: beyond the range of fp16, which is 65504; the CPU computes in fp32",
                    values[i]
                );
                Err(Error::tensor(name, problem))
            }
            None => Ok(()),
        }
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| Error::tensor(name, "is missing from the checkpoint"))
    }

    fn row_bytes(&self, stored: &Stored) -> usize {
        columns(stored) * stored.dtype.bytes()
    }

    /// The bytes of some rows, in as few reads as the tensor's strides allow.
    async fn read(&self, stored: &Stored, rows: Range<usize>, out: &mut [u8]) -> Result<()> {
        let source = &self.sources[stored.source];
        let (element, row_bytes) = (stored.dtype.bytes(), self.row_bytes(stored));
        let (row_step, column_step) = stored.steps();
        let at = |row: usize, column: usize| {
            stored.offset + (row as u64 * row_step + column as u64 * column_step) * element as u64
        };
        if column_step == 1 && (rows.len() == 1 || row_step * element as u64 == row_bytes as u64) {
            return source.read(at(rows.start, 0), out).await;
        }
        if column_step == 1 {
            for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes.max(1))) {
                source.read(at(row, 0), out).await?;
            }
            return Ok(());
        }
        // A transposed matrix comes column by column; one with gaps both ways, as nothing saves them, value by value.
        let run = if row_step == 1 { rows.len() } else { 1 };
        let mut values = vec![0; run * element];
        for column in 0..row_bytes / element {
            for first in rows.clone().step_by(run.max(1)) {
                source.read(at(first, column), &mut values).await?;
                for (i, value) in values.chunks_exact(element).enumerate() {
                    let to = (first - rows.start + i) * row_bytes + column * element;
                    out[to..to + element].copy_from_slice(value);
                }
            }
        }
        Ok(())
    }
}

fn columns(stored: &Stored) -> usize {
    stored.shape.last().copied().unwrap_or(0)
}

fn not_finite(name: &str, stored: &Stored, rows: &Range<usize>, i: usize, value: f32) -> Error {
    let (row, column) = (rows.start + i / columns(stored), i % columns(stored));
    Error::tensor(name, format!("holds {value} at row {row}, column {column}: the checkpoint is damaged"))
}

/// The files that the index `name` names; `None` when there is no such index.
async fn shards(folder: &dyn Folder, name: &str) -> Result<Option<Vec<Box<dyn Source>>>> {
    let Some(index) = folder.open(name).await? else { return Ok(None) };
    let text = source::text(index.as_ref(), MAX_INDEX_BYTES).await?;
    let index = json::parse(&text).map_err(|problem| Error::checkpoint(name, problem))?;
    let Some(map) = index.get("weight_map").and_then(serde_json::Value::as_object).filter(|map| !map.is_empty()) else {
        return Err(Error::checkpoint(name, "names no shards: it has no weight_map, or an empty one"));
    };
    let mut shards = BTreeSet::new();
    for (tensor, shard) in map {
        let problem = || Error::checkpoint(name, format!("names {shard} as the file of {tensor}: not a file name"));
        shards.insert(shard.as_str().ok_or_else(problem)?);
    }
    let mut files = Vec::new();
    for shard in shards {
        // A shard is a file of the same folder; a path would let an index read anywhere.
        if shard.contains(['/', '\\', ':']) {
            return Err(Error::checkpoint(name, format!("names the shard {shard:?}, which is not a plain file name")));
        }
        let missing = || Error::checkpoint(shard, format!("no such file in the model folder ({name} names it)"));
        files.push(folder.open(shard).await?.ok_or_else(missing)?);
    }
    Ok(Some(files))
}

/// Whether a tensor is stored as it has to be: `None` stands for any format of plain numbers.
fn check_dtype(name: &str, stored: &Dtype, expected: Option<&str>) -> Result<()> {
    match expected {
        Some(expected) if stored.name() != expected => {
            let problem = format!("is stored as {}, config.json calls for {expected}", stored.name());
            Err(Error::tensor(name, problem))
        }
        None if stored.bytes() < 2 => {
            Err(Error::tensor(name, format!("is stored as {}; F32, F16 and BF16 are read", stored.name())))
        }
        _ => Ok(()),
    }
}

fn misshapen(name: &str, stored: &[usize], expected: &[usize]) -> Error {
    Error::tensor(name, format!("has shape {stored:?}, config.json calls for {expected:?}"))
}

/// The name of a tensor inside its model.
fn without_prefixes(name: &str) -> &str {
    let mut short = name;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| short.strip_prefix(prefix)) {
        short = rest;
    }
    short
}
