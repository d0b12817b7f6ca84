//! Reading a safetensors header through a [`Source`]: the `safetensors` crate checks it, the data stays where it is.

use super::{Dtype, Source, Stored, row_major};
use crate::error::{Error, Result};

/// Bytes before the JSON header: its length.
const LENGTH_BYTES: usize = 8;
/// A header of InCoder-6B takes 60 KB; a longer claim is a lie or an attack.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// The tensors of one safetensors file, by the name the file gives them. `source` is the file's index in the checkpoint.
pub(super) async fn read_header(file: &dyn Source, source: usize) -> Result<Vec<(String, Stored)>> {
    let damaged = |problem: String| Error::checkpoint(file.name(), problem);
    let size = file.size();
    if size < LENGTH_BYTES as u64 {
        return Err(damaged(format!("is {size} bytes long, too short for safetensors")));
    }
    let mut length = [0; LENGTH_BYTES];
    file.read(0, &mut length).await?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length > size - LENGTH_BYTES as u64 {
        return Err(damaged(format!(
            "claims a header of {length} bytes; it is {size} bytes long, at most {MAX_HEADER_BYTES} are read"
        )));
    }
    let mut header = vec![0; LENGTH_BYTES + length as usize];
    file.read(0, &mut header).await?;
    let metadata: safetensors::tensor::Metadata =
        serde_json::from_slice(&header[8..]).map_err(|e| damaged(format!("damaged safetensors header: {e}")))?;
    let data = header.len() as u64;
    let have = size - data;
    let need = metadata.data_len() as u64;
    if have != need {
        return Err(damaged(format!(
            "holds {have} bytes of tensors, its header describes {need}: truncated or damaged"
        )));
    }
    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => return Err(Error::tensor(&name, format!("is stored as {other:?}; F32, F16 and BF16 are read"))),
        };
        let offset = data + info.data_offsets.0 as u64;
        tensors
            .push((name, Stored { source, offset, dtype, shape: info.shape.clone(), strides: row_major(&info.shape) }));
    }
    Ok(tensors)
}
