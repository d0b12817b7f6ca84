//! Where a checkpoint's bytes come from: byte ranges of named files, whatever the platform.

use crate::error::{Error, Result};
use std::future::Future;
use std::pin::Pin;

/// A boxed future that need not be `Send`: the browser's are not.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// One file, read by byte range.
pub trait Source {
    /// The file's name, for error texts.
    fn name(&self) -> &str;

    /// The file's length in bytes.
    fn size(&self) -> u64;

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::Source`] when the platform cannot deliver all of them.
    fn read<'a>(&'a self, offset: u64, out: &'a mut [u8]) -> BoxFuture<'a, Result<()>>;
}

/// A model folder: files by name.
pub trait Folder {
    /// The file `name`, or `None` when the folder has no such file.
    ///
    /// # Errors
    /// [`Error::Source`] when the file exists and cannot be opened.
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Box<dyn Source>>>>;
}

impl dyn Folder + '_ {
    /// The whole of a text file of at most `limit` bytes, without a byte-order mark.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when it is missing, larger than `limit`, or not UTF-8.
    pub async fn text(&self, name: &str, limit: u64) -> Result<String> {
        match self.open(name).await? {
            Some(source) => text(source.as_ref(), limit).await,
            None => Err(Error::checkpoint(name, "no such file in the model folder")),
        }
    }
}

/// The whole of `source` as text, when it is at most `limit` bytes long.
pub(super) async fn text(source: &dyn Source, limit: u64) -> Result<String> {
    let size = source.size();
    if size > limit {
        return Err(Error::checkpoint(source.name(), format!("is {size} bytes long, expected at most {limit}")));
    }
    let mut bytes = vec![0; size as usize];
    source.read(0, &mut bytes).await?;
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Error::checkpoint(source.name(), "is UTF-16; it must be UTF-8"));
    }
    let mark = usize::from(bytes.starts_with(b"\xef\xbb\xbf")) * 3;
    let text = String::from_utf8(bytes.split_off(mark));
    text.map_err(|e| Error::checkpoint(source.name(), format!("is not UTF-8: {}", e.utf8_error())))
}

/// A folder whose files lie in memory: the demo model inside the binary, and tests.
#[derive(Debug, Clone, Default)]
pub struct MemoryFolder {
    files: Vec<(String, std::borrow::Cow<'static, [u8]>)>,
}

impl MemoryFolder {
    /// The folder with one more file; a later file of the same name replaces the earlier.
    #[must_use]
    pub fn with(mut self, name: &str, bytes: impl Into<std::borrow::Cow<'static, [u8]>>) -> Self {
        self.files.retain(|(existing, _)| existing != name);
        self.files.push((name.to_owned(), bytes.into()));
        self
    }
}

impl Folder for MemoryFolder {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Box<dyn Source>>>> {
        let found = self.files.iter().find(|(file, _)| file == name);
        let source = found.map(|(name, bytes)| {
            Box::new(MemorySource { name: name.clone(), bytes: bytes.clone() }) as Box<dyn Source>
        });
        Box::pin(async { Ok(source) })
    }
}

struct MemorySource {
    name: String,
    bytes: std::borrow::Cow<'static, [u8]>,
}

impl Source for MemorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read<'a>(&'a self, offset: u64, out: &'a mut [u8]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let range =
                usize::try_from(offset).ok().and_then(|start| self.bytes.get(start..start.checked_add(out.len())?));
            let Some(bytes) = range else {
                let problem = format!("{} bytes at {offset} lie beyond its {} bytes", out.len(), self.bytes.len());
                return Err(Error::Source { file: self.name.clone(), problem });
            };
            out.copy_from_slice(bytes);
            Ok(())
        })
    }
}
