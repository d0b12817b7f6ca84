//! Models of a hub: whatever the server or the disk does, the end is a model that works or one line that says why not.

mod cache;
mod downloads;

use crate::common::hub_server::{COMMIT, Hub, etag};
use crate::common::{Ran, finish, program};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub const RUNTIME: i32 = 1;
pub const USAGE: i32 = 2;
pub const MODEL: i32 = 4;
pub const WEIGHTS: &str = "model.safetensors";
pub const NEEDED: [&str; 3] = ["config.json", WEIGHTS, "tokenizer.json"];
pub const PULL: [&str; 3] = ["models", "pull", "org/tiny"];

/// A user's computer: a cache of its own, and a hub to ask.
pub struct Home {
    pub folder: TempDir,
    pub hub: Hub,
}

impl Home {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), hub: Hub::start() }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = program(args);
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_SYMLINKS", "SSL_CERT_FILE"] {
            command.env_remove(name);
        }
        command.env("NO_PROXY", "*").env("HF_HOME", self.folder.path()).env("HF_ENDPOINT", self.hub.url());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args))
    }

    /// With a variable more in the environment.
    pub fn run_with(&self, name: &str, value: &str, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        command.env(name, value);
        finish(command)
    }

    pub fn offline(&self, args: &[&str]) -> Ran {
        self.run_with("HF_HUB_OFFLINE", "1", args)
    }

    pub fn repo(&self) -> PathBuf {
        self.folder.path().join("hub/models--org--tiny")
    }

    pub fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    pub fn blob(&self, name: &str) -> PathBuf {
        self.repo().join("blobs").join(etag(name, &self.hub.file(name)))
    }

    pub fn incomplete(&self, name: &str) -> PathBuf {
        self.blob(name).with_extension("incomplete")
    }

    /// The first bytes of a file, as an earlier download left them.
    pub fn begin(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.repo().join("blobs")).unwrap();
        fs::write(self.incomplete(name), bytes).unwrap();
    }

    /// Every file that is needed is there, and is the right one; no other is, and nothing is left over.
    #[track_caller]
    pub fn assert_whole(&self) {
        for name in NEEDED {
            assert!(fs::read(self.snapshot().join(name)).unwrap() == self.hub.file(name), "{name} is another");
        }
        assert_eq!(fs::read_dir(self.snapshot()).unwrap().count(), NEEDED.len());
        assert_eq!(fs::read_dir(self.repo().join("blobs")).unwrap().count(), NEEDED.len());
    }

    /// There are no weights that a program could take for a model's.
    #[track_caller]
    pub fn assert_no_weights(&self) {
        assert!(!self.snapshot().join(WEIGHTS).exists());
        assert!(!self.blob(WEIGHTS).exists());
        self.run(&["models", "path", "org/tiny"]).refused(MODEL);
    }
}

#[track_caller]
pub fn assert_says(line: &str, words: &[&str]) {
    assert!(words.iter().all(|word| line.contains(word)), "{line:?} lacks one of {words:?}");
}

pub fn names(seen: &[(String, Option<String>)]) -> Vec<&str> {
    seen.iter().map(|(name, _)| name.as_str()).collect()
}
