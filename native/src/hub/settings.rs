//! What the environment says, read as huggingface_hub reads it.

use crate::failure::{Failure, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const ENDPOINT: &str = "https://huggingface.co";

/// No Debug: it holds the token.
pub struct Settings {
    /// The folder with the `models--…` folders.
    pub cache: PathBuf,
    /// Without a slash at the end.
    pub endpoint: String,
    pub token: Option<String>,
    /// Nothing may be asked of the network.
    pub offline: bool,
    /// Files are put into snapshots as they are, for programs and disks that know no links.
    pub no_symlinks: bool,
}

impl Settings {
    /// Fails with USAGE where a variable makes no sense.
    pub fn from_environment() -> Result<Self> {
        Self::from(&|name| std::env::var_os(name))
    }

    fn from(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        // An empty variable is a way to unset it.
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(|value| expand_home(PathBuf::from(value)));
        let is_true = |name: &str| {
            let value = set(name).map(|value| value.to_string_lossy().to_uppercase());
            value.is_some_and(|value| matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        let home = match path("HF_HOME").or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface"))) {
            Some(home) => home,
            None => match std::env::home_dir() {
                Some(home) => home.join(".cache").join("huggingface"),
                None => return Err(Failure::usage("no home folder: set HF_HOME to where models shall be kept")),
            },
        };
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let endpoint = set("HF_ENDPOINT").map_or(ENDPOINT.into(), |value| value.to_string_lossy().into_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Failure::usage(format!("HF_ENDPOINT is {endpoint:?}, which is no http(s) address")));
        }
        let token = if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            let given = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
            let given = given.map(|token| token.to_string_lossy().into_owned());
            given.or_else(|| token_file(&path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"))))
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Failure::usage("the token (HF_TOKEN or the token file) holds characters that no token has"));
        }
        let offline = if set("HF_HUB_OFFLINE").is_some() { "HF_HUB_OFFLINE" } else { "TRANSFORMERS_OFFLINE" };
        let no_symlinks = is_true("HF_HUB_DISABLE_SYMLINKS");
        Ok(Self { cache, endpoint, token, offline: is_true(offline), no_symlinks })
    }
}

/// `~` and `~/x`: a variable set in a file that no shell reads has them as they are.
fn expand_home(path: PathBuf) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// What `hf auth login` wrote; None where there is no such file.
fn token_file(path: &Path) -> Option<String> {
    let is_small = std::fs::metadata(path).is_ok_and(|file| file.len() < 4096);
    is_small.then(|| std::fs::read_to_string(path).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        let found = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Settings::from(&found)
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).unwrap().cache;
        assert_eq!(cache(&[("HF_HOME", "/a")]), Path::new("/a/hub"));
        assert_eq!(cache(&[("HF_HOME", "/a"), ("HF_HUB_CACHE", "/b")]), Path::new("/b"));
        assert_eq!(cache(&[("HF_HOME", ""), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert!(cache(&[]).ends_with(".cache/huggingface/hub"));
        assert!(cache(&[("HF_HOME", "~/models")]).is_absolute());
    }

    #[test]
    fn offline_as_python_reads_it() {
        for (value, offline) in [("1", true), ("true", true), ("Yes", true), ("on", true), ("0", false), ("", false)] {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, offline, "{value}");
        }
        assert!(settings(&[("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
    }

    #[test]
    fn the_token_and_where_it_comes_from() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |more: &[(&str, &str)]| settings(&[&[("HF_HOME", home)], more].concat()).map(|s| s.token);
        assert_eq!(token(&[]).unwrap().as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_TOKEN", " hf_given\n")]).unwrap().as_deref(), Some("hf_given"));
        assert_eq!(token(&[("HF_TOKEN_PATH", "/no/such/file")]).unwrap(), None);
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).unwrap(), None);
        assert!(token(&[("HF_TOKEN", "a\nb: c")]).is_err());
    }

    #[test]
    fn refuses_an_endpoint_that_is_none() {
        assert_eq!(settings(&[("HF_ENDPOINT", "http://hub:8080/")]).unwrap().endpoint, "http://hub:8080");
        assert!(settings(&[("HF_ENDPOINT", "hub.example")]).is_err());
    }
}
