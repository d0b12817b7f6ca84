//! The README's first command: fill a hole in a source file with the demo model.

use crate::{run, setup};
use std::process::Command;

/// A source file with a hole.
pub const FILE: &str = "examples/infill/registry.py";
/// How it is filled: the small demo model is best at single lines.
pub const FLAGS: [&str; 3] = ["--temp", "0", "--single-line"];
/// The exit code of `incoder infill` for a hole that is filled, but was not ended by the model.
const NOT_ENDED: i32 = 5;

pub fn demo() -> Result<(), String> {
    if let Err(problem) = setup::for_running() {
        println!("{problem}\nGoing on without: the program computes on the CPU then.");
    }
    let binary = build()?;
    let mut infill = Command::new(binary);
    infill.args(["infill", FILE]).args(FLAGS).args(["--diff", "--verbose"]);
    run::show_allowing(&mut infill, &[NOT_ENDED])
}

/// Builds the program and says where it is.
pub fn build() -> Result<String, String> {
    run::show(Command::new("cargo").args(["build", "--release", "--locked", "--package", "incoder-native"]))?;
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    Ok(format!("{target}/release/incoder{}", std::env::consts::EXE_SUFFIX))
}
