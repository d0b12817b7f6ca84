//! A checkpoint's tensors → the bytes of a safetensors file, one piece after the other: nothing of it has to be in memory together.

use super::{Checkpoint, json};
use crate::error::Result;
use crate::quantize::{Part, Quantization};
use serde_json::{Map, Value, json};
use std::ops::Range;

/// Values of a tensor that are in memory at a time.
const CHUNK_VALUES: usize = 1 << 20;

/// What values become in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// All in fp16.
    F16,
    /// All in fp32.
    F32,
    /// The matrices quantized, all others in fp32: these are a thousandth of a model.
    Quantized(Quantization),
}

impl Encoding {
    /// What matrices are quantized to.
    pub fn quantization(self) -> Option<Quantization> {
        match self {
            Self::Quantized(quantization) => Some(quantization),
            _ => None,
        }
    }

    /// The text of a model's config.json for weights that are encoded so, and the fields that were left out of it because JSON has no
    /// such numbers. transformers 5 calls the type `dtype`, those before `torch_dtype`.
    ///
    /// # Errors
    /// What is wrong with `config`, where it is no JSON object.
    pub fn config(self, config: &str) -> std::result::Result<(String, Vec<String>), String> {
        let (mut config, left_out) = json::strict_fields(config)?;
        let known: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|name| config.contains_key(*name)).collect();
        config.remove("quantization_config");
        if let Some(quantization) = self.quantization() {
            config.insert("quantization_config".to_owned(), quantization.config());
        }
        // What is computed with.
        let dtype = if self == Self::F32 { "float32" } else { "float16" };
        for name in if known.is_empty() { vec!["torch_dtype"] } else { known } {
            config.insert(name.to_owned(), json!(dtype));
        }
        Ok((format!("{:#}\n", Value::Object(config)), left_out))
    }
}

/// One tensor of a model, by its name without the `model.` prefix.
#[derive(Debug, Clone)]
pub struct Tensor {
    name: String,
    shape: Vec<usize>,
}

/// A tensor as it is in a file.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As transformers calls it.
    pub name: String,
    /// As safetensors calls it.
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: u64,
}

impl Tensor {
    /// What it is in the file: a quantized matrix is several tensors, the first of them its weights.
    pub fn entries(&self, encoding: Encoding) -> Vec<Entry> {
        let bytes = |shape: &[usize], each: u64| shape.iter().product::<usize>() as u64 * each;
        let quantization = encoding.quantization();
        let parts = quantization.map_or(Vec::new(), |quantization| quantization.parts(&self.name, &self.shape));
        if parts.is_empty() {
            let (dtype, each) = if encoding == Encoding::F16 { ("F16", 2) } else { ("F32", 4) };
            let (name, shape, bytes) = (full(&self.name), self.shape.clone(), bytes(&self.shape, each));
            return vec![Entry { name, dtype, shape, bytes }];
        }
        let entry = |part: Part| {
            let bytes = bytes(&part.shape, if part.dtype == "F16" { 2 } else { 1 });
            Entry { name: full(&part.name), dtype: part.dtype, shape: part.shape.to_vec(), bytes }
        };
        parts.into_iter().map(entry).collect()
    }

    /// All bytes of it in the file.
    pub fn bytes(&self, encoding: Encoding) -> u64 {
        self.entries(encoding).iter().map(|entry| entry.bytes).sum()
    }

    /// A vector is one row.
    fn rows(&self) -> usize {
        if self.shape.len() == 1 { 1 } else { self.shape[0] }
    }

    /// Rows that are in memory together.
    fn rows_at_once(&self) -> usize {
        let columns = self.shape.last().copied().unwrap_or(0);
        (CHUNK_VALUES / columns.max(1)).max(1)
    }
}

/// The name that transformers gives a tensor: the head of the model is no part of its trunk.
fn full(name: &str) -> String {
    if name.starts_with("lm_head.") { name.to_owned() } else { format!("model.{name}") }
}

impl Checkpoint {
    /// All tensors, by name.
    pub fn tensors(&self) -> Vec<Tensor> {
        self.shapes().map(|(name, shape)| Tensor { name: name.to_owned(), shape: shape.to_vec() }).collect()
    }

    /// All tensors in the order in which the files have them, so that encoding them reads these from front to back.
    pub fn tensors_as_stored(&self) -> Vec<Tensor> {
        let mut tensors = self.tensors();
        let place = |tensor: &Tensor| {
            let stored =
                self.tensors.get(&tensor.name).or_else(|| self.tensors.get(&format!("{}_packed", tensor.name)));
            stored.map(|stored| (stored.source, stored.offset))
        };
        tensors.sort_by_key(place);
        tensors
    }

    /// The bytes of some rows, for each of the tensor's entries.
    async fn encoded(&self, tensor: &Tensor, rows: Range<usize>, encoding: Encoding) -> Result<Vec<Vec<u8>>> {
        let name = tensor.name.as_str();
        match encoding {
            Encoding::Quantized(quantization) if tensor.shape.len() > 1 => {
                Ok(self.quantized(name, rows, quantization).await?.into_bytes())
            }
            Encoding::F16 => {
                let halves = self.halves(name, rows).await?;
                Ok(vec![halves.iter().flat_map(|half| half.to_le_bytes()).collect()])
            }
            _ => {
                let values = self.rows(name, rows).await?;
                Ok(vec![values.iter().flat_map(|value| value.to_le_bytes()).collect()])
            }
        }
    }
}

/// Makes the bytes of one safetensors file.
#[derive(Debug)]
pub struct Encoder<'a> {
    checkpoint: &'a Checkpoint,
    encoding: Encoding,
    tensors: Vec<Tensor>,
    header: Vec<u8>,
    /// Whether the header has been given out.
    begun: bool,
    /// The tensor at hand, and its first row that has not been given out.
    tensor: usize,
    row: usize,
    /// The scales and minima of its rows so far, a few megabytes: they follow all of its weights.
    following: Vec<Vec<u8>>,
}

impl<'a> Encoder<'a> {
    /// Of `tensors`, in this order.
    pub fn new(checkpoint: &'a Checkpoint, tensors: Vec<Tensor>, encoding: Encoding) -> Self {
        let header = header(&tensors, encoding);
        Self { checkpoint, encoding, tensors, header, begun: false, tensor: 0, row: 0, following: Vec::new() }
    }

    /// Bytes of the whole file.
    pub fn bytes(&self) -> u64 {
        let tensors = self.tensors.iter().map(|tensor| tensor.bytes(self.encoding));
        self.header.len() as u64 + tensors.sum::<u64>()
    }

    /// What the file begins with, which says where in it each tensor lies.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Leaves out what lies whole within the first `kept` bytes of the file, which an earlier run wrote. Where in the file the next
    /// piece belongs: at the beginning of a tensor, at `kept` or before it.
    pub fn go_on(&mut self, kept: u64) -> u64 {
        let mut end = self.header.len() as u64;
        if kept < end {
            return 0;
        }
        self.begun = true;
        for tensor in &self.tensors {
            let next = end + tensor.bytes(self.encoding);
            if next > kept {
                break;
            }
            self.tensor += 1;
            end = next;
        }
        end
    }

    /// The next bytes of the file; `None` after the last ones.
    ///
    /// # Errors
    /// As [`Checkpoint::rows`], [`Checkpoint::halves`] and [`Checkpoint::quantized`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        if !self.begun {
            self.begun = true;
            return Ok(Some(self.header.clone()));
        }
        while let Some(tensor) = self.tensors.get(self.tensor) {
            if self.row < tensor.rows() {
                let rows = self.row..(self.row + tensor.rows_at_once()).min(tensor.rows());
                self.row = rows.end;
                let mut parts = self.checkpoint.encoded(tensor, rows, self.encoding).await?.into_iter();
                let first = parts.next();
                for (i, part) in parts.enumerate() {
                    match self.following.get_mut(i) {
                        Some(following) => following.extend(part),
                        None => self.following.push(part),
                    }
                }
                return Ok(first);
            }
            (self.tensor, self.row) = (self.tensor + 1, 0);
            if !self.following.is_empty() {
                return Ok(Some(std::mem::take(&mut self.following).concat()));
            }
        }
        Ok(None)
    }
}

/// The length and the JSON that a safetensors file begins with, padded so that the tensors are aligned to 8 bytes.
fn header(tensors: &[Tensor], encoding: Encoding) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut start = 0;
    for Entry { name, dtype, shape, bytes } in tensors.iter().flat_map(|tensor| tensor.entries(encoding)) {
        let end = start + bytes;
        entries.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
        start = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}
