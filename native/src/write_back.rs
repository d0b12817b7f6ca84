//! Writing a filled file in place.
//!
//! The new text goes to a temporary file beside the old one, which is then renamed over it: at every moment the disk holds the old
//! text or the new. Where a new file would not be the old one in all but its text (its owner, its access rules, its other names),
//! or the folder takes no new file, the file itself is written, and gets the old text back when that fails.

use crate::failure::{Failure, Result};
use crate::files::{explained, other_kind};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file that can be written back, checked before anything is computed for it.
#[derive(Debug)]
pub struct Target {
    /// As the user named it.
    name: PathBuf,
    /// A symbolic link stays a link: the file that it names is written.
    path: PathBuf,
    metadata: Metadata,
}

impl Target {
    /// Fails with USAGE for what is no ordinary file, with RUNTIME for one that cannot be written.
    pub fn new(name: &Path) -> Result<Self> {
        let shown = name.display();
        let io = |e: std::io::Error| Failure::usage(format!("{shown}: {}", explained(&e)));
        let path = name.canonicalize().map_err(io)?;
        let metadata = std::fs::metadata(&path).map_err(io)?;
        if let Some(kind) = other_kind(&metadata) {
            let problem = format!("{shown} is {kind}, no ordinary file: --in-place cannot write it back");
            return Err(Failure::usage(problem));
        }
        let target = Self { name: name.to_owned(), path, metadata };
        if target.metadata.permissions().readonly() {
            return Err(target.problem("the file is read-only"));
        }
        OpenOptions::new().write(true).open(&target.path).map_err(|e| target.problem(&explained(&e)))?;
        Ok(target)
    }

    fn problem(&self, what: &str) -> Failure {
        Failure::runtime(format!("{}: {what}; nothing was written", self.name.display()))
    }

    /// Replaces the file's bytes, which were `old` when they were read.
    pub fn replace(&self, old: &[u8], new: &[u8]) -> Result<()> {
        let io = |e: std::io::Error| self.problem(&explained(&e));
        let metadata = std::fs::metadata(&self.path).map_err(io)?;
        if other_kind(&metadata).is_some() || std::fs::read(&self.path).map_err(io)? != old {
            return Err(self.problem("the file changed while it was being filled"));
        }
        match self.beside(new, &metadata) {
            Ok(file) => file.persist(&self.path).map(drop).map_err(|e| io(e.error)),
            // A disk that is full has no room for the file itself either.
            Err(e) if matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
                Err(io(e))
            }
            Err(e) => {
                tracing::info!("{}: {e}: the file itself is written", self.name.display());
                self.overwrite(old, new)
            }
        }
    }

    /// A file beside the old one that is the same but for its bytes; an error where that cannot be.
    fn beside(&self, new: &[u8], metadata: &Metadata) -> std::io::Result<tempfile::NamedTempFile> {
        let folder = self.path.parent().ok_or(std::io::ErrorKind::NotFound)?;
        if names(metadata) > 1 {
            return Err(std::io::Error::other("it has other names (hard links), which stay the same file"));
        }
        let mut file = tempfile::Builder::new().prefix(".incoder-").tempfile_in(folder)?;
        file.write_all(new)?;
        copy_attributes(&self.path, metadata, file.as_file())?;
        file.as_file().sync_all()?;
        Ok(file)
    }

    /// Writes the file itself; the old bytes come back when the new ones cannot be written.
    fn overwrite(&self, old: &[u8], new: &[u8]) -> Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.path).map_err(|e| self.problem(&explained(&e)))?;
        let mut put = |bytes: &[u8]| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(bytes)?;
            file.set_len(bytes.len() as u64)?;
            file.sync_all()
        };
        let Err(error) = put(new) else { return Ok(()) };
        match put(old) {
            Ok(()) => Err(self.problem(&explained(&error))),
            Err(_) => Err(Failure::runtime(format!(
                "{}: {}; the file is damaged, and its old text could not be put back",
                self.name.display(),
                explained(&error)
            ))),
        }
    }
}

/// How many names the file has.
#[cfg(unix)]
fn names(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
fn names(_: &Metadata) -> u64 {
    1
}

/// Owner, group, extended attributes (access-control lists are among them) and mode of the old file.
#[cfg(unix)]
fn copy_attributes(old: &Path, metadata: &Metadata, new: &File) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    use xattr::FileExt;
    let made = new.metadata()?;
    if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(new, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    match xattr::list(old) {
        Ok(names) => {
            for name in names {
                let value = xattr::get(old, &name)?.unwrap_or_default();
                if new.get_xattr(&name).ok().flatten().as_deref() != Some(&value[..]) {
                    new.set_xattr(&name, &value)?;
                }
            }
        }
        // A file system without them.
        Err(e) if e.kind() == std::io::ErrorKind::Unsupported => {}
        Err(e) => return Err(e),
    }
    // Last: a change of the owner takes some of its bits.
    new.set_permissions(metadata.permissions())
}

#[cfg(not(unix))]
fn copy_attributes(_: &Path, metadata: &Metadata, new: &File) -> std::io::Result<()> {
    new.set_permissions(metadata.permissions())
}

/// A unified diff that `patch -p0` and `git apply -p0` take.
pub fn diff(path: &Path, old: &str, new: &str) -> String {
    let name = diff_name(path);
    let diff = similar::TextDiff::from_lines(old, new);
    diff.unified_diff().context_radius(3).header(&name, &name).missing_newline_hint(true).to_string()
}

/// A file's name in the head of a diff: relative where it lies below this folder, as `patch` refuses others, and in such a form
/// that blanks and control characters in it are read as parts of it.
fn diff_name(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    let name = relative.as_deref().unwrap_or(path).display().to_string();
    if name.contains(|c: char| c.is_control() || matches!(c, '"' | '\\')) {
        let escaped = name.chars().map(|c| match c {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            '\n' => "\\n".to_owned(),
            '\t' => "\\t".to_owned(),
            c if c.is_control() => format!("\\{:03o}", u32::from(c)),
            c => c.to_string(),
        });
        return format!("\"{}\"", escaped.collect::<String>());
    }
    // What follows a tab is no part of the name.
    if name.contains(' ') { name + "\t" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    fn replace(path: &Path, old: &str, new: &str) -> Result<()> {
        Target::new(path)?.replace(old.as_bytes(), new.as_bytes())
    }

    #[test]
    fn replaces_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.py");
        fs::write(&path, "old").unwrap();
        replace(&path, "old", "new").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries(folder.path())), ("new", 1));
    }

    #[test]
    fn refuses_when_the_file_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.py");
        fs::write(&path, "edited meanwhile").unwrap();
        let error = replace(&path, "old", "new").unwrap_err();
        assert!(error.to_string().ends_with("the file changed while it was being filled; nothing was written"));
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), entries(folder.path())), ("edited meanwhile", 1));
    }

    #[cfg(unix)]
    #[test]
    fn keeps_everything_but_the_text() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.py"), folder.path().join("link.py"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        // Only root gives files away, and not every file system has attributes: what could be set is what has to stay.
        let given = std::os::unix::fs::chown(&path, Some(65534), Some(65534)).is_ok();
        let attributed = xattr::set(&path, "user.kept", b"value").is_ok();
        let before = fs::metadata(&path).unwrap();
        replace(&link, "old", "new").unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()), "{given}");
        assert_eq!(xattr::get(&path, "user.kept").ok().flatten(), attributed.then(|| b"value".to_vec()));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(entries(folder.path()), 2);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        assert!(replace(&path, "new", "newer").unwrap_err().to_string().contains("read-only"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[cfg(unix)]
    #[test]
    fn hard_links_stay_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a.py"), folder.path().join("b.py"));
        fs::write(&path, "a longer text").unwrap();
        fs::hard_link(&path, &other).unwrap();
        replace(&path, "a longer text", "new").unwrap();
        assert_eq!((fs::read_to_string(&other).unwrap().as_str(), entries(folder.path())), ("new", 2));
    }

    #[cfg(unix)]
    #[test]
    fn only_ordinary_files_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        for (path, kind) in [
            (fifo, "a FIFO"),
            (folder.path().join("socket"), "a socket"),
            (folder.path().into(), "a folder"),
            ("/dev/null".into(), "a device"),
        ] {
            let error = Target::new(&path).unwrap_err();
            let expected = format!("{} is {kind}, no ordinary file: --in-place cannot write it back", path.display());
            assert_eq!((error.code, error.to_string()), (crate::failure::USAGE, expected));
        }
    }

    #[test]
    fn diff_is_unified() {
        let made = |name: &str| diff(Path::new(name), "one\ntwo\n", "one\n2\nthree");
        let body = "@@ -1,2 +1,3 @@\n one\n-two\n+2\n+three\n\\ No newline at end of file\n";
        let here = std::env::current_dir().unwrap().join("b.py");
        for (name, shown) in
            [("a.py", "a.py"), ("a b.py", "a b.py\t"), ("a\n\"b", "\"a\\n\\\"b\""), (here.to_str().unwrap(), "b.py")]
        {
            assert_eq!(made(name), format!("--- {shown}\n+++ {shown}\n{body}"), "{name}");
        }
    }
}
