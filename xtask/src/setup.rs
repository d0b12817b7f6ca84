//! What building and running needs beside Rust: a Vulkan driver on Linux, the wasm target, clippy and rustfmt.

use crate::{run, vulkan};
use std::io::IsTerminal;
use std::process::Command;

const PACKAGES: [&str; 2] = ["mesa-vulkan-drivers", "libvulkan1"];

/// For building, running and testing.
pub fn everything() -> Result<(), String> {
    let missing: Vec<String> =
        [for_testing(), wasm_target(), rust_components()].into_iter().filter_map(Result::err).collect();
    if missing.is_empty() {
        println!("set up: everything is there");
        return Ok(());
    }
    Err(missing.join("\nxtask: "))
}

/// A Vulkan driver, whichever: what running needs. Without one the program falls back to the CPU.
pub fn for_running() -> Result<(), String> {
    if !cfg!(target_os = "linux") || vulkan::is_there() {
        return Ok(());
    }
    install_mesa()
}

/// lavapipe: the tests run on the same adapter everywhere.
pub fn for_testing() -> Result<(), String> {
    if !cfg!(target_os = "linux") || (vulkan::is_there() && vulkan::lavapipe().is_some()) {
        return Ok(());
    }
    install_mesa()?;
    match vulkan::lavapipe() {
        Some(_) => Ok(()),
        None => {
            Err("mesa-vulkan-drivers is installed, and yet there is no lvp_icd*.json under /usr/share/vulkan/icd.d"
                .into())
        }
    }
}

fn install_mesa() -> Result<(), String> {
    let by_hand = format!("sudo apt-get install {}", PACKAGES.join(" "));
    if run::output(Command::new("apt-get").arg("--version")).is_none() {
        return Err("no Vulkan driver: install Mesa's software Vulkan with the system's package manager \
                    (Fedora: mesa-vulkan-drivers vulkan-loader; Arch: vulkan-swrast vulkan-icd-loader)"
            .into());
    }
    let is_root = run::output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    // sudo may ask for a password only where somebody can answer.
    let may_sudo = std::io::stdin().is_terminal() && run::output(Command::new("sudo").arg("-V")).is_some()
        || run::output(Command::new("sudo").args(["-n", "true"])).is_some();
    if !is_root && !may_sudo {
        return Err(format!("no Vulkan driver, and no right to install one: {by_hand}"));
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
        if !is_root {
            command.arg("apt-get");
        }
        run::show(command.args(args)).map_err(|e| format!("{e}; by hand: {by_hand}"))
    };
    apt(&["update", "--quiet"])?;
    apt(&["install", "--yes", "--quiet", "--no-install-recommends", PACKAGES[0], PACKAGES[1]])
}

pub fn wasm_target() -> Result<(), String> {
    let target = "wasm32-unknown-unknown";
    let libraries = run::output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]));
    if libraries.is_some_and(|folder| std::path::Path::new(folder.trim()).is_dir()) {
        return Ok(());
    }
    run::show(Command::new("rustup").args(["target", "add", target]))
        .map_err(|e| format!("{e}; without rustup, install the Rust library of {target} from where Rust came"))
}

fn rust_components() -> Result<(), String> {
    for (command, component) in [("clippy", "clippy"), ("fmt", "rustfmt")] {
        if run::output(Command::new("cargo").args([command, "--version"])).is_none() {
            run::show(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(())
}
