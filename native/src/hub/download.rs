//! Files of a model from the hub into the cache: several at once, each taken up where it broke off.

use super::blob::Partial;
use super::cache::{Repo, failed};
use super::http::{Http, Patience, Request, Trouble};
use super::listing::RemoteFile;
use super::progress::Progress;
use crate::failure::{Failure, Result};
use crate::{Global, terminal};
use fs4::TryLockError;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::http::{Response, header};

/// Files at once.
const PARALLEL: usize = 4;
const CHUNK_BYTES: usize = 256 << 10;
/// A pause that the user is told about.
const LONG: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(100);

/// The downloads of one snapshot.
pub struct Downloads<'a> {
    pub http: &'a Http,
    pub repo: &'a Repo,
    pub commit: &'a str,
    pub progress: Progress,
    pub global: &'a Global,
    stop: AtomicBool,
}

impl<'a> Downloads<'a> {
    /// `total` in bytes: of all files that will be asked for.
    pub fn new(http: &'a Http, repo: &'a Repo, commit: &'a str, total: u64, global: &'a Global) -> Self {
        let progress = Progress::new(repo.name.id(), total, global);
        Self { http, repo, commit, progress, global, stop: AtomicBool::new(false) }
    }

    /// Every file into its blob and the snapshot; the first failure ends all. What has come stays for the next time.
    pub fn all(&self, files: &[RemoteFile]) -> Result<()> {
        let _resumable = terminal::Resumable::begin();
        let (next, first_failure) = (AtomicUsize::new(0), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(files.len()) {
                scope.spawn(|| {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let Err(failure) = self.one(file) else { continue };
                        first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                        self.stop.store(true, Ordering::Relaxed);
                        return;
                    }
                });
            }
        });
        first_failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn one(&self, file: &RemoteFile) -> Result<()> {
        let _lock = self.lock(file)?;
        // Another process may have been at it meanwhile.
        if self.repo.has(self.commit, &file.name, file.size)? {
            self.progress.resumed(file.size);
            return Ok(());
        }
        if self.repo.has_blob(&file.etag, &file.name, file.size)? {
            self.progress.resumed(file.size);
        } else {
            self.fetch(file)?;
        }
        self.repo.link(self.commit, &file.name, &file.etag)
    }

    fn fetch(&self, file: &RemoteFile) -> Result<()> {
        let mut partial = Partial::open(self.repo, file, &self.progress)?;
        if partial.position > 0 {
            tracing::info!("{}: going on after {} of {} bytes", file.name, partial.position, file.size);
        }
        // Only what this run fetched from its first byte is known to be of one piece.
        let mut is_old = partial.position > 0;
        loop {
            self.pull(&mut partial)?;
            if partial.is_right()? {
                return partial.keep(self.repo);
            }
            if !is_old {
                return Err(partial.discard());
            }
            self.progress.note(self.global, &format!("{}: the first part was damaged; begun anew", file.name));
            partial.restart()?;
            is_old = false;
        }
    }

    /// All that is missing, with retries.
    fn pull(&self, partial: &mut Partial<'_>) -> Result<()> {
        let mut patience = Patience::for_download(partial.position);
        loop {
            match self.attempt(partial) {
                Ok(()) => return Ok(()),
                Err(Trouble::Final(failure)) => return Err(failure),
                Err(Trouble::Again { why, wait }) => {
                    let RemoteFile { name, size, .. } = partial.file;
                    tracing::info!("{name}: {why}, after {} of {size} bytes", partial.position);
                    if let Some(wait) = wait.filter(|wait| *wait >= LONG) {
                        self.progress.note(self.global, &format!("{name}: {why}, waiting {} s", wait.as_secs()));
                    }
                    if !patience.pause(partial.position, wait, &self.stop) {
                        let what = format!("{name}, {} of {size} bytes", partial.position);
                        return Err(self.http.gave_up(&what, &why));
                    }
                }
            }
        }
    }

    /// One request for all that is missing.
    fn attempt(&self, partial: &mut Partial<'_>) -> std::result::Result<(), Trouble> {
        let file = partial.file;
        if partial.position == file.size {
            return Ok(());
        }
        let from = Some(partial.position).filter(|from| *from > 0);
        let what = format!("{} of {}", file.name, self.repo.name.id());
        let hint = "the hub lists it and does not have it: try again later";
        let response = self.http.get(&Request { url: &file.url, what: &what, from, hint, quick: false })?;
        match (response.status().as_u16(), from) {
            (200, _) => {
                if from.is_some() {
                    tracing::info!("{}: the server knows no ranges, begun anew", file.name);
                    partial.restart()?;
                }
                let length = response.body().content_length();
                if let Some(length) = length.filter(|length| *length != file.size) {
                    return Err(lies(file, &format!("{length} bytes")));
                }
            }
            (206, Some(from)) => {
                let said = content_range(&response).unwrap_or_default();
                if said.0 != from || said.1.is_some_and(|total| total != file.size) {
                    let header = response.headers().get(header::CONTENT_RANGE);
                    return Err(lies(
                        file,
                        &format!("Content-Range {header:?} where bytes from {from} were asked for"),
                    ));
                }
            }
            (416, Some(_)) => {
                partial.restart()?;
                return Err(Trouble::again("the server refuses to go on (416)"));
            }
            (status, _) => return Err(lies(file, &format!("status {status} to a request without a range"))),
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK_BYTES];
        // Not a byte more than was listed: whether they are the right ones, the hash tells.
        while partial.position < file.size {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::runtime(format!("{}: stopped, another file failed", file.name)).into());
            }
            let most = (file.size - partial.position).min(CHUNK_BYTES as u64) as usize;
            match body.read(&mut buffer[..most]) {
                Ok(0) => return Err(Trouble::again("the connection ended early")),
                Ok(n) => partial.take(&buffer[..n])?,
                Err(e) => return Err(Trouble::again(format!("the connection broke off: {e}"))),
            }
        }
        Ok(())
    }

    /// Held while a blob is written: two processes must not write one file. huggingface_hub takes the same lock.
    fn lock(&self, file: &RemoteFile) -> Result<Option<File>> {
        let path = self.repo.locks.join(format!("{}.lock", file.etag));
        fs::create_dir_all(&self.repo.locks).map_err(|e| failed(&self.repo.locks, &e))?;
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let lock = open.map_err(|e| failed(&path, &e))?;
        let mut told = false;
        loop {
            match fs4::FileExt::try_lock(&lock) {
                Ok(()) => return Ok(Some(lock)),
                Err(TryLockError::WouldBlock) => {}
                // Some network file systems have no locks.
                Err(TryLockError::Error(e)) => {
                    tracing::info!("{}: {e}; going on without a lock", path.display());
                    return Ok(None);
                }
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::runtime(format!("{}: stopped, another file failed", file.name)));
            }
            if !told {
                let text = format!("another program is downloading {} of {}: waiting", file.name, self.repo.name.id());
                self.progress.note(self.global, &text);
                told = true;
            }
            std::thread::sleep(LOCK_POLL);
        }
    }
}

/// Start and total of `bytes 5-9/10`; the total may be unknown.
fn content_range<B>(response: &Response<B>) -> Option<(u64, Option<u64>)> {
    let said = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = said.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    Some((start, if total == "*" { None } else { Some(total.parse().ok()?) }))
}

fn lies(file: &RemoteFile, answer: &str) -> Trouble {
    let RemoteFile { name, size, .. } = file;
    Failure::runtime(format!("{name}: the server answers with {answer}; the hub lists {size} bytes; try again")).into()
}
