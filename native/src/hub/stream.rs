//! A model that is read from the hub while it comes, and whose files are kept nowhere.

use super::download::{Answer, Ranges, answer};
use super::hash::Hasher;
use super::http::{Http, Patience, Trouble};
use super::listing::{Listing, RemoteFile};
use super::progress::Progress;
use crate::failure::{Failure, Result};
use incoder::checkpoint::{BoxFuture, MemoryFolder};
use incoder::{Error, Folder, Source};
use std::cell::{Cell, RefCell};
use std::io::Read;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use ureq::BodyReader;

/// What lies so near behind the last byte that was read is read on to, without another request.
const NEAR: u64 = 1 << 20;
const CHUNK_BYTES: usize = 256 << 10;

/// The weights of a model on the hub, and its other files from `small`.
pub struct Remote<'a> {
    pub listing: &'a Listing,
    pub small: MemoryFolder,
    shared: Rc<Shared>,
    opened: RefCell<Vec<Rc<Stream>>>,
}

struct Shared {
    http: Http,
    progress: Progress,
    received: Cell<u64>,
    /// Why reading failed: it says more than the [`Error::Source`] that the engine gets.
    failed: RefCell<Option<Failure>>,
}

impl<'a> Remote<'a> {
    pub fn new(http: Http, listing: &'a Listing, small: MemoryFolder, progress: Progress) -> Self {
        let shared = Rc::new(Shared { http, progress, received: Cell::new(0), failed: RefCell::default() });
        Self { listing, small, shared, opened: RefCell::default() }
    }

    /// What went wrong, where `error` says only that reading did.
    pub fn cause(&self, error: Error) -> Failure {
        let own = matches!(error, Error::Source { .. }).then(|| self.shared.failed.take()).flatten();
        own.unwrap_or_else(|| error.into())
    }

    /// Bytes that an earlier run left, about.
    pub fn resumed(&self, bytes: f64) {
        self.shared.progress.resumed(bytes as u64);
    }

    /// Bytes that came.
    pub fn received(&self) -> u64 {
        self.shared.received.get()
    }

    /// Everything that was wanted has been read: the name of a file that came from its first byte to its last and has another hash.
    /// Fails with RUNTIME where its end cannot be read.
    pub fn damaged(&self) -> Result<Option<String>> {
        for stream in self.opened.borrow().iter() {
            if stream.is_damaged()? {
                return Ok(Some(stream.file.name.clone()));
            }
        }
        Ok(None)
    }
}

impl Folder for Remote<'_> {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, incoder::Result<Option<Box<dyn Source>>>> {
        Box::pin(async move {
            let small = self.small.open(name).await?;
            let is_weights = [".safetensors", ".bin"].iter().any(|end| name.ends_with(end));
            if small.is_some() || !is_weights {
                return Ok(small);
            }
            let Ok(file) = self.listing.file(name) else { return Ok(None) };
            let shared = self.shared.clone();
            let hasher = Hasher::new(&file.etag, file.size);
            let state = RefCell::new(State { body: None, position: 0, hasher, hashed: 0 });
            let stream = Rc::new(Stream { file, shared, state });
            self.opened.borrow_mut().push(stream.clone());
            Ok(Some(Box::new(Opened(stream)) as Box<dyn Source>))
        })
    }
}

/// One file, read from front to back for the most part: a read that begins where the last one ended takes no request.
struct Stream {
    file: RemoteFile,
    shared: Rc<Shared>,
    state: RefCell<State>,
}

struct State {
    /// The answer that is being read, at `position` of the file.
    body: Option<BodyReader<'static>>,
    position: u64,
    hasher: Option<Hasher>,
    /// Bytes that went through the hasher, from the first byte of the file on.
    hashed: u64,
}

impl Stream {
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut state = self.state.borrow_mut();
        let (mut patience, mut ranges) = (Patience::for_download(0), Ranges::Trusted);
        let mut done = 0;
        loop {
            let why = match self.attempt(&mut state, offset, out, &mut done, &mut ranges) {
                Ok(()) => return Ok(()),
                Err(Trouble::Final(failure)) => return Err(failure),
                Err(Trouble::Again { why, wait }) => {
                    state.body = None;
                    tracing::info!("{}: {why}, after {} bytes", self.file.name, offset + done as u64);
                    // Whoever gets on starts counting anew.
                    match patience.pause(done as u64, wait, &AtomicBool::new(false)) {
                        true => continue,
                        false => why,
                    }
                }
            };
            let what = format!("{}, {} of {} bytes", self.file.name, offset + done as u64, self.file.size);
            return Err(self.shared.http.gave_up(&what, &why));
        }
    }

    fn attempt(
        &self,
        state: &mut State,
        offset: u64,
        out: &mut [u8],
        done: &mut usize,
        ranges: &mut Ranges,
    ) -> std::result::Result<(), Trouble> {
        while *done < out.len() {
            let at = offset + *done as u64;
            if state.body.is_none() || at < state.position || at > state.position + NEAR {
                // From the first byte on where that is near, so that all can be hashed.
                let is_near = state.hashed == 0 && at <= NEAR;
                let from = if is_near || *ranges == Ranges::Refused { 0 } else { at };
                let Answer { body, start, .. } = answer(&self.shared.http, &self.file, from, ranges)?;
                (state.body, state.position) = (Some(body), start);
            }
            let mut skipped = vec![0; if state.position < at { CHUNK_BYTES } else { 0 }];
            while state.position < at {
                let most = (at - state.position).min(CHUNK_BYTES as u64) as usize;
                self.next(state, &mut skipped[..most])?;
            }
            *done += self.next(state, &mut out[*done..])?;
        }
        Ok(())
    }

    /// The next bytes of the answer, at least one and at most as many as `out` holds.
    fn next(&self, state: &mut State, out: &mut [u8]) -> std::result::Result<usize, Trouble> {
        let most = out.len().min(CHUNK_BYTES);
        let read = match state.body.as_mut().map_or(Ok(0), |body| body.read(&mut out[..most])) {
            Ok(0) => return Err(Trouble::again("the connection ended early")),
            Ok(read) => read,
            Err(e) => return Err(Trouble::again(format!("the connection broke off: {e}"))),
        };
        state.hash(&out[..read]);
        state.position += read as u64;
        self.shared.progress.add(read as u64);
        self.shared.received.set(self.shared.received.get() + read as u64);
        Ok(read)
    }

    fn is_damaged(&self) -> Result<bool> {
        let (hashed, size) = (self.state.borrow().hashed, self.file.size);
        if hashed > 0 && hashed < size && size - hashed <= NEAR {
            // What follows the last tensor.
            self.read(hashed, &mut vec![0; (size - hashed) as usize])?;
        }
        let mut state = self.state.borrow_mut();
        let whole = state.hashed == size;
        let hash = state.hasher.take().filter(|_| whole).map(Hasher::finish);
        Ok(hash.is_some_and(|hash| hash != self.file.etag))
    }
}

impl State {
    /// Hashes what is new of the bytes at the position.
    fn hash(&mut self, bytes: &[u8]) {
        let end = self.position + bytes.len() as u64;
        if self.position <= self.hashed && end > self.hashed {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&bytes[(self.hashed - self.position) as usize..]);
            }
            self.hashed = end;
        }
    }
}

struct Opened(Rc<Stream>);

impl Source for Opened {
    fn name(&self) -> &str {
        &self.0.file.name
    }

    fn size(&self) -> u64 {
        self.0.file.size
    }

    fn read<'a>(&'a self, offset: u64, out: &'a mut [u8]) -> BoxFuture<'a, incoder::Result<()>> {
        Box::pin(async move {
            let (end, size) = (offset.saturating_add(out.len() as u64), self.size());
            if end > size {
                let problem = format!("{} bytes at {offset} lie beyond its {size} bytes", out.len());
                return Err(Error::checkpoint(self.name(), problem));
            }
            self.0.read(offset, out).map_err(|failure| {
                let problem = failure.to_string();
                *self.0.shared.failed.borrow_mut() = Some(failure);
                Error::Source { file: self.name().to_owned(), problem }
            })
        })
    }
}
