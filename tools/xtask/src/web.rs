//! The web side: wasm engine → npm package → demo page, and a server for it.

use crate::{run, setup};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What wasm-opt may use: the features that rustc uses, and nothing newer than the browsers that have WebGPU.
const WASM_FEATURES: [&str; 6] = [
    "--enable-bulk-memory",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
];

/// The demo page on localhost, until Ctrl-C.
pub fn serve() -> Result<(), String> {
    build_all()?;
    // localhost is a secure context: WebGPU needs one.
    run::show(&mut npm(&["exec", "--workspace", "demo", "--", "vite", "preview", "--open"]))
}

/// Everything, and where it lies.
pub fn build() -> Result<(), String> {
    build_all()?;
    println!("The npm package is in web/package (`npm pack` there makes its archive), the demo page in web/demo/dist.");
    println!("Any static server can serve the page; `cargo xtask web` does, and opens it.");
    Ok(())
}

/// `web/package/dist` and `web/demo/dist`.
fn build_all() -> Result<(), String> {
    setup::wasm_target()?;
    setup::node()?;
    // What is installed is what the lock file says; a second call takes a second.
    run::show(&mut npm(&["ci", "--no-audit", "--no-fund", "--prefer-offline"]))?;
    clear(Path::new("web/package/dist"))?;
    engine()?;
    run::show(&mut npm(&["exec", "--workspace", "package", "--", "tsc"]))?;
    run::show(&mut npm(&["exec", "--workspace", "demo", "--", "tsc"]))?;
    run::show(&mut npm(&["exec", "--workspace", "demo", "--", "vite", "build"]))
}

/// TypeScript takes nothing away: what a source left behind that is gone would be packed.
fn clear(folder: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", folder.display())),
        _ => Ok(()),
    }
}

/// web/engine as wasm: what TypeScript sees in `web/package/src/wasm`, what is shipped in `web/package/dist/wasm`.
fn engine() -> Result<(), String> {
    let target = target();
    let wasm = ["--profile", "web", "--target", "wasm32-unknown-unknown", "--package", "incoder-web"];
    run::show(Command::new("cargo").args(["build", "--locked"]).args(wasm))?;
    let mut bindgen = Command::new("cargo");
    bindgen.args(["run", "--quiet", "--locked", "--manifest-path", "web/bindgen/Cargo.toml", "--"]);
    bindgen.arg(target.join("wasm32-unknown-unknown/web/incoder_web.wasm")).args(["web/package/src/wasm", "incoder"]);
    // Another profile with other features: in the same folder the two builds would undo each other.
    run::show(bindgen.env("CARGO_TARGET_DIR", target.join("bindgen")))?;

    let (made, shipped) = (Path::new("web/package/src/wasm"), Path::new("web/package/dist/wasm"));
    std::fs::create_dir_all(shipped).map_err(|e| format!("{}: {e}", shipped.display()))?;
    for name in ["incoder.js", "incoder.d.ts"] {
        std::fs::copy(made.join(name), shipped.join(name)).map_err(|e| format!("{name}: {e}"))?;
    }
    let mut optimize = npm(&["exec", "--", "wasm-opt", "-Oz"]);
    optimize.args(WASM_FEATURES).args(["package/src/wasm/incoder_bg.wasm", "-o", "package/dist/wasm/incoder_bg.wasm"]);
    run::show(&mut optimize)
}

/// The tests in web/test, a command for each file.
pub fn tests() -> Vec<Command> {
    let entries = std::fs::read_dir("web/test").into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    // By name: given the folder, Node would run the files that the tests share, too.
    files.retain(|path| path.to_string_lossy().ends_with(".test.mjs"));
    files.sort();
    let command = |file| {
        let mut node = Command::new("node");
        node.args(["--test", "--test-reporter=spec"]).arg(file);
        node
    };
    files.into_iter().map(command).collect()
}

fn target() -> PathBuf {
    let target = PathBuf::from(std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into()));
    std::path::absolute(&target).unwrap_or(target)
}

/// npm in web/.
fn npm(args: &[&str]) -> Command {
    let mut npm = Command::new("npm");
    npm.current_dir("web").args(args);
    npm
}
