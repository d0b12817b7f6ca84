//! The cache on disk, in huggingface_hub's layout: what it downloaded is found here, and the other way round.

use super::files::{MAX_JSON_BYTES, Needs, Place, choose};
use super::name::{ModelName, is_commit};
use super::settings::Settings;
use crate::failure::{Failure, Result};
use serde_json::Value;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// The folder of hashes of files that are no links: huggingface_hub looks at blobs, refs and snapshots only.
const HASHES: &str = ".hashes";
/// The shortest beginning of a commit id that is taken for one.
const SHORT_COMMIT: usize = 7;

/// A model's part of the cache: `models--org--name/{blobs,refs,snapshots}`.
#[derive(Debug)]
pub struct Repo {
    pub name: ModelName,
    /// `models--org--name`; may not be there yet.
    pub root: PathBuf,
    /// Where the lock files of its blobs are; not part of `root`, as in Python.
    pub locks: PathBuf,
    symlinks: bool,
}

impl Repo {
    pub fn new(settings: &Settings, name: &ModelName) -> Self {
        let (cache, folder) = (&settings.cache, name.folder());
        let symlinks = !settings.no_symlinks;
        Self { name: name.clone(), root: cache.join(&folder), locks: cache.join(".locks").join(&folder), symlinks }
    }

    /// All models in the cache, by name.
    pub fn all(settings: &Settings) -> Vec<Self> {
        let mut names: Vec<_> = names_in(&settings.cache).iter().filter_map(|f| ModelName::of_folder(f)).collect();
        names.sort_by(|a, b| a.id().cmp(b.id()));
        names.iter().map(|name| Self::new(settings, name)).collect()
    }

    /// `etag` is the blob's hash in hex.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commits that there are snapshots of.
    pub fn commits(&self) -> Vec<String> {
        let mut commits = names_in(&self.root.join("snapshots"));
        commits.retain(|name| is_commit(name));
        commits.sort();
        commits
    }

    /// The commit that a branch, tag, commit or beginning of a commit means here.
    pub fn commit(&self, revision: &str) -> Option<String> {
        let commits = self.commits();
        if commits.iter().any(|commit| commit == revision) {
            return Some(revision.to_owned());
        }
        if let Some(commit) = read_ref(&self.root.join("refs").join(revision)) {
            return Some(commit);
        }
        let mut begin = commits.into_iter().filter(|c| revision.len() >= SHORT_COMMIT && c.starts_with(revision));
        begin.next().filter(|_| begin.next().is_none())
    }

    /// Every branch and tag, with its commit.
    pub fn refs(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        collect_refs(&self.root.join("refs"), "", 0, &mut found);
        found.sort();
        found
    }

    /// Notes which commit a branch or tag is; nothing for a commit itself. A reader never sees half of it.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.root.join("refs").join(revision);
        if revision == commit || read_ref(&path).as_deref() == Some(commit) {
            return Ok(());
        }
        let new = path.with_file_name(format!(".{}.tmp", std::process::id()));
        let folder = path.parent().unwrap_or(&self.root);
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&new, commit));
        written.and_then(|()| fs::rename(&new, &path)).map_err(|e| failed(&path, &e))
    }

    /// What a snapshot lacks to be usable; None when it is whole.
    pub fn lacks(&self, commit: &str, needs: Needs) -> Option<Failure> {
        choose(&Snapshot { repo: self, folder: self.snapshot(commit) }, needs).err()
    }

    /// Whether the snapshot already has the file. Fails with MODEL where it has one of another size.
    pub fn has(&self, commit: &str, name: &str, size: u64) -> Result<bool> {
        self.is_whole(&self.snapshot(commit).join(name), name, size)
    }

    /// Whether the blob is there. Fails with MODEL where it has another size.
    pub fn has_blob(&self, etag: &str, name: &str, size: u64) -> Result<bool> {
        self.is_whole(&self.blob(etag), name, size)
    }

    fn is_whole(&self, path: &Path, name: &str, size: u64) -> Result<bool> {
        match fs::metadata(path) {
            Ok(file) if file.is_file() && file.len() == size => Ok(true),
            Ok(file) => {
                let (have, id) = (file.len(), self.name.id());
                let advice = format!("`incoder models verify {id}` tells which is right");
                Err(Failure::model(format!("{name} has {have} bytes in the cache, the hub says {size}: {advice}")))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed(path, &e)),
        }
    }

    /// Puts a blob that is whole into a snapshot: a link, or the file itself where links are not possible.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<()> {
        let (folder, blob) = (self.snapshot(commit), self.blob(etag));
        let path = folder.join(name);
        fs::create_dir_all(&folder).map_err(|e| failed(&folder, &e))?;
        if path.is_file() {
            return Ok(());
        }
        if self.symlinks {
            // A link to a blob that is no more is in the way.
            let _ = fs::remove_file(&path);
            let linked = symlink(&Path::new("..").join("..").join("blobs").join(etag), &path);
            if linked.is_ok() || path.is_file() {
                return Ok(());
            }
        }
        // As Python does it: another snapshot that wants the blob downloads it again.
        fs::rename(&blob, &path).map_err(|e| failed(&path, &e))
    }

    /// Where the hash of a file is noted that lies in a snapshot itself: the name of a blob says it, and such a file has none.
    fn hash_file(&self, commit: &str, name: &str) -> PathBuf {
        self.root.join(HASHES).join(commit).join(name)
    }

    /// Notes the hash of a file that could not be linked. Where that fails, `models verify` asks the hub.
    pub fn note_hash(&self, commit: &str, name: &str, etag: &str) {
        if fs::symlink_metadata(self.snapshot(commit).join(name)).is_ok_and(|file| file.is_symlink()) {
            return;
        }
        let path = self.hash_file(commit, name);
        let folder = path.parent().unwrap_or(&self.root);
        if let Err(error) = fs::create_dir_all(folder).and_then(|()| fs::write(&path, etag)) {
            tracing::info!("{}: {error}", path.display());
        }
    }

    /// What [`Repo::note_hash`] noted.
    pub fn noted_hash(&self, commit: &str, name: &str) -> Option<String> {
        let mut text = String::new();
        fs::File::open(self.hash_file(commit, name)).ok()?.take(100).read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned())
    }

    /// Forgets the hashes of a snapshot.
    pub fn forget_hashes(&self, commit: &str) {
        let _ = fs::remove_dir_all(self.root.join(HASHES).join(commit));
    }

    /// Bytes of the files of a snapshot, those behind links included.
    pub fn snapshot_bytes(&self, commit: &str) -> u64 {
        let folder = self.snapshot(commit);
        let sizes = names_in(&folder).into_iter().filter_map(|name| fs::metadata(folder.join(name)).ok());
        sizes.filter(fs::Metadata::is_file).fold(0, |sum, file| sum.saturating_add(file.len()))
    }

    /// Bytes of downloads that are not finished.
    pub fn incomplete_bytes(&self) -> u64 {
        let blobs = self.root.join("blobs");
        let unfinished = names_in(&blobs).into_iter().filter(|name| name.ends_with(".incomplete"));
        let sizes = unfinished.filter_map(|name| fs::symlink_metadata(blobs.join(name)).ok());
        sizes.fold(0, |sum, file| sum.saturating_add(file.len()))
    }

    /// Whether the snapshot's config.json is one of a model that this program runs.
    pub fn is_incoder(&self, commit: &str) -> bool {
        read_json(&self.snapshot(commit).join("config.json")).is_ok_and(|config| config["model_type"] == "xglm")
    }
}

/// A snapshot as a place to choose files from.
struct Snapshot<'a> {
    repo: &'a Repo,
    folder: PathBuf,
}

impl Place for Snapshot<'_> {
    type File = PathBuf;

    fn find(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(name)).filter(|path| path.is_file())
    }

    fn json(&self, file: &PathBuf) -> Result<Value> {
        read_json(file)
    }

    fn missing(&self, name: &str) -> Failure {
        Failure::model(format!("{} is not whole in the cache: it lacks {name}", self.repo.name))
    }
}

/// JSON of at most 32 MiB.
pub fn read_json(path: &Path) -> Result<Value> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|e| failed(path, &e))?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        return Err(Failure::model(format!("{}: longer than any such file", path.display())));
    }
    let problem = |problem: String| Failure::model(format!("{}: {problem}", path.display()));
    let text = String::from_utf8(bytes).map_err(|_| problem("is not UTF-8".to_owned()))?;
    incoder::json::parse(&text).map_err(problem)
}

/// A file of the cache that could not be read or written.
pub fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::runtime(format!("{}: {error}", path.display()))
}

/// The names in a folder that are UTF-8; none where there is no folder.
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn read_ref(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(100).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
}

fn collect_refs(folder: &Path, before: &str, depth: usize, found: &mut Vec<(String, String)>) {
    // What begins with a dot is a ref that is being written.
    for name in names_in(folder).into_iter().filter(|name| !name.starts_with('.')) {
        let (path, full) = (folder.join(&name), format!("{before}{name}"));
        if let Some(commit) = read_ref(&path) {
            found.push((full, commit));
        } else if depth < 8 && path.is_dir() {
            collect_refs(&path, &(full + "/"), depth + 1, found);
        }
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}
