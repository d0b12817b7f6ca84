//! GGUF, the format of llama.cpp: one file that has everything a model folder has.
//!
//! [`GgufFolder`] shows such a file as a model folder: its metadata as `config.json` and `tokenizer.json`, and its tensors as a
//! `model.safetensors` in single precision, of which each part is unpacked when it is read. Whatever reads model folders reads it.

mod blocks;
mod config;
mod header;
mod tokenizer;

use super::source::{BoxFuture, Folder, MemoryFolder, Source};
use crate::error::{Error, Result};
use header::{Header, Tensor};
use serde_json::json;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A GGUF file as a model folder.
#[derive(Clone)]
pub struct GgufFolder {
    texts: MemoryFolder,
    weights: Rc<Weights>,
}

impl std::fmt::Debug for GgufFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GgufFolder").field("tensors", &self.weights.tensors.len()).finish()
    }
}

impl GgufFolder {
    /// Reads the header of `file`: metadata, vocabulary, and where the tensors are.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file that is no GGUF file, damaged or cut off; [`Error::Unsupported`] for a model of another
    /// architecture or a vocabulary of another kind; [`Error::Tensor`] for a tensor of a type that is not read.
    pub async fn open(file: Box<dyn Source>) -> Result<Self> {
        let header = Header::read(file.as_ref()).await?;
        let names = header.tensors.keys().map(String::as_str).collect();
        let model = config::Model::read(&header.metadata, &names)?;
        let tokenizer = tokenizer::tokenizer_json(&header.metadata)?;
        let weights = Weights::new(file, header.tensors, &model)?;
        let texts = MemoryFolder::default()
            .with("config.json", model.config_json.to_string().into_bytes())
            .with("tokenizer.json", tokenizer.to_string().into_bytes());
        Ok(Self { texts, weights: Rc::new(weights) })
    }
}

impl Folder for GgufFolder {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Box<dyn Source>>>> {
        match name {
            "model.safetensors" => {
                let weights: Box<dyn Source> = Box::new(Unpacked(Rc::clone(&self.weights)));
                Box::pin(async move { Ok(Some(weights)) })
            }
            _ => self.texts.open(name),
        }
    }
}

/// A tensor as it is shown.
struct Shown {
    tensor: Tensor,
    /// Where its values begin in the file that is shown.
    first: u64,
    /// Heads whose rows llama.cpp has in another order; 0 where it has not.
    heads: usize,
}

impl Shown {
    fn row_bytes(&self) -> u64 {
        4 * self.tensor.columns as u64
    }

    fn bytes(&self) -> u64 {
        self.row_bytes() * self.tensor.rows as u64
    }

    /// The row of the file that is shown as row `row`. llama.cpp has the two values of a pair that is rotated side by side.
    fn stored_row(&self, row: usize) -> usize {
        if self.heads == 0 {
            return row;
        }
        let head_dim = self.tensor.rows / self.heads;
        let (head, within) = (row / head_dim, row % head_dim);
        let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
        head * head_dim + 2 * pair + half
    }
}

/// The tensors of a file as safetensors in single precision.
struct Weights {
    file: Box<dyn Source>,
    /// The length and the JSON of the safetensors header.
    header: Vec<u8>,
    /// In the order in which they are shown.
    tensors: Vec<Shown>,
    size: u64,
}

impl Weights {
    fn new(file: Box<dyn Source>, tensors: BTreeMap<String, Tensor>, model: &config::Model) -> Result<Self> {
        let (mut entries, mut shown, mut offset) = (serde_json::Map::new(), Vec::new(), 0);
        for (name, tensor) in tensors {
            let Some((name, heads)) = model.name(&name) else {
                return Err(Error::tensor(&name, "is not part of a model of the Llama family"));
            };
            if heads > tensor.rows || heads > 0 && !tensor.rows.is_multiple_of(2 * heads) {
                let problem = format!("has {} rows, which {heads} heads do not share out", tensor.rows);
                return Err(Error::tensor(&name, problem));
            }
            let shape = if tensor.is_vector { vec![tensor.columns] } else { vec![tensor.rows, tensor.columns] };
            let one = Shown { tensor, first: offset, heads };
            offset += one.bytes();
            entries.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [one.first, offset]}));
            shown.push(one);
        }
        let json = serde_json::Value::Object(entries).to_string().into_bytes();
        let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
        let size = header.len() as u64 + offset;
        shown.iter_mut().for_each(|one| one.first += header.len() as u64);
        Ok(Self { file, header, tensors: shown, size })
    }

    /// Fills `out` with what is shown from `offset` on: whole rows are unpacked, of the first and the last a part may be wanted.
    async fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut at = offset;
        let end = offset + out.len() as u64;
        let mut put = |from: u64, bytes: &[u8]| {
            let (first, last) = (from.max(offset), (from + bytes.len() as u64).min(end));
            if first < last {
                let part = &bytes[(first - from) as usize..(last - from) as usize];
                out[(first - offset) as usize..(last - offset) as usize].copy_from_slice(part);
            }
        };
        put(0, &self.header);
        at = at.max(self.header.len() as u64);
        let (mut packed, mut values) = (Vec::new(), Vec::new());
        let first = self.tensors.partition_point(|one| one.first + one.bytes() <= at);
        for one in &self.tensors[first..] {
            if one.first >= end {
                break;
            }
            let Tensor { kind, columns, .. } = one.tensor;
            let row_bytes = kind.bytes(columns);
            let mut row = ((at.max(one.first) - one.first) / one.row_bytes()) as usize;
            let rows = (end.min(one.first + one.bytes()) - one.first).div_ceil(one.row_bytes()) as usize;
            while row < rows {
                // Rows that the file has one after the other are read together.
                let stored = one.stored_row(row);
                let run = (1..rows - row).take_while(|&i| one.stored_row(row + i) == stored + i).count() + 1;
                packed.resize(run * row_bytes, 0);
                self.file.read(one.tensor.offset + stored as u64 * row_bytes as u64, &mut packed).await?;
                values.clear();
                kind.unpack(&packed, &mut values);
                put(one.first + row as u64 * one.row_bytes(), bytemuck::cast_slice(&values));
                row += run;
            }
        }
        Ok(())
    }
}

/// The file that is shown.
struct Unpacked(Rc<Weights>);

impl Source for Unpacked {
    fn name(&self) -> &str {
        self.0.file.name()
    }

    fn size(&self) -> u64 {
        self.0.size
    }

    fn read<'a>(&'a self, offset: u64, out: &'a mut [u8]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (name, size) = (self.name(), self.size());
            match offset.checked_add(out.len() as u64) {
                Some(end) if end <= size => self.0.read(offset, out).await,
                _ => Err(Error::Source {
                    file: name.to_owned(),
                    problem: format!("{} bytes wanted at {offset}, there are {size}", out.len()),
                }),
            }
        })
    }
}
