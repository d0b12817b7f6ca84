//! Runs the built program as a script would, on the models of tests/oracle.

// Each test file uses a part of this.
#![allow(dead_code)]

pub mod editor;
pub mod hub_server;
pub mod server;

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// What a run came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// stdout of a run that went well, whether or not the model ended every hole (5): these models are not trained to.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(matches!(self.code, 0 | 5), "{self:?}");
        self.stdout
    }

    /// The one JSON object of a run that went well, which is one line.
    #[track_caller]
    pub fn json(self) -> Value {
        let stdout = self.ok();
        assert_eq!(stdout.matches('\n').count(), 1, "{stdout:?}");
        serde_json::from_str(&stdout).expect("JSON on stdout")
    }

    /// The one line on stderr of a run that was refused with `code`; nothing was printed on stdout.
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{self:?}");
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no line end: {self:?}"));
        assert!(!line.contains('\n'), "more than one line: {self:?}");
        line.strip_prefix("error: ").unwrap_or_else(|| panic!("not an error line: {self:?}")).to_owned()
    }
}

/// The program, with nothing in its environment that changes what it prints.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_incoder"));
    command.args(args).env("NO_COLOR", "1").env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command
}

pub fn run(args: &[&str]) -> Ran {
    finish(program(args))
}

pub fn finish(mut command: Command) -> Ran {
    let output = command.output().expect("the program starts");
    Ran {
        code: output.status.code().expect("an exit code"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
    }
}

pub fn run_with_stdin(args: &[&str], stdin: &[u8]) -> Ran {
    let mut command = program(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    let stdin = stdin.to_owned();
    // A program that refuses its arguments does not read: that is no failure of the test.
    let writer = std::thread::spawn(move || drop(pipe.write_all(&stdin)));
    let output = child.wait_with_output().expect("ends");
    writer.join().expect("the writer ends");
    Ran {
        code: output.status.code().expect("an exit code"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8 on stdout"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8 on stderr"),
    }
}

pub fn oracle(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle").join(path)
}

pub fn oracle_json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(oracle(path)).expect("an oracle file")).expect("JSON")
}

/// A model folder as users have them, which a test may spoil.
pub struct Model {
    folder: TempDir,
}

impl Model {
    /// `sizes` and `weights` name oracle files: `("tiny-a", "model.fp32.safetensors")`.
    pub fn new(sizes: &str, weights: &str) -> Self {
        let tokenizer = if sizes == "tiny-a" { "tok-512" } else { "tok-2k" };
        let model = Self { folder: tempfile::tempdir().expect("a folder") };
        model.write("config.json", &std::fs::read(oracle(sizes).join("config.json")).expect("config"));
        model.write("tokenizer.json", &std::fs::read(oracle(tokenizer).join("tokenizer.json")).expect("tokenizer"));
        model.write("model.safetensors", &std::fs::read(oracle(sizes).join(weights)).expect("weights"));
        model
    }

    pub fn tiny() -> Self {
        Self::new("tiny-a", "model.fp32.safetensors")
    }

    pub fn path(&self) -> &str {
        self.folder.path().to_str().expect("a UTF-8 path")
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(name), bytes).expect("written");
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.path().join(name)).expect("read")
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join(name)).expect("removed");
    }

    /// `command -m FOLDER -d cpu …`: what is tested here is the program around the engine, and the CPU is fast for
    /// models this small.
    pub fn args<'a>(&'a self, command: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec![command, "-m", self.path(), "-d", "cpu", "-q"];
        args.extend(rest);
        args
    }

    pub fn run(&self, command: &str, rest: &[&str]) -> Ran {
        run(&self.args(command, rest))
    }
}

/// Ids as `--ids` takes them.
pub fn ids(value: &Value) -> String {
    let ids: Vec<String> = value.as_array().expect("ids").iter().map(Value::to_string).collect();
    ids.join(",")
}
