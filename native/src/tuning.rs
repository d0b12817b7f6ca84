//! Workgroup shapes that were measured on this machine's GPUs, kept from run to run.

use incoder::{Config, Error, Gpu, Tuning};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file, in the user's cache folder.
const FILE: &str = "incoder/tuning.json";

/// What is kept of a [`Tuning`]: what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    linear_slices: u32,
    linear_blocks: u32,
}

/// By adapter, driver, model size and version of this program.
type Kept = BTreeMap<String, Shape>;

/// `gpu` with the shapes that suit it and `config` best: measured the first time, then taken from the file. A file that cannot be
/// read or written costs a fraction of a second and nothing else.
pub async fn tuned(gpu: &Gpu, config: &Config) -> incoder::Result<Gpu> {
    let file = file(|name| std::env::var_os(name));
    let report = gpu.report();
    let version = env!("CARGO_PKG_VERSION");
    let (name, backend, driver) = (&report.name, &report.backend, &report.driver);
    let key = format!("{name}, {backend}, {driver}, {}x{}, {version}", config.d_model, config.ffn_dim);
    let mut kept = file.as_deref().map(read).unwrap_or_default();
    let shape = match kept.get(&key) {
        Some(&shape) => shape,
        None => {
            let found = match gpu.autotune(config).await {
                // Nothing was measured where there is nothing to choose.
                Ok(found) if found.tried.is_empty() => return Ok(gpu.clone()),
                // The model may yet fit: it needs other memory.
                Err(Error::OutOfMemory { .. } | Error::Limit { .. }) => return Ok(gpu.clone()),
                found => found?,
            };
            let Tuning { linear_slices, linear_blocks, .. } = found.tuning;
            tracing::info!("measured workgroup shapes (slices, blocks, GB/s): {:?}", found.tried);
            let shape = Shape { linear_slices, linear_blocks };
            kept.insert(key, shape);
            if let Some(Err(error)) = file.as_deref().map(|file| write(file, &kept)) {
                tracing::info!("what was measured is not kept: {error}");
            }
            shape
        }
    };
    let Shape { linear_slices, linear_blocks } = shape;
    Ok(gpu.with_tuning(Tuning { linear_slices, linear_blocks, ..gpu.tuning() }))
}

/// Where it is kept; nowhere without a home folder.
fn file(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("LOCALAPPDATA"));
    Some(cache.or_else(|| Some(set("HOME")?.join(".cache")))?.join(FILE))
}

/// What the file says; nothing when it is not there, not ours, or says what no kernel can be compiled for.
fn read(file: &Path) -> Kept {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut kept: Kept = serde_json::from_str(&text).unwrap_or_default();
    let possible = |n: u32| n.is_power_of_two() && n <= 32;
    kept.retain(|_, shape| possible(shape.linear_slices) && possible(shape.linear_blocks));
    kept.retain(|_, shape| shape.linear_slices * shape.linear_blocks <= 32);
    kept
}

/// Whole or not at all.
fn write(file: &Path, kept: &Kept) -> std::io::Result<()> {
    let folder = file.parent().ok_or(std::io::ErrorKind::NotFound)?;
    std::fs::create_dir_all(folder)?;
    let mut written = tempfile::NamedTempFile::new_in(folder)?;
    written.write_all(&serde_json::to_vec_pretty(kept)?)?;
    written.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_measured_and_nothing_impossible() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(|name| (name == "XDG_CACHE_HOME").then(|| folder.path().into())).unwrap();
        assert_eq!(read(&path), Kept::new());
        let shape = |linear_slices, linear_blocks| Shape { linear_slices, linear_blocks };
        let mut kept = Kept::from([("a".to_owned(), shape(16, 2))]);
        write(&path, &kept).unwrap();
        assert_eq!(read(&path), kept);
        let impossible = [("b", shape(3, 1)), ("c", shape(32, 2)), ("d", shape(0, 1))];
        kept.extend(impossible.map(|(name, shape)| (name.to_owned(), shape)));
        write(&path, &kept).unwrap();
        assert_eq!(read(&path).keys().collect::<Vec<_>>(), ["a"]);
        std::fs::write(&path, "no JSON").unwrap();
        assert_eq!(read(&path), Kept::new());
        assert_eq!(file(|_| None), None);
    }
}
