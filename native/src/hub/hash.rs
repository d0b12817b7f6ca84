//! The hashes that blobs are named after: sha256 for large files, git's sha1 for the others.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::io::Read;

/// A blob's name as it comes about: 64 hex digits for LFS files, git's 40 for the others.
pub enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    /// For the blob of this name; None where the name is no hash. `size` in bytes is a part of git's.
    pub fn new(etag: &str, size: u64) -> Option<Self> {
        if !etag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        match etag.len() {
            64 => Some(Self::Sha256(Sha256::new())),
            40 => Some(Self::Git(Sha1::new_with_prefix(format!("blob {size}\0")))),
            _ => None,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// Reads to the end; how many bytes that were.
    pub fn update_from(&mut self, from: &mut impl Read) -> std::io::Result<u64> {
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(done),
                Ok(n) => {
                    self.update(&buffer[..n]);
                    done += n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Lower-case hex.
    pub fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(etag: &str, bytes: &[u8]) -> String {
        let mut hasher = Hasher::new(etag, bytes.len() as u64).unwrap();
        assert_eq!(hasher.update_from(&mut &bytes[..]).unwrap(), bytes.len() as u64);
        hasher.finish()
    }

    #[test]
    fn hashes_as_git_and_lfs_do() {
        // `printf 'hello\n' | git hash-object --stdin`, and sha256sum of the same.
        assert_eq!(hashed(&"0".repeat(40), b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(hashed(&"0".repeat(64), b"hello\n"), sha256);
        assert!(["", "abc", &"g".repeat(40), &"A".repeat(64)].iter().all(|name| Hasher::new(name, 0).is_none()));
    }
}
