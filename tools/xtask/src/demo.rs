//! The README's first command: fill a hole in a source file with the demo model.

use crate::{run, setup};
use std::process::Command;

/// A source file with a hole.
pub const FILE: &str = "examples/infill/inventory.py";

pub fn demo() -> Result<(), String> {
    if let Err(problem) = setup::for_running() {
        println!("{problem}\nGoing on without: the program computes on the CPU then.");
    }
    let binary = build()?;
    run::show(Command::new(binary).args(["infill", FILE, "--temp", "0", "--diff", "--verbose"]))
}

/// Builds the program and says where it is.
pub fn build() -> Result<String, String> {
    run::show(Command::new("cargo").args(["build", "--release", "--locked", "--package", "incoder-native"]))?;
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    Ok(format!("{target}/release/incoder{}", std::env::consts::EXE_SUFFIX))
}
