//! `cargo xtask setup | demo | web | vscode | test | full-size | synthetic`: everything a stranger or CI runs. Little but std and child processes.

mod clients;
mod demo;
mod full_size;
mod licences;
mod picture;
mod run;
mod setup;
mod synthetic;
mod tally;
mod test;
mod vscode;
mod vulkan;
mod web;

use std::process::ExitCode;
use test::Choice;

const USAGE: &str = "\
cargo xtask setup          install or name what building and running needs
cargo xtask demo           set up, build, and fill a hole in a source file with the demo model
cargo xtask web [--build]   build the npm package and the demo page, and serve the page on localhost
cargo xtask vscode          build the extension for Visual Studio Code and package it
cargo xtask clients         fetch editors and libraries, and test them against the program in target/debug
cargo xtask picture        make README's picture anew from what the program prints
cargo xtask test            set up and run every check and test, on lavapipe
cargo xtask test --quick    run only the lints and the faster native tests
cargo xtask test --gpu      run everything on this machine's own GPU instead of lavapipe
cargo xtask full-size 1B|6B [--quantize q8|q4]
                           write a model of that size, load it in each format, and time it (8 to 14 GB of disk)
cargo xtask synthetic …    write a full-size checkpoint of random weights (--help says more)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let called_from = std::env::current_dir();
    // Everything else runs from the repository's root, wherever it was called.
    if let Err(error) = std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")) {
        eprintln!("xtask: the repository's root is gone: {error}");
        return ExitCode::FAILURE;
    }
    let done = match args[..] {
        ["setup"] => setup::everything(),
        ["demo"] => demo::demo(),
        ["web"] => web::serve(),
        ["web", "--build"] => web::build(),
        ["vscode"] => vscode::package(),
        ["clients"] => clients::run(),
        ["picture"] => picture::picture(),
        ["test"] => test::test(Choice::default()),
        ["test", "--quick"] => test::test(Choice { quick: true, ..Choice::default() }),
        ["test", "--gpu"] => test::test(Choice { own_gpu: true, ..Choice::default() }),
        ["full-size", size] => full_size::measure(size, ""),
        ["full-size", size, "--quantize", quantize @ ("q8" | "q4")] => full_size::measure(size, quantize),
        ["synthetic", ref options @ ..] => synthetic::write(called_from, options),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
