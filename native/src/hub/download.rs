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
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use ureq::BodyReader;
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
        self.repo.link(self.commit, &file.name, &file.etag)?;
        self.repo.note_hash(self.commit, &file.name, &file.etag);
        Ok(())
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
        let mut ranges = Ranges::Trusted;
        loop {
            match self.attempt(partial, &mut ranges) {
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

    /// One request for all that is missing; for the whole file where the server's ranges are not what was asked for.
    fn attempt(&self, partial: &mut Partial<'_>, ranges: &mut Ranges) -> std::result::Result<(), Trouble> {
        let file = partial.file;
        if partial.position == file.size {
            return Ok(());
        }
        if *ranges == Ranges::Refused && partial.position > 0 {
            partial.restart()?;
        }
        let Answer { mut body, start, is_whole } = answer(self.http, file, partial.position, ranges)?;
        if is_whole && partial.position > 0 {
            tracing::info!("{}: the server knows no ranges, begun anew", file.name);
            partial.restart()?;
        }
        // Bytes of the answer that are there already.
        let known = partial.position - start;
        if known > 0 {
            tracing::info!("{}: the answer begins {known} bytes earlier than was asked for", file.name);
            let skipped = std::io::copy(&mut body.by_ref().take(known), &mut std::io::sink());
            if !skipped.is_ok_and(|skipped| skipped == known) {
                return Err(ranges.refuse("the answer to a range ended before its first new byte".to_owned()));
            }
        }
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
        let waiting = || {
            let text = format!("another program is downloading {} of {}: waiting", file.name, self.repo.name.id());
            self.progress.note(self.global, &text);
        };
        match wait_for_lock(&path, &waiting, &|| self.stop.load(Ordering::Relaxed)) {
            Ok(_) if self.stop.load(Ordering::Relaxed) => {
                Err(Failure::runtime(format!("{}: stopped, another file failed", file.name)))
            }
            lock => lock,
        }
    }
}

/// Waits for a lock until `stopped`, and says so; None where there are no locks.
pub fn wait_for_lock(path: &Path, waiting: &dyn Fn(), stopped: &dyn Fn() -> bool) -> Result<Option<File>> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let lock = open.map_err(|e| failed(path, &e))?;
    let mut told = false;
    loop {
        match fs4::FileExt::try_lock(&lock) {
            Ok(()) => return Ok(Some(lock)),
            Err(TryLockError::WouldBlock) if stopped() => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
            // Some network file systems have no locks.
            Err(TryLockError::Error(e)) => {
                tracing::info!("{}: {e}; going on without a lock", path.display());
                return Ok(None);
            }
        }
        if !told {
            waiting();
            told = true;
        }
        std::thread::sleep(LOCK_POLL);
    }
}

/// The bytes of a file from `start` on.
pub struct Answer {
    pub body: BodyReader<'static>,
    pub start: u64,
    /// The server sends the whole file, whatever was asked for.
    pub is_whole: bool,
}

/// One request for a file from `from` on: the answer begins there, or before.
pub fn answer(http: &Http, file: &RemoteFile, from: u64, ranges: &mut Ranges) -> std::result::Result<Answer, Trouble> {
    let wanted = Some(from).filter(|from| *from > 0);
    let what = format!("{} of {}", file.name, http.model().id());
    let hint = "the hub lists it and does not have it: try again later";
    let response = http.get(&Request { url: &file.url, what: &what, from: wanted, hint, quick: false })?;
    let start = match (response.status().as_u16(), wanted) {
        (200, _) => {
            let length = response.body().content_length();
            if let Some(length) = length.filter(|length| *length != file.size) {
                return Err(lies(file, &format!("{length} bytes")));
            }
            0
        }
        (206, _) => match content_range(&response) {
            // Caches that keep blocks answer from the beginning of one.
            Some((start, total)) if start <= from && total.is_none_or(|total| total == file.size) => start,
            _ => {
                let said = response.headers().get(header::CONTENT_RANGE).and_then(|said| said.to_str().ok());
                let said = said.map_or("no Content-Range".to_owned(), |said| format!("Content-Range {said}"));
                let problem = format!("asked for bytes from {from} on, the server answers with {said}");
                return Err(ranges.refuse(problem));
            }
        },
        (416, Some(_)) => return Err(ranges.refuse("the server refuses to go on (416)".to_owned())),
        (status, _) => return Err(lies(file, &format!("status {status} to a request without a range"))),
    };
    let is_whole = response.status() == 200;
    Ok(Answer { body: response.into_body().into_reader(), start, is_whole })
}

/// What is to be made of a server's ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    Trusted,
    /// It answers them with something else: files come whole or not at all.
    Refused,
}

impl Ranges {
    /// From here on files are asked for as a whole. Where that was so already, nothing else can be tried.
    fn refuse(&mut self, why: String) -> Trouble {
        match std::mem::replace(self, Self::Refused) {
            Self::Trusted => Trouble::Again { why, wait: Some(Duration::ZERO) },
            Self::Refused => Failure::runtime(format!("{why}; another mirror may do better (HF_ENDPOINT)")).into(),
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
    let advice = "try again, or with another mirror (HF_ENDPOINT)";
    Failure::runtime(format!("{name}: the server answers with {answer}; the hub lists {size} bytes: {advice}")).into()
}
