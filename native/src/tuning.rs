//! Where what was found of a GPU is kept from run to run, the workgroup shapes that suit it and what it computes wrong: a file in the
//! user's cache folder.

use crate::terminal::note;
use incoder::{Config, Gpu, Tuned};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file, in the user's cache folder.
const FILE: &str = "incoder/tuning.json";

/// `gpu` with the shapes that suit it and `config` best, and without what it computes wrong, which is said: found out the first time,
/// then taken from the file. A file that cannot be read or written costs about two seconds and nothing else.
pub async fn tuned(gpu: &Gpu, config: &Config, quiet: bool) -> incoder::Result<Gpu> {
    let tuned = kept(gpu, config).await?;
    if let Some(warning) = tuned.warning {
        note(quiet, &format!("{warning}; `incoder doctor` tells more"));
    }
    Ok(tuned.gpu)
}

/// The same, with what is to be said.
pub async fn kept(gpu: &Gpu, config: &Config) -> incoder::Result<Tuned> {
    let file = file(FILE, |name| std::env::var_os(name));
    let report = gpu.report();
    let adapter = format!("{}, {}, {}", report.name, report.backend, report.driver);
    let kept = file.as_deref().and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    let tuned = gpu.tuned(config, &adapter, &kept).await?;
    if let (Some(file), Some(text)) = (file, &tuned.keep)
        && let Err(error) = write(&file, text)
    {
        tracing::info!("what was measured is not kept: {error}");
    }
    Ok(tuned)
}

/// Where `name` is kept; nowhere without a home folder.
pub fn file(name: &str, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("LOCALAPPDATA"));
    Some(cache.or_else(|| Some(set("HOME")?.join(".cache")))?.join(name))
}

/// Whole or not at all.
pub fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let folder = file.parent().ok_or(std::io::ErrorKind::NotFound)?;
    std::fs::create_dir_all(folder)?;
    let mut written = tempfile::NamedTempFile::new_in(folder)?;
    written.write_all(text.as_bytes())?;
    written.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_in_the_cache_folder_and_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(FILE, |name| (name == "XDG_CACHE_HOME").then(|| folder.path().into())).unwrap();
        assert_eq!(path, folder.path().join(FILE));
        for text in ["longer", "one"] {
            write(&path, text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(file(FILE, |name| (name == "HOME").then(|| "/h".into())), Some(Path::new("/h/.cache").join(FILE)));
        assert_eq!(file(FILE, |_| None), None);
    }
}
