//! A model folder: config.json, tokenizer.json, and the tensors in one file or in shards with their index.

use crate::model::{Model, Tensor};
use crate::tokenizer::tokenizer_json;
use crate::values::Dtype;
use crate::{safetensors, torch};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

/// What [`write()`] returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a checkpoint was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something asked for is not possible.
    #[error("{0}")]
    Argument(String),
    /// The output could not be written.
    #[error("{}: {problem}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        problem: io::Error,
    },
}

/// The files that hold the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// pytorch_model.bin.
    Bin,
    /// pytorch_model-00001-of-0000N.bin … and pytorch_model.bin.index.json.
    BinSharded,
    /// model.safetensors.
    Safetensors,
    /// model-00001-of-0000N.safetensors … and model.safetensors.index.json.
    SafetensorsSharded,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Bin, Self::BinSharded, Self::Safetensors, Self::SafetensorsSharded];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bin => "bin",
            Self::BinSharded => "bin-sharded",
            Self::Safetensors => "safetensors",
            Self::SafetensorsSharded => "safetensors-sharded",
        }
    }

    fn is_sharded(self) -> bool {
        matches!(self, Self::BinSharded | Self::SafetensorsSharded)
    }

    fn is_bin(self) -> bool {
        matches!(self, Self::Bin | Self::BinSharded)
    }

    /// The stem and the extension of the tensors' files.
    fn file(self) -> (&'static str, &'static str) {
        if self.is_bin() { ("pytorch_model", "bin") } else { ("model", "safetensors") }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let expected = || format!("expected {}", Self::ALL.map(Self::name).join(", "));
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(expected)
    }
}

/// What to write.
#[derive(Debug, Clone)]
pub struct Options {
    /// The sizes.
    pub model: Model,
    /// The files.
    pub format: Format,
    /// How values are stored.
    pub dtype: Dtype,
    /// Another seed makes another model.
    pub seed: u64,
    /// Most bytes of tensors in a shard; a larger tensor has a shard of its own.
    pub shard_bytes: u64,
}

impl Options {
    /// `model` in fp32 safetensors, with seed 1 and shards of 2 GB.
    pub fn new(model: Model) -> Self {
        Self { model, format: Format::Safetensors, dtype: Dtype::F32, seed: 1, shard_bytes: 2_000_000_000 }
    }

    /// Bytes of all tensors, which is what the files take but for their headers.
    pub fn bytes(&self) -> u64 {
        self.model.parameters() * self.dtype.bytes() as u64
    }
}

/// Writes the model folder `folder`, which must not exist yet. Until it is whole, it is called `folder` with `.partial`
/// appended; what an earlier run left under that name is replaced. `wrote` gets the bytes of tensors, piece by piece.
///
/// # Errors
/// [`Error::Argument`] for sizes that no InCoder has or a `folder` that exists, [`Error::Io`] for the system's errors;
/// the unfinished folder is then removed.
pub fn write(options: &Options, folder: &Path, wrote: &mut dyn FnMut(u64)) -> Result<()> {
    check(&options.model)?;
    if folder.exists() {
        return Err(Error::Argument(format!("{} exists already", folder.display())));
    }
    let mut partial = folder.file_name().unwrap_or_default().to_owned();
    partial.push(".partial");
    let partial = folder.with_file_name(partial);
    remove(&partial)?;
    fs::create_dir_all(&partial).map_err(|problem| Error::Io { path: partial.clone(), problem })?;
    let written = write_files(options, &partial, wrote)
        .and_then(|()| fs::rename(&partial, folder).map_err(|problem| Error::Io { path: folder.to_owned(), problem }));
    if written.is_err() {
        remove(&partial)?;
    }
    written
}

fn check(model: &Model) -> Result<()> {
    let Model { num_layers, d_model, heads, ffn_dim, .. } = *model;
    if num_layers == 0 || d_model == 0 || ffn_dim == 0 || heads == 0 || !d_model.is_multiple_of(heads) {
        let problem =
            format!("{num_layers} layers, d_model {d_model}, {heads} heads, ffn_dim {ffn_dim}: no such model");
        return Err(Error::Argument(problem));
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(problem) if problem.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { path: folder.to_owned(), problem })
        }
        _ => Ok(()),
    }
}

fn write_files(options: &Options, folder: &Path, wrote: &mut dyn FnMut(u64)) -> Result<()> {
    let Options { model, format, dtype, seed, .. } = options;
    let text = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|problem| Error::Io { path, problem })
    };
    text("tokenizer.json", tokenizer_json(model.vocab_size)?)?;
    text("config.json", model.config_json(*dtype))?;

    let (stem, extension) = format.file();
    let mut tensors = model.tensors();
    let shards = if format.is_sharded() { shards(tensors, options) } else { vec![std::mem::take(&mut tensors)] };
    let mut weight_map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let stem =
            if format.is_sharded() { format!("{stem}-{:05}-of-{:05}", i + 1, shards.len()) } else { stem.to_owned() };
        let name = format!("{stem}.{extension}");
        let path = folder.join(&name);
        let written = File::create(&path).map(BufWriter::new).and_then(|out| {
            if format.is_bin() {
                torch::write(out, &stem, shard, *seed, *dtype, wrote)
            } else {
                safetensors::write(out, shard, *seed, *dtype, wrote)
            }
        });
        written.map_err(|problem| Error::Io { path, problem })?;
        for tensor in shard {
            weight_map.insert(tensor.name.clone(), Value::from(&*name));
            if format.is_bin() && tensor.name == torch::EMBEDDING {
                weight_map.insert(torch::HEAD.into(), Value::from(&*name));
            }
        }
    }
    if format.is_sharded() {
        let index = json!({"metadata": {"total_size": options.bytes()}, "weight_map": weight_map});
        text(&format!("{stem}.{extension}.index.json"), format!("{index:#}\n"))?;
    }
    Ok(())
}

/// The tensors in their order, a new shard begun where one more would be too many bytes.
fn shards(tensors: Vec<Tensor>, options: &Options) -> Vec<Vec<Tensor>> {
    let mut shards: Vec<Vec<Tensor>> = Vec::new();
    let mut room = 0;
    for tensor in tensors {
        let bytes = tensor.bytes(options.dtype);
        match shards.last_mut() {
            Some(shard) if bytes <= room => {
                room -= bytes;
                shard.push(tensor);
            }
            _ => {
                room = options.shard_bytes.saturating_sub(bytes);
                shards.push(vec![tensor]);
            }
        }
    }
    shards
}
