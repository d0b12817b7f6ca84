//! What lies behind a path: an ordinary file, or something that only looks like one.

use crate::failure::{Failure, Result};
use std::fs::Metadata;
use std::io::Read;
use std::path::Path;

/// No text that a person fills or scores is nearly as long; what goes on beyond is a device, or a mistake.
pub const MAX_TEXT_BYTES: u64 = 256 << 20;

/// What is there instead of an ordinary file; `None` for an ordinary file.
pub fn other_kind(file: &Metadata) -> Option<&'static str> {
    if file.is_file() {
        return None;
    }
    if file.is_dir() {
        return Some("a folder");
    }
    Some(special_kind(file))
}

#[cfg(unix)]
fn special_kind(file: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = file.file_type();
    if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "no ordinary file"
    }
}

#[cfg(not(unix))]
fn special_kind(_: &Metadata) -> &'static str {
    "no ordinary file"
}

/// The bytes of a text file, of a FIFO, or of whatever `path` is, as far as a text may go.
///
/// Fails with USAGE for what cannot be read, and for more than [`MAX_TEXT_BYTES`].
pub fn read(path: &Path, name: &str) -> Result<Vec<u8>> {
    let problem = |what: String| Failure::usage(format!("{name}: {what}"));
    let known = std::fs::metadata(path).map_err(|e| problem(explained(&e)))?;
    if known.is_dir() {
        return Err(problem("is a folder, not a file".into()));
    }
    if known.is_file() && known.len() > MAX_TEXT_BYTES {
        return Err(too_long(name));
    }
    let file = std::fs::File::open(path).map_err(|e| problem(explained(&e)))?;
    to_end(file, name)
}

/// All bytes of an open file.
pub fn to_end(file: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|e| Failure::usage(format!("{name}: {}", explained(&e))))?;
    if bytes.len() as u64 > MAX_TEXT_BYTES { Err(too_long(name)) } else { Ok(bytes) }
}

fn too_long(name: &str) -> Failure {
    let most = MAX_TEXT_BYTES >> 20;
    Failure::usage(format!("{name}: is longer than {most} MiB, which no text for a model is"))
}

/// What the system says, without its number.
pub fn explained(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_files_and_refuses_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read(&path, "a").unwrap(), b"text");
        assert_eq!(read(folder.path(), "a").unwrap_err().to_string(), "a: is a folder, not a file");
        assert_eq!(read(&folder.path().join("b"), "b").unwrap_err().to_string(), "b: No such file or directory");
        let sparse = std::fs::File::create(&path).unwrap();
        sparse.set_len(MAX_TEXT_BYTES + 1).unwrap();
        assert!(read(&path, "a").unwrap_err().to_string().contains("longer than 256 MiB"));
        assert!(to_end(std::io::repeat(0), "zero").unwrap_err().to_string().contains("longer than 256 MiB"));
    }
}
