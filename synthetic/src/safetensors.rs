//! model.safetensors: <https://github.com/huggingface/safetensors#format>.

use crate::model::{Model, Tensor};
use crate::values::{Dtype, read_tensor, write_tensor};
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

/// A model.safetensors that is stored nowhere: its bytes are made as they are read.
#[derive(Debug, Clone)]
pub struct VirtualFile {
    header: Vec<u8>,
    tensors: Vec<Tensor>,
    dtype: Dtype,
    seed: u64,
    size: u64,
}

impl VirtualFile {
    /// The file that [`crate::write()`] writes for the same model, byte for byte.
    pub fn new(model: &Model, dtype: Dtype, seed: u64) -> Self {
        let tensors = model.tensors();
        let header = header(&tensors, dtype);
        let size = header.len() as u64 + tensors.iter().map(|tensor| tensor.bytes(dtype)).sum::<u64>();
        Self { header, tensors, dtype, seed, size }
    }

    /// Its length, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file does not have that many.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Some(end) = offset.checked_add(out.len() as u64).filter(|&end| end <= self.size) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        // The part of a piece of the file that is asked for: from where in the piece, and where in `out` it goes.
        let overlap = |start: u64, bytes: u64| {
            let (first, last) = (offset.max(start), end.min(start + bytes));
            (first < last).then(|| (first - start, (first - offset) as usize..(last - offset) as usize))
        };
        if let Some((from, to)) = overlap(0, self.header.len() as u64) {
            let from = from as usize;
            out[to.clone()].copy_from_slice(&self.header[from..from + to.len()]);
        }
        let mut start = self.header.len() as u64;
        for tensor in &self.tensors {
            let bytes = tensor.bytes(self.dtype);
            if let Some((from, to)) = overlap(start, bytes) {
                read_tensor(tensor, self.seed, self.dtype, from, &mut out[to]);
            }
            start += bytes;
        }
        Ok(())
    }
}
