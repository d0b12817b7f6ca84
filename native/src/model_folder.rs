//! Where the models are: a folder of the user's, the hub's cache, or the demo model inside this program.

use crate::Global;
use crate::cli::Dtype;
use crate::commands::convert::Conversion;
use crate::failure::{Failure, RUNTIME, Result};
use crate::files::{explained, other_kind};
use crate::hub::cache::{Repo, failed};
use crate::hub::name::{ModelName, Named};
use crate::hub::settings::Settings;
use crate::hub::{self, Needs};
use crate::terminal::note;
use incoder::checkpoint::{BoxFuture, MemoryFolder};
use incoder::{Config, Error, Folder, GgufFolder, Quantization, Source};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What `-m` names, or the demo model. A model of the hub is downloaded where the cache lacks something of it.
pub fn open(name: Option<&OsStr>, needs: Needs, global: &Global) -> Result<Box<dyn Folder>> {
    let Some(name) = name else {
        return Ok(Box::new(demo()));
    };
    match hub::name::classify(name).map_err(Failure::model)? {
        Named::Path(path) if is_gguf(&path) => Ok(Box::new(gguf(&path)?)),
        Named::Path(path) => Ok(Box::new(Directory { path: folder(&path)? })),
        Named::Hub(name) => Ok(Box::new(Directory { path: hub::resolve(&name, needs, false, global)?.folder })),
    }
}

/// As [`open`], for a load that quantizes. A model of the hub is kept as it is then, and read from there the next time.
pub fn open_quantized(name: Option<&OsStr>, quantization: Quantization, global: &Global) -> Result<Box<dyn Folder>> {
    match name.map(hub::name::classify) {
        Some(Ok(Named::Hub(model))) => {
            Ok(Box::new(Directory { path: quantized(&model, quantization, false, global)?.folder }))
        }
        _ => open(name, Needs::Everything, global),
    }
}

/// A model of the hub as it is kept quantized; where it is not, it is quantized on its way here, and its original stored nowhere. One
/// whose original is in the cache, or that is quantized on the hub, stays as it is. `insist` as for [`hub::resolve`].
pub fn quantized(
    model: &ModelName,
    quantization: Quantization,
    insist: bool,
    global: &Global,
) -> Result<hub::Resolved> {
    let repo = Repo::new(&Settings::from_environment()?, model);
    let hub::Resolved { commit, folder, downloaded } = hub::resolve(model, Needs::Tokenizer, insist, global)?;
    let kept = repo.quantized(&commit, quantization);
    if repo.quantized_forms(&commit).iter().any(|(form, _)| *form == quantization) {
        return Ok(hub::Resolved { commit, folder: kept, downloaded });
    }
    let original = Directory { path: folder };
    if pollster::block_on(Config::read(&original as &dyn Folder))?.quantization.is_some() {
        return hub::resolve(model, Needs::Everything, insist, global);
    }
    let dtype = if quantization == Quantization::Q4 { Dtype::Q4 } else { Dtype::Q8 };
    let conversion = Conversion { dtype, shard_size: u64::MAX, name: &model.to_string() };
    let came = if repo.lacks(&commit, Needs::Everything).is_some() {
        hub::arriving::quantize(model, &commit, quantization, &conversion, global)?.1
    } else {
        let folder = kept.parent().unwrap_or(&repo.root);
        let made = std::fs::create_dir_all(folder).map_err(|e| failed(folder, &e));
        match made.and_then(|()| conversion.write(&original, &kept, None, global)) {
            Ok(_) => 0,
            // What is wrong with the model is wrong with it everywhere; a cache that cannot be written is not needed.
            Err(failure) if failure.code == RUNTIME => {
                note(global.quiet, &format!("{failure}; {model} is quantized while it loads"));
                return Ok(hub::Resolved { commit, folder: original.path, downloaded });
            }
            Err(failure) => return Err(failure),
        }
    };
    note(global.quiet, &format!("{model} is kept in {}: {}", quantization.name(), kept.display()));
    Ok(hub::Resolved { commit, folder: kept, downloaded: downloaded + came })
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) && !path.is_dir()
}

/// The model in a GGUF file.
fn gguf(path: &Path) -> Result<GgufFolder> {
    let problem = |what: &str| Failure::model(format!("{}: {what}", path.display()));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = Directory { path: path.with_file_name("") };
    let file = pollster::block_on(Folder::open(&folder, &name))?.ok_or_else(|| problem("no such file"))?;
    Ok(pollster::block_on(GgufFolder::open(file))?)
}

/// The folder that a path means: itself, or the one that the file is in.
fn folder(path: &Path) -> Result<PathBuf> {
    let problem = |what: &str| Err(Failure::model(format!("{}: {what}", path.display())));
    let (folder, lacks) = match std::fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return problem("no such model folder"),
        Err(e) => return problem(&e.to_string()),
        Ok(metadata) if metadata.is_dir() => (path.to_owned(), "is not a model folder: it has no config.json"),
        Ok(_) => (path.with_file_name(""), "is a file with no config.json beside it: no part of a model"),
    };
    if folder.join("config.json").is_file() { Ok(folder) } else { problem(lacks) }
}

/// The demo model: trained by examples/demo-model, part of this repository and of this program.
fn demo() -> MemoryFolder {
    const CONFIG: &[u8] = include_bytes!("../../examples/demo-model/weights/config.json");
    const TOKENIZER: &[u8] = include_bytes!("../../examples/demo-model/weights/tokenizer.json");
    const WEIGHTS: &[u8] = include_bytes!("../../examples/demo-model/weights/model.safetensors");
    MemoryFolder::default()
        .with("config.json", CONFIG)
        .with("tokenizer.json", TOKENIZER)
        .with("model.safetensors", WEIGHTS)
}

struct Directory {
    path: PathBuf,
}

impl Folder for Directory {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, incoder::Result<Option<Box<dyn Source>>>> {
        Box::pin(async move {
            let failed = |e: std::io::Error| Error::Source { file: name.to_owned(), problem: explained(&e) };
            let path = self.path.join(name);
            // Asked before it is opened: opening a FIFO waits for somebody who writes to it.
            let metadata = match std::fs::metadata(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => match std::fs::symlink_metadata(&path) {
                    Ok(_) => return Err(Error::checkpoint(name, "is a link to a file that is not there")),
                    Err(_) => return Ok(None),
                },
                metadata => metadata.map_err(failed)?,
            };
            if let Some(kind) = other_kind(&metadata) {
                return Err(Error::checkpoint(name, format!("is {kind}, no ordinary file")));
            }
            let file = File::open(&path).map_err(failed)?;
            let size = metadata.len();
            Ok(Some(Box::new(OpenFile { name: name.to_owned(), size, file: Mutex::new(file) }) as Box<dyn Source>))
        })
    }
}

/// A file read by ranges. Ordinary reads and no memory map: a map of a file that another program cuts short ends the
/// process with a signal, a read ends with an error value.
struct OpenFile {
    name: String,
    size: u64,
    file: Mutex<File>,
}

impl Source for OpenFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read<'a>(&'a self, offset: u64, out: &'a mut [u8]) -> BoxFuture<'a, incoder::Result<()>> {
        Box::pin(async move {
            let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(out));
            read.map_err(|e| Error::Source { file: self.name.clone(), problem: explained(&e) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(path: &Path) -> Result<Box<dyn Folder>> {
        let global = Global { json: false, quiet: true, verbose: false };
        open(Some(path.as_os_str()), Needs::Everything, &global)
    }

    fn refused(path: &Path) -> String {
        let failure = opened(path).err().expect("refused");
        assert_eq!(failure.code, crate::failure::MODEL);
        failure.to_string()
    }

    #[test]
    fn says_what_is_not_a_model_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(refused(folder.path()).ends_with("is not a model folder: it has no config.json"));
        assert!(refused(&folder.path().join("none")).ends_with("no such model folder"));
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(refused(&folder.path().join("file")).ends_with("no config.json beside it: no part of a model"));
    }

    #[test]
    fn a_file_of_a_model_means_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "pytorch_model.bin"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let folder = opened(&folder.path().join("pytorch_model.bin")).map(|f| (f, folder)).unwrap();
        assert!(pollster::block_on(folder.0.open("config.json")).unwrap().is_some());
    }

    #[test]
    fn reads_ranges() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), "0123456789").unwrap();
        let folder = opened(folder.path()).map(|f| (f, folder)).unwrap();
        let source = pollster::block_on(folder.0.open("config.json")).unwrap().unwrap();
        let mut out = [0; 3];
        pollster::block_on(source.read(4, &mut out)).unwrap();
        assert_eq!((&out, source.size()), (b"456", 10));
        let beyond = pollster::block_on(source.read(8, &mut out)).unwrap_err();
        assert!(beyond.to_string().starts_with("reading config.json:"), "{beyond}");
        assert!(pollster::block_on(folder.0.open("tokenizer.json")).unwrap().is_none());
    }
}
