//! `incoder convert`: any checkpoint → safetensors, read and written a few megabytes at a time.

use super::devices::PUBLISHED;
use crate::cli::{self, Dtype};
use crate::failure::{Failure, Result};
use crate::hub::Needs;
use crate::hub::name::{self, Named};
use crate::terminal::{Interrupt, Loading, note};
use crate::{Global, model_folder, report};
use incoder::checkpoint::{Checkpoint, Encoder, Encoding, Tensor};
use incoder::{Config, Folder};
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Files that go along as they are, where the model has them.
const COPIED: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
];
const MAX_COPIED_BYTES: u64 = 64 << 20;

pub fn run(args: &cli::Convert, global: &Global) -> Result<()> {
    if args.out.symlink_metadata().is_ok() {
        return Err(Failure::usage(format!(
            "{} exists already: name a folder that is not there yet",
            args.out.display()
        )));
    }
    let interrupt = Interrupt::install()?;
    let folder = model_folder::open(Some(args.model.as_os_str()), Needs::Everything, global)?;
    // From here on Ctrl-C ends the loop below, so that the unfinished folder is removed.
    interrupt.generating();
    let what = Conversion { dtype: args.dtype, shard_size: args.shard_size, name: &public_name(&args.model) };
    let (total, files) = what.write(folder.as_ref(), &args.out, Some(&interrupt), global)?;
    let (out, dtype) = (args.out.display(), args.dtype.name());
    note(global.quiet, &format!("{out}: {total} bytes of tensors as {dtype} in {}", report::count(files, "file")));
    Ok(())
}

/// What a model is to become.
pub struct Conversion<'a> {
    pub dtype: Dtype,
    /// Bytes of a file at most.
    pub shard_size: u64,
    /// The model's name, for the README.
    pub name: &'a str,
}

impl Conversion<'_> {
    /// Writes the model of `folder` to the folder `out`, which is there only when it is whole. The bytes of the tensors, and how many
    /// files hold them.
    pub fn write(
        &self,
        folder: &dyn Folder,
        out: &Path,
        interrupt: Option<&Interrupt>,
        global: &Global,
    ) -> Result<(u64, usize)> {
        let (dtype, encoding) = (self.dtype, self.dtype.encoding());
        let config_json = pollster::block_on(folder.text("config.json", 32 << 20))?;
        let config = pollster::block_on(Config::read(folder))?;
        if dtype.quantization().is_some() {
            config.quantized(dtype.quantization())?;
        }
        let checkpoint = pollster::block_on(Checkpoint::open(folder, &config))?;
        let unfinished = beside(out)?;
        let shards = shards(&checkpoint, encoding, self.shard_size);
        let total = shards.iter().flatten().map(|tensor| tensor.bytes(encoding)).sum();
        let bar = Loading::new(global.quiet);
        let mut writer = Writer { checkpoint: &checkpoint, encoding, interrupt, done: 0, bar, total };
        let names: Vec<String> = (1..=shards.len()).map(|n| shard_name(n, shards.len())).collect();
        for (name, tensors) in names.iter().zip(&shards) {
            writer.file(&unfinished.path().join(name), tensors)?;
        }
        if shards.len() > 1 {
            let map: Map<String, Value> = names
                .iter()
                .zip(&shards)
                .flat_map(|(name, tensors)| {
                    let entries = tensors.iter().flat_map(|tensor| tensor.entries(encoding));
                    entries.map(move |entry| (entry.name, json!(name)))
                })
                .collect();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
            write(&unfinished.path().join("model.safetensors.index.json"), &pretty(&index))?;
        }
        self.complete(folder, unfinished.path(), &config_json, &config, global)?;
        std::fs::rename(unfinished.path(), out).map_err(|e| failed(out, &e))?;
        // Nothing is there any more that would have to be removed.
        let _ = unfinished.keep();
        Ok((total, shards.len()))
    }

    /// Writes what a model needs beside its weights: config.json last.
    pub fn complete(
        &self,
        folder: &dyn Folder,
        out: &Path,
        config_json: &str,
        config: &Config,
        global: &Global,
    ) -> Result<()> {
        for name in COPIED {
            if let Some(bytes) = whole(folder, name)? {
                write(&out.join(name), &bytes)?;
            }
        }
        write(&out.join("README.md"), readme(self.name, config, self.dtype).as_bytes())?;
        let text = config_text(config_json, self.dtype.encoding(), global.quiet)?;
        write(&out.join("config.json"), text.as_bytes())
    }
}

/// A folder next to `out` whose name says that it is unfinished; removed again unless it is kept.
fn beside(out: &Path) -> Result<tempfile::TempDir> {
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = out.file_name().ok_or_else(|| Failure::usage(format!("{} is no name for a folder", out.display())))?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".unfinished-");
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).map_err(|e| failed(parent, &e))?;
    readable_by_others(folder.path());
    Ok(folder)
}

/// Temporary folders are made for their owner alone; a model is not a secret.
#[cfg(unix)]
fn readable_by_others(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    // Where it cannot be changed the folder stays private: nothing is lost.
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755));
}

#[cfg(not(unix))]
fn readable_by_others(_: &Path) {}

/// The tensors of every file, in the order of their names; a tensor larger than `shard_size` bytes has a file of its own.
fn shards(checkpoint: &Checkpoint, encoding: Encoding, shard_size: u64) -> Vec<Vec<Tensor>> {
    let mut shards: Vec<Vec<Tensor>> = vec![Vec::new()];
    let mut bytes = 0;
    for tensor in checkpoint.tensors() {
        let size = tensor.bytes(encoding);
        if bytes > 0 && bytes + size > shard_size {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        shards.last_mut().into_iter().for_each(|shard| shard.push(tensor.clone()));
    }
    shards
}

fn shard_name(n: usize, of: usize) -> String {
    if of == 1 { "model.safetensors".to_owned() } else { format!("model-{n:05}-of-{of:05}.safetensors") }
}

struct Writer<'a> {
    checkpoint: &'a Checkpoint,
    encoding: Encoding,
    interrupt: Option<&'a Interrupt>,
    done: u64,
    total: u64,
    bar: Loading,
}

impl Writer<'_> {
    /// One safetensors file.
    fn file(&mut self, path: &Path, tensors: &[Tensor]) -> Result<()> {
        let failed = |e: std::io::Error| failed(path, &e);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
        let mut encoder = Encoder::new(self.checkpoint, tensors.to_vec(), self.encoding);
        while let Some(bytes) = pollster::block_on(encoder.next())? {
            if self.interrupt.is_some_and(Interrupt::was_pressed) {
                return Err(Failure::interrupted("stopped; nothing was written"));
            }
            file.write_all(&bytes).map_err(failed)?;
            self.done += bytes.len() as u64;
            self.bar.update(self.done.min(self.total), self.total);
        }
        let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        // Renamed only when it is on the disk: a power cut leaves no half file that looks whole.
        file.sync_all().map_err(failed)
    }
}

/// The whole of a small file of the model; `None` when it has none of that name.
fn whole(folder: &dyn Folder, name: &str) -> Result<Option<Vec<u8>>> {
    let Some(source) = pollster::block_on(folder.open(name))? else { return Ok(None) };
    if source.size() > MAX_COPIED_BYTES {
        return Err(Failure::model(format!("{name} has {} bytes, expected at most {MAX_COPIED_BYTES}", source.size())));
    }
    let mut bytes = vec![0; source.size() as usize];
    pollster::block_on(source.read(0, &mut bytes))?;
    Ok(Some(bytes))
}

/// The model's config for weights that are encoded so.
fn config_text(config: &str, encoding: Encoding, quiet: bool) -> Result<String> {
    let (text, left) = encoding.config(config).map_err(|problem| Failure::model(format!("config.json: {problem}")))?;
    if !left.is_empty() {
        let names = left.join(", ");
        note(quiet, &format!("config.json: {names} left out, as JSON has no such number; nothing here uses it"));
    }
    Ok(text)
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| failed(path, &e))
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::runtime(format!("writing {}: {error}", path.display()))
}

/// A model's name on the hub; of a path only the last part, as the others are nobody's business.
fn public_name(model: &OsStr) -> String {
    match name::classify(model) {
        Ok(Named::Hub(name)) => name.to_string(),
        _ => Path::new(model).file_name().map_or("model".to_owned(), |name| name.to_string_lossy().into_owned()),
    }
}

/// What these files are, and whose.
fn readme(model: &str, config: &Config, dtype: Dtype) -> String {
    let parameters = config.parameters();
    let is_published = |json: &str| Config::from_json(json).is_ok_and(|known| known.parameters() == parameters);
    let published = model.starts_with("facebook/incoder") || PUBLISHED.iter().any(|known| is_published(known.config));
    let (front, licence) = if published {
        (
            "---\nlicense: cc-by-nc-4.0\n---\n",
            "The weights are Meta's InCoder (https://arxiv.org/abs/2204.05999), licensed CC-BY-NC 4.0: attribution, and no \
             commercial use (https://creativecommons.org/licenses/by-nc/4.0/). Only their format was changed.",
        )
    } else {
        ("", "The weights keep the licence of the model that they were converted from. Only their format was changed.")
    };
    let format = dtype.name();
    let licence = match dtype.quantization() {
        Some(_) => licence.replace("Only their format was changed.", "They were rounded to fewer bits."),
        None => licence.to_owned(),
    };
    format!(
        "{front}# {model}, as safetensors in {format}\n\n{licence}\n\nWritten by `incoder convert`; {parameters} parameters.\n"
    )
}
