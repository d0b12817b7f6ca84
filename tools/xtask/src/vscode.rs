//! The extension for Visual Studio Code: its source in TypeScript → one file → a package that the editor installs.

use crate::{run, setup};
use std::path::Path;
use std::process::Command;

const FOLDER: &str = "editors/vscode";
const PACKAGE: &str = "target/incoder.vsix";

/// `target/incoder.vsix`.
pub fn package() -> Result<(), String> {
    setup::node()?;
    // What is installed is what the lock file says.
    run::show(&mut npm(&["ci", "--no-audit", "--no-fund", "--prefer-offline"]))?;
    std::fs::create_dir_all("target").map_err(|e| format!("target: {e}"))?;
    let out = Path::new("../..").join(PACKAGE);
    // It builds the extension first, by the script `vscode:prepublish`; what that needs is bundled already.
    let mut vsce = npm(&["exec", "--", "vsce", "package", "--no-dependencies", "--allow-missing-repository", "--out"]);
    run::show(vsce.arg(&out))?;
    println!("The package is {PACKAGE}: `code --install-extension {PACKAGE}`.");
    Ok(())
}

/// The tests of the built extension, with the program that the Rust tests built.
pub fn tests() -> Command {
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=spec"]).arg(Path::new(FOLDER).join("test/extension.test.mjs"));
    node
}

fn npm(args: &[&str]) -> Command {
    let mut npm = Command::new("npm");
    npm.current_dir(FOLDER).args(args);
    npm
}
