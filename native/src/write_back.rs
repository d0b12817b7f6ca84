//! Writing a filled file in place, so that at every moment the disk holds either the old text or the new one.

use crate::failure::{Failure, Result};
use std::io::Write;
use std::path::Path;

/// Replaces the file's text, which was `old` when it was read. The new text goes to a temporary file beside it, which
/// is then renamed over it; permissions stay. A symbolic link stays a link: the file that it names is replaced.
pub fn replace(path: &Path, old: &str, new: &str) -> Result<()> {
    let problem = |what: String| Failure::runtime(format!("{}: {what}; nothing was written", path.display()));
    let io = |e: std::io::Error| problem(e.to_string());
    let target = path.canonicalize().map_err(io)?;
    if std::fs::read(&target).map_err(io)? != old.as_bytes() {
        return Err(problem("the file changed while it was being filled".into()));
    }
    let permissions = std::fs::metadata(&target).map_err(io)?.permissions();
    if permissions.readonly() {
        return Err(problem("the file is read-only".into()));
    }
    let folder = target.parent().ok_or_else(|| problem("it has no folder".into()))?;
    let mut file = tempfile::Builder::new().prefix(".incoder-").tempfile_in(folder).map_err(io)?;
    file.write_all(new.as_bytes()).map_err(io)?;
    file.as_file().set_permissions(permissions).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(&target).map_err(|e| io(e.error))?;
    Ok(())
}

/// A unified diff that `patch` and `git apply -p0` take.
pub fn diff(name: &str, old: &str, new: &str) -> String {
    let diff = similar::TextDiff::from_lines(old, new);
    diff.unified_diff().context_radius(3).header(name, name).missing_newline_hint(true).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn entries(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
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
    fn keeps_permissions_and_links() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.py"), folder.path().join("link.py"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace(&link, "old", "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o751);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        assert!(replace(&path, "new", "newer").unwrap_err().to_string().contains("read-only"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn diff_is_unified() {
        let diff = diff("a.py", "one\ntwo\n", "one\n2\nthree");
        let expected = "--- a.py\n+++ a.py\n@@ -1,2 +1,3 @@\n one\n-two\n+2\n+three\n\\ No newline at end of file\n";
        assert_eq!(diff, expected);
    }
}
