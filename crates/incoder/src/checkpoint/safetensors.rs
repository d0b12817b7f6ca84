//! Reading a safetensors header through a [`Source`]; the data stays where it is.
//!
//! The `safetensors` crate counts bytes in `usize`, which in WebAssembly ends at 4 GiB; a published checkpoint does not.

use super::{Dtype, Source, Stored, row_major};
use crate::error::{Error, Result};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Bytes before the JSON header: its length.
const LENGTH_BYTES: u64 = 8;
/// What the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// A model has some 16 tensors a layer, and at most 4,096 layers; what describes more is none.
const MAX_TENSORS: usize = 1 << 17;

/// What the header says of one tensor.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    /// From the end of the header on.
    data_offsets: (u64, u64),
}

/// A header: the tensors in its order. The metadata, which may be most of it, is passed over.
struct Header {
    tensors: Vec<(String, Entry)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object that names tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else if tensors.len() == MAX_TENSORS {
                        return Err(A::Error::custom(format!("it describes more than {MAX_TENSORS} tensors")));
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header { tensors })
            }
        }
        deserializer.deserialize_map(Entries)
    }
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
            "claims a header of {length} bytes; the file is {size} bytes long, and a header at most {MAX_HEADER_BYTES}"
        )));
    }
    let mut bytes = Vec::new();
    let what = || format!("the header of {}", file.name());
    let reserved = bytes.try_reserve_exact(length as usize);
    reserved.map_err(|_| Error::OutOfMemory { what: what(), need: length })?;
    bytes.resize(length as usize, 0);
    file.read(LENGTH_BYTES, &mut bytes).await?;
    let in_header = |problem: String| damaged(format!("damaged safetensors header: {problem}"));
    let Header { tensors } = serde_json::from_slice(&bytes).map_err(|e| in_header(explained(&e)))?;
    drop(bytes);
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|two| two[0] == two[1]) {
        return Err(in_header(format!("it describes the tensor {} twice", twice[0])));
    }
    let need = all_of(&tensors).map_err(in_header)?;
    let data = LENGTH_BYTES + length;
    let have = size - data;
    if have != need {
        let problem = format!("holds {have} bytes of tensors, its header describes {need}: truncated or damaged");
        return Err(damaged(problem));
    }
    let stored = |(name, entry): (String, Entry)| match entry.stored(&name, source, data) {
        Ok(stored) => Ok((name, stored)),
        Err(problem) => Err(in_header(problem)),
    };
    tensors.into_iter().map(stored).collect()
}

/// What is wrong with a header, in its own terms.
fn explained(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let is_ours = text.starts_with("it describes");
    match error.classify() {
        serde_json::error::Category::Data if !is_ours => {
            let (line, column) = (error.line(), error.column());
            let what = "an entry is no {\"dtype\": …, \"shape\": […], \"data_offsets\": [begin, end]}";
            format!("{what} (line {line} column {column})")
        }
        _ => text,
    }
}

impl Entry {
    /// Where the tensor lies, or what is wrong with the entry.
    fn stored(self, name: &str, source: usize, data: u64) -> std::result::Result<Stored, String> {
        let dtype = match self.dtype.as_str() {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            "I8" => Dtype::I8,
            "U8" => Dtype::U8,
            _ => Dtype::Other(self.dtype),
        };
        let (begin, end) = self.data_offsets;
        let shape: Option<Vec<usize>> = self.shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        let elements = self.shape.iter().try_fold(1u64, |all, &size| all.checked_mul(size));
        let (Some(shape), Some(elements)) = (shape, elements) else {
            return Err(format!("{name} has the shape {:?}", self.shape));
        };
        let length = end.checked_sub(begin);
        let bytes = match dtype {
            // How long its values are is not known here.
            Dtype::Other(_) => length,
            _ => elements.checked_mul(dtype.bytes() as u64),
        };
        if length.is_none() || bytes != length {
            let bytes = bytes.map_or("too many".to_owned(), |bytes| bytes.to_string());
            return Err(format!("{name} has {bytes} bytes, from {begin} to {end}"));
        }
        let Some(offset) = data.checked_add(begin) else { return Err(format!("{name} begins at {begin}")) };
        Ok(Stored { source, offset, dtype, strides: row_major(&shape), shape })
    }
}

/// The bytes that all tensors take together, which lie one after the other without gaps.
fn all_of(tensors: &[(String, Entry)]) -> std::result::Result<u64, String> {
    let mut ranges: Vec<(u64, u64)> = tensors.iter().map(|(_, entry)| entry.data_offsets).collect();
    ranges.sort_unstable();
    ranges.into_iter().try_fold(0, |end, (begin, next)| match begin == end {
        true => Ok(next),
        false => Err(format!("a tensor begins at {begin}, and the one before it ends at {end}")),
    })
}
