//! What building, running and testing needs beside Rust: a Vulkan driver on Linux, the wasm target, clippy and
//! rustfmt, Node.js, and Chromium for the browser tests.

use crate::{run, vulkan};
use std::io::IsTerminal;
use std::process::Command;

const VULKAN: [&str; 2] = ["mesa-vulkan-drivers", "libvulkan1"];
/// What the web's tools ask for.
const NODE: u32 = 20;

/// For building, running and testing.
pub fn everything() -> Result<(), String> {
    let missing: Vec<String> = [for_testing(), wasm_target(), rust_components(), node(), chromium()]
        .into_iter()
        .filter_map(Result::err)
        .collect();
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
    let elsewhere = "install Mesa's software Vulkan with the system's package manager \
                     (Fedora: mesa-vulkan-drivers vulkan-loader; Arch: vulkan-swrast vulkan-icd-loader)";
    install(&VULKAN, "no Vulkan driver", elsewhere)
}

/// Node.js with npm: the web package, its demo page and their tests.
pub fn node() -> Result<(), String> {
    let version = run::output(Command::new("node").arg("--version")).unwrap_or_default();
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|n| n.parse::<u32>().ok());
    match major {
        Some(major) if major >= NODE => Ok(()),
        Some(_) => Err(format!("Node.js is {}, {NODE} or newer is needed: https://nodejs.org", version.trim())),
        // Debian's own is older than that in some releases; then the message above comes next.
        None => install(&["nodejs", "npm"], "no Node.js", "install Node.js 20 or newer: https://nodejs.org").and_then(
            |()| {
                if run::output(Command::new("node").arg("--version")).is_some() {
                    node()
                } else {
                    Err("no Node.js".into())
                }
            },
        ),
    }
}

/// Where Chromium is: `CHROMIUM`, or its usual places.
pub fn find_chromium() -> Option<String> {
    let macos = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome";
    let usual = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome", macos].map(String::from);
    std::env::var("CHROMIUM").ok().into_iter().chain(usual).find(|path| std::path::Path::new(path).exists())
}

/// Chromium: the browser tests run in it.
pub fn chromium() -> Result<(), String> {
    if find_chromium().is_some() {
        return Ok(());
    }
    install(&["chromium"], "no Chromium", "install Chromium or Chrome, or say where it is with CHROMIUM=PATH")
}

/// A terminal for the test in Helix.
pub fn tmux() -> Result<(), String> {
    if run::output(Command::new("tmux").arg("-V")).is_some() {
        return Ok(());
    }
    install(&["tmux"], "no tmux", "install tmux")
}

/// Installs Debian packages where that is possible, or says what is `missing` and what to do `elsewhere`.
fn install(packages: &[&str], missing: &str, elsewhere: &str) -> Result<(), String> {
    if run::output(Command::new("apt-get").arg("--version")).is_none() {
        return Err(format!("{missing}: {elsewhere}"));
    }
    let by_hand = format!("sudo apt-get install {}", packages.join(" "));
    let is_root = run::output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    // sudo may ask for a password only where somebody can answer.
    let may_sudo = std::io::stdin().is_terminal() && run::output(Command::new("sudo").arg("-V")).is_some()
        || run::output(Command::new("sudo").args(["-n", "true"])).is_some();
    if !is_root && !may_sudo {
        return Err(format!("{missing}, and no right to install it: {by_hand}"));
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
        if !is_root {
            command.arg("apt-get");
        }
        run::show(command.args(args)).map_err(|e| format!("{e}; by hand: {by_hand}"))
    };
    apt(&["update", "--quiet"])?;
    apt(&[&["install", "--yes", "--quiet", "--no-install-recommends"], packages].concat())
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
