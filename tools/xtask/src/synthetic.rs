//! The program in `tools/synthetic/`, built and run.

use crate::run;
use std::io;
use std::path::PathBuf;
use std::process::Command;

/// `called_from`: where the command was typed, which the output folder is relative to.
pub fn write(called_from: io::Result<PathBuf>, options: &[&str]) -> Result<(), String> {
    let called_from = called_from.map_err(|e| format!("the current folder: {e}"))?;
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--locked", "--manifest-path", manifest, "--package", "incoder-synthetic", "--"]);
    run::show(command.args(options).current_dir(called_from))
}
