//! The README's first command: fill a hole in a source file with the demo model.

use crate::{run, setup};
use std::process::Command;

const FILE: &str = "examples/infill/inventory.py";

pub fn demo() -> Result<(), String> {
    if let Err(problem) = setup::for_running() {
        println!("{problem}\nGoing on without: the program computes on the CPU then.");
    }
    run::show(Command::new("cargo").args(["build", "--release", "--locked", "--package", "incoder-native"]))?;
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into());
    let binary = format!("{target}/release/incoder{}", std::env::consts::EXE_SUFFIX);
    run::show(Command::new(binary).args(["infill", FILE, "--temp", "0", "--diff", "--verbose"]))
}
