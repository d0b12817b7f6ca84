//! A file on its way into the cache: what is there of it on disk, and its hash so far.

use super::cache::{Repo, failed};
use super::hash::Hasher;
use super::listing::RemoteFile;
use super::progress::Progress;
use crate::failure::{Failure, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// `blobs/<etag>.incomplete`, as huggingface_hub names it; the bytes so far are hashed.
pub struct Partial<'a> {
    pub file: &'a RemoteFile,
    /// Bytes on disk.
    pub position: u64,
    path: PathBuf,
    out: File,
    hasher: Hasher,
    progress: &'a Progress,
}

impl<'a> Partial<'a> {
    /// Takes up what an earlier download left.
    pub fn open(repo: &Repo, file: &'a RemoteFile, progress: &'a Progress) -> Result<Self> {
        let path = repo.blob(&format!("{}.incomplete", file.etag));
        let folder = path.parent().unwrap_or(&repo.root);
        fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut out = open.map_err(|e| failed(&path, &e))?;
        let mut hasher = hasher(file)?;
        let position = hasher.update_from(&mut out).map_err(|e| failed(&path, &e))?;
        progress.resumed(position);
        let mut partial = Self { file, position, path, out, hasher, progress };
        if position > file.size {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// Begins anew.
    pub fn restart(&mut self) -> Result<()> {
        let emptied = self.out.set_len(0).and_then(|()| self.out.seek(SeekFrom::Start(0)));
        emptied.map_err(|e| failed(&self.path, &e))?;
        self.hasher = hasher(self.file)?;
        self.progress.take_back(self.position);
        self.position = 0;
        Ok(())
    }

    /// Writes the next bytes, of which there are not more than are missing.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| self.not_written(&e))?;
        let length = bytes.len() as u64;
        self.hasher.update(bytes);
        self.position += length;
        self.progress.add(length);
        Ok(())
    }

    /// Whether all bytes are there and are the right ones.
    pub fn is_right(&mut self) -> Result<bool> {
        let hasher = std::mem::replace(&mut self.hasher, hasher(self.file)?);
        Ok(self.position == self.file.size && hasher.finish() == self.file.etag)
    }

    /// Gives a file that is right its name.
    pub fn keep(self, repo: &Repo) -> Result<()> {
        self.out.sync_all().map_err(|e| self.not_written(&e))?;
        // Windows does not rename a file that is open.
        drop(self.out);
        fs::rename(&self.path, repo.blob(&self.file.etag)).map_err(|e| failed(&self.path, &e))
    }

    /// Deletes a file that is wrong, and says so.
    pub fn discard(self) -> Failure {
        drop(self.out);
        let gone = if fs::remove_file(&self.path).is_ok() { "it was deleted" } else { "it could not be deleted" };
        let RemoteFile { name, etag, .. } = self.file;
        Failure::runtime(format!(
            "{name}: what came is not the file that the hub lists (hash {etag}): {gone}; try again"
        ))
    }

    fn not_written(&self, error: &std::io::Error) -> Failure {
        let left = self.file.size.saturating_sub(self.position);
        if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            let path = self.path.display();
            return Failure::runtime(format!(
                "the disk is full: {left} bytes of {} are missing at {path}; free some and start again, it goes on there",
                self.file.name
            ));
        }
        failed(&self.path, error)
    }
}

fn hasher(file: &RemoteFile) -> Result<Hasher> {
    Hasher::new(&file.etag, file.size).ok_or_else(|| Failure::model(format!("{}: its hash is none", file.name)))
}
