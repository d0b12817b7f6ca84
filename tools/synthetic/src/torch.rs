//! pytorch_model.bin as `torch.save` of torch 2 writes it.

use crate::model::Tensor;
use crate::pickle;
use crate::values::{Dtype, hash, write_tensor};
use crate::zip::Zip;
use std::io::{self, Write};

/// The tied head, which the published files hold too.
pub(crate) const HEAD: &str = "lm_head.weight";
/// What the head is tied to.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";

/// Writes one file; `stem` is its name without `.bin`, which the names in the archive begin with.
pub(crate) fn write(
    out: impl Write,
    stem: &str,
    tensors: &[Tensor],
    seed: u64,
    dtype: Dtype,
    wrote: &mut dyn FnMut(u64),
) -> io::Result<()> {
    write_archive(Zip::new(out), stem, tensors, seed, dtype, wrote)
}

fn write_archive(
    mut zip: Zip<impl Write>,
    stem: &str,
    tensors: &[Tensor],
    seed: u64,
    dtype: Dtype,
    wrote: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let head = tensors.iter().position(|tensor| tensor.name == EMBEDDING).map(|index| (HEAD, index));
    let pickle = pickle::state_dict(tensors, head, dtype);
    let small = |zip: &mut Zip<_>, name: &str, bytes: &[u8]| {
        zip.entry(&format!("{stem}/{name}"), bytes.len() as u64, |out| out.write_all(bytes))
    };
    small(&mut zip, "data.pkl", &pickle)?;
    small(&mut zip, ".format_version", b"1")?;
    small(&mut zip, ".storage_alignment", b"64")?;
    small(&mut zip, "byteorder", b"little")?;
    for (key, tensor) in tensors.iter().enumerate() {
        zip.entry(&format!("{stem}/data/{key}"), tensor.bytes(dtype), |out| {
            write_tensor(tensor, seed, dtype, out, wrote)
        })?;
    }
    small(&mut zip, "version", b"3\n")?;
    // torch derives it from names and contents; what counts is that it has 40 digits.
    let id = format!("{:020}{seed:020}", hash(&pickle));
    small(&mut zip, ".data/serialization_id", id.as_bytes())?;
    zip.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;
    use crate::zip::tests::read;

    /// The storages of a small model, in a file with zip64 records from `zip64_from` on.
    fn storages(dtype: Dtype, zip64_from: u64) -> Vec<Vec<u8>> {
        let model = Model { num_layers: 1, d_model: 16, heads: 2, ffn_dim: 32, vocab_size: 300 };
        let tensors = model.tensors();
        let mut file = Vec::new();
        let zip = Zip::new(&mut file).with_zip64_from(zip64_from);
        write_archive(zip, "pytorch_model", &tensors, 1, dtype, &mut |_| ()).unwrap();
        let entries = read(&file, zip64_from);
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names[0], "pytorch_model/data.pkl");
        assert_eq!(names[names.len() - 2], "pytorch_model/version");
        entries.into_iter().filter(|entry| entry.name.contains("/data/")).map(|entry| entry.data).collect()
    }

    #[test]
    fn every_dtype_holds_the_same_values() {
        let wide = storages(Dtype::F32, u64::from(u32::MAX));
        let narrow = storages(Dtype::F16, 1000);
        assert_eq!(wide.len(), 19);
        for (wide, narrow) in wide.iter().zip(&narrow) {
            let wide = wide.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let narrow = narrow.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32());
            assert!(wide.eq(narrow));
        }
    }
}
