//! The header of a GGUF file: its metadata, and where its tensors lie.
//!
//! Source: the specification in ggml's `docs/gguf.md`, versions 2 and 3, little-endian.

use super::blocks::Kind;
use crate::checkpoint::Source;
use crate::checkpoint::fields::shown;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Bytes that are read at a time.
const CHUNK_BYTES: u64 = 256 << 10;
/// A vocabulary of 256,000 tokens with its merges has some 10 MB; what has more is none.
const MAX_METADATA_BYTES: u64 = 256 << 20;
/// A file has a few dozen of these.
const MAX_FIELDS: u64 = 1 << 12;
/// A model has some ten tensors a layer.
const MAX_TENSORS: u64 = 1 << 16;
/// Values of all lists together: a vocabulary of 256,000 tokens has three or four lists of about that size.
const MAX_VALUES: u64 = 1 << 22;
/// Arrays of arrays are in no file.
const MAX_DEPTH: usize = 2;

/// A tensor: its rows lie one after the other, each in whole blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub kind: Kind,
    /// 1 for a vector.
    pub rows: usize,
    pub columns: usize,
    /// Whether it is a vector.
    pub is_vector: bool,
    /// From the beginning of the file on.
    pub offset: u64,
}

/// What a file says of itself.
#[derive(Debug)]
pub(super) struct Header {
    /// As JSON has it; a number that JSON has not is null.
    pub metadata: Map<String, Value>,
    pub tensors: BTreeMap<String, Tensor>,
}

impl Header {
    /// Reads the header of `file`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for a file that is no GGUF file, damaged or cut off, [`Error::Tensor`] for a tensor of a type that is not
    /// read.
    pub async fn read(file: &dyn Source) -> Result<Self> {
        let mut cursor = Cursor { file, at: 0, chunk: Vec::new(), chunk_at: 0, values_left: MAX_VALUES };
        if cursor.bytes(4).await? != b"GGUF" {
            return Err(cursor.damaged("does not begin with GGUF"));
        }
        match cursor.u32().await? {
            2 | 3 => {}
            version if version.swap_bytes() <= 3 => return Err(cursor.damaged("is big-endian; little-endian is read")),
            version => return Err(cursor.damaged(format!("is of version {version}; versions 2 and 3 are read"))),
        }
        let tensor_count = cursor.count("tensors", MAX_TENSORS).await?;
        let field_count = cursor.count("metadata fields", MAX_FIELDS).await?;
        let mut metadata = Map::new();
        for _ in 0..field_count {
            let name = cursor.text().await?;
            let kind = cursor.u32().await?;
            let value = cursor.value(kind, MAX_DEPTH).await?;
            metadata.insert(name, value);
        }
        let mut found = Vec::new();
        for _ in 0..tensor_count {
            found.push(cursor.tensor().await?);
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(size) => match size.as_u64().filter(|size| (1..=1 << 20).contains(size)) {
                Some(size) => size,
                None => return Err(cursor.damaged(format!("has general.alignment {}", shown(size)))),
            },
        };
        let data = cursor.at.next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for (name, tensor) in found {
            let bytes = tensor.kind.bytes(tensor.columns) as u64 * tensor.rows as u64;
            let end = data.checked_add(tensor.offset).and_then(|begin| begin.checked_add(bytes));
            match end {
                Some(end) if end <= file.size() => {}
                _ => {
                    let size = file.size();
                    let problem = format!("is cut off: {name} has {bytes} bytes at {}, the file {size}", tensor.offset);
                    return Err(cursor.damaged(problem));
                }
            }
            let tensor = Tensor { offset: data + tensor.offset, ..tensor };
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(cursor.damaged(format!("has the tensor {name} twice")));
            }
        }
        Ok(Self { metadata, tensors })
    }
}

/// Reads a file from its beginning on.
struct Cursor<'a> {
    file: &'a dyn Source,
    at: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
    /// Values that lists may still have.
    values_left: u64,
}

impl Cursor<'_> {
    fn damaged(&self, problem: impl Into<String>) -> Error {
        Error::checkpoint(self.file.name(), problem)
    }

    /// The next `count` bytes.
    async fn bytes(&mut self, count: u64) -> Result<&[u8]> {
        let end = self.at.checked_add(count);
        if end.is_none_or(|end| end > self.file.size() || end > MAX_METADATA_BYTES) {
            let (at, size) = (self.at, self.file.size());
            return Err(self.damaged(format!("is damaged or cut off: {count} bytes wanted at {at}, it has {size}")));
        }
        let within = self.at.checked_sub(self.chunk_at).filter(|from| from + count <= self.chunk.len() as u64);
        let from = match within {
            Some(from) => from,
            None => {
                let length = count.max(CHUNK_BYTES).min(self.file.size() - self.at);
                self.chunk.resize(length as usize, 0);
                self.file.read(self.at, &mut self.chunk).await?;
                self.chunk_at = self.at;
                0
            }
        };
        self.at += count;
        Ok(&self.chunk[from as usize..(from + count) as usize])
    }

    async fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N as u64).await?);
        Ok(array)
    }

    async fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array().await?))
    }

    async fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array().await?))
    }

    async fn count(&mut self, what: &str, most: u64) -> Result<u64> {
        match self.u64().await? {
            count if count <= most => Ok(count),
            count => Err(self.damaged(format!("is damaged: it claims {count} {what}, at most {most} are expected"))),
        }
    }

    async fn text(&mut self) -> Result<String> {
        let length = self.u64().await?;
        let bytes = self.bytes(length).await?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.damaged("is damaged: a text in its header is not UTF-8"))
    }

    async fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::from(self.array::<1>().await?[0]),
            1 => Value::from(self.array::<1>().await?[0] as i8),
            2 => Value::from(u16::from_le_bytes(self.array().await?)),
            3 => Value::from(i16::from_le_bytes(self.array().await?)),
            4 => Value::from(self.u32().await?),
            5 => Value::from(i32::from_le_bytes(self.array().await?)),
            // Its shortest decimal: 1e-05, not 0.0000099999997.
            6 => f32::from_le_bytes(self.array().await?)
                .to_string()
                .parse()
                .map_or(Value::Null, |number: f64| number.into()),
            7 => Value::Bool(self.array::<1>().await?[0] != 0),
            8 => Value::String(self.text().await?),
            9 if depth > 0 => {
                let kind = self.u32().await?;
                let count = self.u64().await?;
                // Every value takes more memory than it has bytes.
                let Some(left) = self.values_left.checked_sub(count) else {
                    return Err(self.damaged(format!("is damaged: it claims a list of {count} values")));
                };
                self.values_left = left;
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(Box::pin(self.value(kind, depth - 1)).await?);
                }
                Value::Array(list)
            }
            10 => Value::from(self.u64().await?),
            11 => Value::from(i64::from_le_bytes(self.array().await?)),
            12 => Value::from(f64::from_le_bytes(self.array().await?)),
            other => return Err(self.damaged(format!("is damaged: a value in its header is of type {other}"))),
        })
    }

    async fn tensor(&mut self) -> Result<(String, Tensor)> {
        let name = self.text().await?;
        let dimensions = self.u32().await?;
        if !(1..=4).contains(&dimensions) {
            return Err(Error::tensor(&name, format!("has {dimensions} dimensions")));
        }
        let mut sizes = Vec::new();
        for _ in 0..dimensions {
            sizes.push(self.u64().await?);
        }
        // From the innermost dimension on.
        let (columns, rows) = (sizes[0], sizes.get(1).copied().unwrap_or(1));
        let fits = |size: &u64| (1..=1 << 24).contains(size);
        if !fits(&columns) || !fits(&rows) || sizes[2.min(sizes.len())..].iter().any(|&size| size != 1) {
            return Err(Error::tensor(&name, format!("has the shape {sizes:?}: no matrix or vector")));
        }
        let kind = Kind::read(self.u32().await?).map_err(|problem| Error::tensor(&name, problem))?;
        let (rows, columns) = (rows as usize, columns as usize);
        if !columns.is_multiple_of(kind.values()) {
            let problem = format!("has rows of {columns} values, which are no whole blocks of {}", kind.values());
            return Err(Error::tensor(&name, problem));
        }
        let offset = self.u64().await?;
        Ok((name, Tensor { kind, rows, columns, is_vector: dimensions == 1, offset }))
    }
}
