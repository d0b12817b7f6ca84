//! Reading a safetensors header through a [`Source`]; the data stays where it is.
//!
//! The `safetensors` crate counts bytes in `usize`, which in WebAssembly ends at 4 GiB; a published checkpoint does not.

use super::{Dtype, Source, Stored, row_major};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// Bytes before the JSON header: its length.
const LENGTH_BYTES: u64 = 8;
/// A header of InCoder-6B takes 60 KB; a longer claim is a lie or an attack.
const MAX_HEADER_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    _metadata: Option<IgnoredAny>,
    #[serde(flatten)]
    tensors: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    /// From the end of the header on.
    data_offsets: (u64, u64),
}

/// The tensors of one safetensors file, by the name the file gives them. `source` is the file's index in the checkpoint.
pub(super) async fn read_header(file: &dyn Source, source: usize) -> Result<Vec<(String, Stored)>> {
    let damaged = |problem: String| Error::checkpoint(file.name(), problem);
    let size = file.size();
    if size < LENGTH_BYTES {
        return Err(damaged(format!("is {size} bytes long, too short for safetensors")));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read(0, &mut length).await?;
    if length.starts_with(b"version ") {
        return Err(damaged("is a git-lfs pointer, not the weights: fetch them with `git lfs pull`".to_owned()));
    }
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > size - LENGTH_BYTES {
        return Err(damaged(format!(
            "claims a header of {length} bytes; it is {size} bytes long, at most {MAX_HEADER_BYTES} are read"
        )));
    }
    let mut header = vec![0; length as usize];
    file.read(LENGTH_BYTES, &mut header).await?;
    let header: Header =
        serde_json::from_slice(&header).map_err(|e| damaged(format!("damaged safetensors header: {e}")))?;
    let data = LENGTH_BYTES + length;
    let mut tensors = Vec::new();
    for (name, entry) in &header.tensors {
        let stored = entry.stored(name, source, data)?;
        tensors
            .push((name.clone(), stored.map_err(|problem| damaged(format!("damaged safetensors header: {problem}")))?));
    }
    let need = all_of(&header).map_err(|problem| damaged(format!("damaged safetensors header: {problem}")))?;
    let have = size - data;
    if have != need {
        let problem = format!("holds {have} bytes of tensors, its header describes {need}: truncated or damaged");
        return Err(damaged(problem));
    }
    Ok(tensors)
}

impl Entry {
    /// Where the tensor lies; the inner error is what is wrong with the entry.
    fn stored(&self, name: &str, source: usize, data: u64) -> Result<std::result::Result<Stored, String>> {
        let dtype = match self.dtype.as_str() {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            other => return Err(Error::tensor(name, format!("is stored as {other}; F32, F16 and BF16 are read"))),
        };
        let (begin, end) = self.data_offsets;
        let shape: Option<Vec<usize>> = self.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        let elements = self.shape.iter().try_fold(1u64, |all, &size| all.checked_mul(size));
        let bytes = elements.and_then(|elements| elements.checked_mul(dtype.bytes() as u64));
        let (Some(shape), Some(bytes)) = (shape, bytes) else {
            return Ok(Err(format!("{name} has the shape {:?}", self.shape)));
        };
        if begin.checked_add(bytes) != Some(end) {
            return Ok(Err(format!("{name} has {bytes} bytes, from {begin} to {end}")));
        }
        let Some(offset) = data.checked_add(begin) else { return Ok(Err(format!("{name} begins at {begin}"))) };
        Ok(Ok(Stored { source, offset, dtype, strides: row_major(&shape), shape }))
    }
}

/// The bytes that all tensors take together, which lie one after the other without gaps.
fn all_of(header: &Header) -> std::result::Result<u64, String> {
    let mut ranges: Vec<(u64, u64)> = header.tensors.values().map(|entry| entry.data_offsets).collect();
    ranges.sort_unstable();
    ranges.into_iter().try_fold(0, |end, (begin, next)| match begin == end {
        true => Ok(next),
        false => Err(format!("a tensor begins at {begin}, and the one before it ends at {end}")),
    })
}
