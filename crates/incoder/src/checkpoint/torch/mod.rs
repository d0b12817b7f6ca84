//! Reading torch checkpoints (`pytorch_model.bin`) through a [`Source`]: the zip of `torch.save`, and the stream it wrote
//! before torch 1.6. Only the directory and the pickle are read; the storages stay where they are.

mod legacy;
mod machine;
mod pickle;
#[cfg(test)]
mod tests;
mod zip;

use super::{Dtype, Source, Stored};
use crate::error::{Error, Result};
use pickle::{Element, Pickle, Storage, Tensor};
use std::collections::{HashMap, HashSet};

/// A tensor and where its storage begins, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    start: u64,
    tensor: Tensor,
}

/// The tensors of one file, by the name the file gives them. `source` is the file's index in the checkpoint.
pub(super) async fn read_tensors(file: &dyn Source, source: usize) -> Result<Vec<(String, Stored)>> {
    Ok(views(file).await?.into_iter().map(|(name, view)| (name, stored(view, source))).collect())
}

fn stored(View { start, tensor }: View, source: usize) -> Stored {
    let dtype = match tensor.storage.element {
        Element::F32 => Dtype::F32,
        Element::F16 => Dtype::F16,
        Element::Bf16 => Dtype::Bf16,
        other => Dtype::Other(format!("{other:?}")),
    };
    let offset = start + tensor.offset * dtype.bytes() as u64;
    Stored { source, offset, dtype, shape: tensor.shape, strides: tensor.strides }
}

/// All tensors of a file, whatever their elements.
async fn views(file: &dyn Source) -> Result<Vec<(String, View)>> {
    let mut head = vec![0; file.size().min(64) as usize];
    file.read(0, &mut head).await?;
    let problem = match &head[..] {
        [] => "is empty".to_owned(),
        head if head.starts_with(b"PK\x03\x04") => return in_zip(file).await,
        head if head.starts_with(legacy::MAGIC) => return legacy::views(file).await,
        head if head.starts_with(b"version https://git-lfs") => {
            "is a git-lfs pointer, not the weights: fetch them with `git lfs pull`".to_owned()
        }
        _ => "is no torch checkpoint: neither a zip nor the older format".to_owned(),
    };
    Err(Error::checkpoint(file.name(), problem))
}

async fn in_zip(file: &dyn Source) -> Result<Vec<(String, View)>> {
    let refused = |problem: String| Error::checkpoint(file.name(), problem);
    let archive = zip::Archive::open(file).await?;
    let mut tops = archive.names().filter_map(|name| name.strip_suffix("data.pkl")).filter(|top| top.ends_with('/'));
    let (Some(top), None) = (tops.next(), tops.next()) else {
        return Err(refused("is a zip, but not one of torch's: it has no data.pkl, or several".to_owned()));
    };
    let top = top.to_owned();
    if archive.read(&format!("{top}byteorder"), 64).await?.is_some_and(|order| order != b"little") {
        return Err(refused("was written big-endian; only little-endian checkpoints are read".to_owned()));
    }
    let bytes = archive.read(&format!("{top}data.pkl"), pickle::MAX_BYTES).await?.unwrap_or_default();
    let pickle = machine::run(&bytes).map_err(&refused)?;
    // Tied tensors share a storage: it is looked up once.
    let mut starts = HashMap::new();
    let mut views = Vec::new();
    for (name, tensor) in tensors(&pickle).map_err(&refused)? {
        let Storage { key, element, count } = &tensor.storage;
        if !starts.contains_key(key) {
            let missing = || refused(format!("has no entry {top}data/{key}, where the tensor {name} is to be"));
            starts.insert(key, archive.locate(&format!("{top}data/{key}")).await?.ok_or_else(missing)?);
        }
        let (start, bytes) = starts[key];
        if count.checked_mul(element.bytes()) != Some(bytes) {
            return Err(refused(format!("says that storage {key} holds {count} elements, and it has {bytes} bytes")));
        }
        views.push((name.to_owned(), View { start, tensor: tensor.clone() }));
    }
    Ok(views)
}

/// The tensors of a state dict. Refuses two of one name, and two opinions of one storage.
fn tensors(pickle: &Pickle) -> pickle::Result<Vec<(&str, &Tensor)>> {
    let tensors = pickle.tensors().ok_or("is no state dict: its top is not a mapping")?;
    let (mut names, mut storages) = (HashSet::new(), HashMap::new());
    for (name, Tensor { storage, .. }) in &tensors {
        if !names.insert(*name) {
            return Err(format!("has two tensors of the name {name}"));
        }
        if *storages.entry(storage.key.as_str()).or_insert(storage) != storage {
            return Err(format!("describes storage {} in two ways", storage.key));
        }
    }
    Ok(tensors)
}
