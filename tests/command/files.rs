//! Files, pipes and Ctrl-C: what reaches the user's disk, and when.

use crate::common::{Model, Ran, program, run_with_stdin};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const GREEDY: [&str; 4] = ["--temp", "0", "-n", "6"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [more, &GREEDY].concat()
}

struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.py");
        fs::write(&path, text).unwrap();
        Self { _folder: folder, path }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }
}

#[test]
fn markers_positions_and_halves_are_one_thing() {
    let model = Model::tiny();
    let (left, right) = ("def f(x):\n    return ", "\n\nprint(f(1))\n");
    let marked = File::new(&format!("{left}<infill>{right}"));
    let filled = model.run("infill", &with(&[marked.name()])).ok();
    assert!(
        filled.starts_with(left) && filled.ends_with(right) && filled.len() > left.len() + right.len(),
        "{filled:?}"
    );

    let at = File::new(&format!("{left}{right}"));
    assert_eq!(model.run("infill", &with(&[at.name(), "--at", "2:12"])).ok(), filled);
    assert_eq!(model.run("infill", &with(&["-f", at.name(), "--at", "2:12"])).ok(), filled);
    let (prefix, suffix) = (File::new(left), File::new(right));
    let halves = ["--prefix-file", prefix.name(), "--suffix-file", suffix.name()];
    assert_eq!(model.run("infill", &with(&halves)).ok(), filled);
    let other = File::new(&format!("{left}@@{right}"));
    assert_eq!(model.run("infill", &with(&[other.name(), "--marker", "@@"])).ok(), filled);
    let args = model.args("infill", &["-", "--temp", "0", "-n", "6"]);
    assert_eq!(run_with_stdin(&args, format!("{left}<infill>{right}").as_bytes()).ok(), filled);
    let parts = serde_json::to_string(&[left, right]).unwrap();
    // Parts are the published form's, whose holes begin where they say: as the others only when that is asked for.
    let args = model.args("infill", &["--parts", "-", "--lookback", "8", "--temp", "0", "-n", "6"]);
    assert_eq!(run_with_stdin(&args, parts.as_bytes()).ok(), filled);
    // With two attempts a pipe gets the result at the end: the same, byte for byte.
    assert_eq!(model.run("infill", &with(&[marked.name(), "--retries", "2"])).ok(), filled);
    assert_eq!(marked.text(), format!("{left}<infill>{right}"), "nothing is written unless asked for");
}

#[test]
fn in_place_and_diff() {
    let model = Model::tiny();
    let text = "a = 1\nb = <infill>\nc = 3\n";
    let file = File::new(text);
    let filled = model.run("infill", &with(&[file.name()])).ok();
    let diff = model.run("infill", &with(&[file.name(), "--diff"])).ok();
    assert!(diff.starts_with(&format!("--- {0}\n+++ {0}\n@@ -1,3 ", file.name())), "{diff}");
    assert!(diff.contains("\n-b = <infill>\n+b = "), "{diff}");
    assert_eq!(file.text(), text);
    assert_eq!(model.run("infill", &with(&[file.name(), "--in-place"])).ok(), "");
    assert_eq!(file.text(), filled);
    // What was filled has no hole any more, and stays as it is.
    model.run("infill", &with(&[file.name(), "-i"])).refused(2);
    assert_eq!(file.text(), filled);
}

#[test]
fn line_ends_stay() {
    let model = Model::tiny();
    let unix = File::new("a = 1\nb = <infill>\nc = 3\n");
    let dos = File::new("a = 1\r\nb = <infill>\r\nc = 3\r\n");
    let filled = model.run("infill", &with(&[unix.name()])).ok();
    model.run("infill", &with(&[dos.name(), "-i"])).ok();
    assert_eq!(dos.text(), filled.replace('\n', "\r\n"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let model = Model::tiny();
    let mut child = program(&model.args("generate", &["--ids", "2", "-n", "1500", "--ignore-eos"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

/// Starts the program, presses Ctrl-C a moment after it began to generate, and returns how it ended.
#[cfg(unix)]
fn interrupted(model: &Model, command: &str, rest: &[&str]) -> Ran {
    let mut args = model.args(command, rest);
    args.retain(|arg| *arg != "-q");
    args.push("-v");
    let mut child = program(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    // The seed is told when generation is about to begin.
    while !line.contains("seed") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before it began");
    }
    std::thread::sleep(Duration::from_millis(500));
    let pressed = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let (mut printed, mut said) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    stderr.read_to_string(&mut said).unwrap();
    let code = child.wait().unwrap().code().unwrap();
    assert!(pressed.elapsed() < Duration::from_secs(5), "{:?}", pressed.elapsed());
    Ran { code, stdout: printed, stderr: said }
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_and_prints_what_there_is() {
    let model = Model::new("small-b", "model.fp16.safetensors");
    let endless = ["--ids", "2", "-n", "2000", "--ignore-eos"];
    let ran = interrupted(&model, "generate", &endless);
    assert_eq!(ran.code, 130);
    assert!(ran.stderr.ends_with("error: stopped with Ctrl-C\n"), "{}", ran.stderr);
    assert!(!ran.stdout.is_empty());

    let ran = interrupted(&model, "generate", &[&endless[..], &["--json"]].concat());
    let got: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &got["finish_reason"]), (130, &"cancelled".into()));
    assert!(!got["ids"].as_array().unwrap().is_empty());
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_a_file_as_it_is() {
    let model = Model::new("small-b", "model.fp16.safetensors");
    let file = File::new("a = <infill>\n");
    // The likeliest token does not end this hole, so it tries again and again.
    let endless = [file.name(), "-i", "-n", "1", "--temp", "1", "--top-k", "1", "--retries", "1000000"];
    let ran = interrupted(&model, "infill", &endless);
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.stderr.contains("is as it was"), "{}", ran.stderr);
    assert_eq!(file.text(), "a = <infill>\n");
}

#[test]
fn the_demo_model_fills_holes() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/infill/registry.py");
    let text = fs::read_to_string(example).unwrap();
    let filled = crate::common::run(&["infill", example, "--temp", "0", "--single-line", "-q"]).ok();
    let (left, _) = text.split_once("<infill>").unwrap();
    let (_, right) = text.rsplit_once("<infill>").unwrap();
    assert!(filled.starts_with(left) && filled.ends_with(right), "{filled}");
    assert!(filled.len() > left.len() + right.len(), "{filled}");
}
