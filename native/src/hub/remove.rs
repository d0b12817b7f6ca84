//! Models out of the cache: what belongs to one, and nothing else.

use super::cache::{Repo, failed, names_in};
use super::name::ModelName;
use crate::failure::{Failure, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Removes the model, or the one revision that `name` has. The bytes that are free afterwards.
pub fn remove(repo: &Repo, name: &ModelName) -> Result<u64> {
    // Links are removed and never followed: what they lead to may be another's.
    for folder in [&repo.root, &repo.root.join("blobs"), &repo.root.join("snapshots"), &repo.root.join("refs")] {
        if fs::symlink_metadata(folder).is_ok_and(|found| !found.is_dir()) {
            let folder = folder.display();
            return Err(Failure::runtime(format!("{folder} is a link and no folder: remove it by hand")));
        }
    }
    let Some(revision) = name.named_revision() else {
        let size = tree_bytes(&repo.root);
        fs::remove_dir_all(&repo.root).map_err(|e| failed(&repo.root, &e))?;
        // Lock files are of no use without it, and of no harm.
        let _ = fs::remove_dir_all(&repo.locks);
        return Ok(size);
    };
    let commit = repo.commit(revision);
    let commit = commit.ok_or_else(|| Failure::model(format!("{name} is not in the cache")))?;
    let others: BTreeSet<String> = repo
        .commits()
        .iter()
        .filter(|other| **other != commit)
        .flat_map(|other| repo.blobs_of(other).into_keys())
        .collect();
    if others.is_empty() && repo.commits().iter().all(|other| *other == commit) {
        return remove(repo, &ModelName::parse(name.id()).map_err(Failure::usage)?);
    }
    let before = tree_bytes(&repo.root);
    for etag in repo.blobs_of(&commit).into_keys().filter(|etag| !others.contains(etag)) {
        let blob = repo.blob(&etag);
        match fs::remove_file(&blob) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(&blob, &e)),
            _ => {}
        }
    }
    let snapshot = repo.snapshot(&commit);
    if snapshot.exists() {
        fs::remove_dir_all(&snapshot).map_err(|e| failed(&snapshot, &e))?;
    }
    repo.forget_hashes(&commit);
    repo.forget_quantized(&commit);
    for (reference, _) in repo.refs().into_iter().filter(|(_, of)| *of == commit) {
        let path = repo.root.join("refs").join(reference);
        fs::remove_file(&path).map_err(|e| failed(&path, &e))?;
    }
    Ok(before.saturating_sub(tree_bytes(&repo.root)))
}

impl Repo {
    /// The blobs that a snapshot links to, with the names that it has for them.
    pub fn blobs_of(&self, commit: &str) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        collect_links(&self.snapshot(commit), "", &mut found);
        found
    }

    /// What the snapshots call the blobs.
    pub fn names_of_blobs(&self) -> BTreeMap<String, String> {
        self.commits().iter().flat_map(|commit| self.blobs_of(commit)).collect()
    }

    /// Files that lie in a snapshot themselves, where links were not possible, with its commit.
    pub fn files_without_blob(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for commit in self.commits() {
            let folder = self.snapshot(&commit);
            let plain = |name: &String| fs::symlink_metadata(folder.join(name)).is_ok_and(|file| file.is_file());
            let mut names: Vec<String> = names_in(&folder).into_iter().filter(plain).collect();
            names.sort();
            found.extend(names.into_iter().map(|name| (commit.clone(), name)));
        }
        found
    }
}

/// Python's snapshots may have folders: what they link to is in use, too.
fn collect_links(folder: &Path, before: &str, found: &mut BTreeMap<String, String>) {
    for name in names_in(folder) {
        let (path, full) = (folder.join(&name), format!("{before}{name}"));
        if let Ok(target) = fs::read_link(&path) {
            // A link to another place than the blobs is none of this model's.
            let is_blob = target.parent().is_some_and(|parent| parent.ends_with("blobs"));
            if let Some(etag) = target.file_name().and_then(|etag| etag.to_str()).filter(|_| is_blob) {
                found.insert(etag.to_owned(), full);
            }
        } else if path.is_dir() {
            collect_links(&path, &(full + "/"), found);
        }
    }
}

/// Bytes of the files below a folder; links count nothing.
fn tree_bytes(folder: &Path) -> u64 {
    let mut sum = 0_u64;
    for name in names_in(folder) {
        let path = folder.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => sum = sum.saturating_add(tree_bytes(&path)),
            Ok(found) if found.is_file() => sum = sum.saturating_add(found.len()),
            _ => {}
        }
    }
    sum
}
