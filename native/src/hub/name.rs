//! What `-m` names: a path, or a model of the hub.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// The branch that is meant when none is named.
pub const DEFAULT_REVISION: &str = "main";
/// Python's bound for each half of a name.
const MAX_PART: usize = 96;
const MAX_REVISION: usize = 200;

/// `org/name` or `name`, and the branch, tag or commit where one is named. Safe as a folder name and in a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    id: String,
    revision: Option<String>,
}

impl ModelName {
    /// Reads `org/name[@revision]`; the error says what a name is.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let parts: Vec<&str> = id.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_part(part)) || id.contains("--") {
            return Err("a model of the hub is named org/name or org/name@revision".into());
        }
        if revision.is_some_and(|revision| !is_revision(revision)) {
            return Err("what follows the @ is no branch, tag or commit".into());
        }
        Ok(Self { id: id.to_owned(), revision: revision.map(String::from) })
    }

    /// `org/name` or `name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The branch, tag or commit; `main` where none was named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// The revision that was named.
    pub fn named_revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// The folder in the cache, as huggingface_hub names it.
    pub fn folder(&self) -> String {
        format!("models--{}", self.id.replace('/', "--"))
    }

    /// The model whose folder in the cache has this name; None for any other folder.
    pub fn of_folder(folder: &str) -> Option<Self> {
        Self::parse(&folder.strip_prefix("models--")?.replacen("--", "/", 1)).ok()
    }

    /// Meta's weights, whose licence forbids commercial use.
    pub fn is_metas(&self) -> bool {
        self.id.to_ascii_lowercase().starts_with("facebook/incoder-")
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

/// The two things that `-m` can mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    Path(PathBuf),
    Hub(ModelName),
}

/// Which of the two: what exists is a path; so is what looks like one. The error says both readings.
pub fn classify(text: &OsStr) -> Result<Named, String> {
    let path = Path::new(text);
    let name = text.to_str().filter(|text| !looks_like_path(text));
    let Some(name) = name.filter(|_| !path.exists()) else {
        return Ok(Named::Path(path.to_owned()));
    };
    match ModelName::parse(name) {
        Ok(name) => Ok(Named::Hub(name)),
        Err(why) => Err(format!("{name:?} is no folder or file here, and no model's name: {why}")),
    }
}

/// `./x`, `/x`, `~/x`, `C:\x`, and all with more than one slash before an @.
fn looks_like_path(text: &str) -> bool {
    let id = text.split('@').next().unwrap_or_default();
    let slashes = id.matches('/').count();
    slashes > 1 || text.starts_with(['.', '/', '~']) || Path::new(text).is_absolute() || text.contains('\\')
}

fn is_part(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends_plainly = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    part.len() <= MAX_PART
        && part.chars().all(plain)
        && ends_plainly(part.chars().next())
        && ends_plainly(part.chars().next_back())
        && !part.contains("..")
        && !part.contains("--")
        && !part.ends_with(".git")
}

/// What git takes for a branch or tag, less what some file systems do not.
fn is_revision(revision: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+' | '=' | '#');
    let component = |c: &str| !c.is_empty() && !c.starts_with('.') && !c.ends_with('.') && !c.ends_with(".lock");
    revision.len() <= MAX_REVISION && revision.chars().all(plain) && revision.split('/').all(component)
}

/// Whether this is a commit id in full.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A file name that an index or a server gives, safe to put after a folder.
pub fn is_file_name(name: &str) -> bool {
    let plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ':' | '<' | '>' | '"' | '|' | '?' | '*');
    (1..=200).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('.') && !name.ends_with(['.', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    #[test]
    fn reads_names() {
        let name = ModelName::parse("facebook/incoder-1B@refs/pr/3").unwrap();
        assert_eq!((name.id(), name.revision()), ("facebook/incoder-1B", "refs/pr/3"));
        assert_eq!(name.folder(), "models--facebook--incoder-1B");
        assert_eq!(name.to_string(), "facebook/incoder-1B@refs/pr/3");
        assert!(name.is_metas());
        let bare = ModelName::parse("gpt2").unwrap();
        assert_eq!((bare.id(), bare.revision(), bare.folder().as_str()), ("gpt2", "main", "models--gpt2"));
    }

    #[test]
    fn refuses_what_is_no_name() {
        for text in [
            "", "/", "a/", "/a", "a/b/c", "..", "a/..", "../a", "a/b@", "a/b@../x", "a/b@x//y", "a/b@/x", "a/b@x/",
            "a/b@x y", "a/b@x:y", "a/b@x\\y", "a--b/c", "a/b.git", ".a/b", "a/b-", "ä/b", "a b/c", "a/b@.x", "a/b@x@y",
        ] {
            assert!(ModelName::parse(text).is_err(), "{text:?}");
        }
        assert!(ModelName::parse(&"a".repeat(97)).is_err());
    }

    #[test]
    fn tells_paths_from_names() {
        let path = |text: &str| matches!(classify(OsStr::new(text)), Ok(Named::Path(_)));
        for text in ["./org/name", "/org/name", "../name", "~/name", "a/b/c", ".", "a\\b"] {
            assert!(path(text), "{text}");
        }
        for text in ["org/name", "org/name@main", "org/name@refs/pr/1", "name"] {
            assert!(matches!(classify(OsStr::new(text)), Ok(Named::Hub(_))), "{text}");
        }
        // Tests run in the package's folder: what exists there is a path, whatever it could be on the hub.
        assert!(path("src") && path("src/main.rs"));
        let neither = classify(OsStr::new("my model")).unwrap_err();
        assert!(neither.contains("no folder or file here") && neither.contains("org/name"), "{neither}");
    }

    proptest! {
        #[test]
        fn whatever_is_taken_stays_below_its_folder(text in "[a-zA-Z0-9./@_\\\\: ~#-]{0,24}") {
            if let Ok(name) = ModelName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
                for path in [name.folder(), name.revision().to_owned()] {
                    let plain = Path::new(&path).components().all(|c| matches!(c, Component::Normal(_)));
                    prop_assert!(plain, "{}", path);
                }
                prop_assert_eq!(Path::new(&name.folder()).components().count(), 1);
                let found = ModelName::of_folder(&name.folder()).map(|found| found.id().to_owned());
                prop_assert_eq!(found.as_deref(), Some(name.id()));
            }
        }

        #[test]
        fn good_names_are_taken(org in "[a-zA-Z0-9_]{1,20}", name in "[a-zA-Z0-9]([._-]?[a-zA-Z0-9]){0,20}", rev in "[a-z0-9]{1,9}(/[a-z]{1,5})?") {
            prop_assume!(!name.ends_with(".git"));
            let text = format!("{org}/{name}@{rev}");
            prop_assert_eq!(ModelName::parse(&text).map(|n| n.to_string()), Ok(text));
        }

        #[test]
        fn file_names_have_one_component(name in "[a-z./\\\\: ]{0,8}") {
            if is_file_name(&name) {
                prop_assert_eq!(Path::new(&name).components().collect::<Vec<_>>(), [Component::Normal(OsStr::new(&name))]);
            }
        }
    }
}
