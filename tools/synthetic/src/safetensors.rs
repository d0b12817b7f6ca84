//! model.safetensors: <https://github.com/huggingface/safetensors#format>.

use crate::model::Tensor;
use crate::values::{Dtype, write_tensor};
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// Writes one file.
pub(crate) fn write(
    mut out: impl Write,
    tensors: &[Tensor],
    seed: u64,
    dtype: Dtype,
    wrote: &mut dyn FnMut(u64),
) -> io::Result<()> {
    out.write_all(&header(tensors, dtype))?;
    for tensor in tensors {
        write_tensor(tensor, seed, dtype, &mut out, wrote)?;
    }
    out.flush()
}

/// What stands before the tensors: the length of the JSON, and the JSON.
fn header(tensors: &[Tensor], dtype: Dtype) -> Vec<u8> {
    let stored = match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::Bf16 => "BF16",
    };
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.bytes(dtype);
        let entry = json!({"dtype": stored, "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Blanks, so that the tensors are aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header].concat()
}
