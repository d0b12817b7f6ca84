//! The README's second command and CI's only one: every check and every test, on the same adapter everywhere.

use crate::run::{output, tee, together, without_environment};
use crate::tally::{Tally, count, durations};
use crate::{clients, licences, setup, vscode, vulkan, web};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

/// How lavapipe is told the width of its vectors, and with it the size of its subgroups.
const WIDTH: &str = "LP_NATIVE_VECTOR_WIDTH";
/// How many of the slowest tests are named at the end.
const SLOWEST: usize = 10;
/// Tests whose name has one of these run again on subgroups of other widths: the kernels, and a whole small model.
const KERNEL_TESTS: [&str; 2] = ["kernel", "tiny_sequences"];

/// Files of browser tests that run at the same time.
const BROWSERS: usize = 2;
/// Those that run alone, because they measure times.
const MEASURING: [&str; 3] = ["bench", "browsers", "tuning"];

#[derive(Default)]
struct Run {
    tally: Tally,
    summary: Vec<String>,
    /// Seconds that each test took.
    durations: Vec<(f64, String)>,
}

/// What of the tests is run, and on which adapter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice {
    /// On this machine's own GPU instead of lavapipe.
    pub own_gpu: bool,
    /// Only what answers within minutes: no browser, and none of the tests that `.config/nextest.toml` calls slow.
    pub quick: bool,
}

pub fn test(choice: Choice) -> Result<(), String> {
    let started = Instant::now();
    if choice.quick {
        setup::for_testing()?;
    } else {
        setup::everything()?;
    }
    let mut run = Run::default();

    run.check(cargo(&["fmt", "--all", "--check"]));
    run.check(cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    if !choice.quick {
        run.slower_checks();
    }
    run.native(choice);
    if !choice.quick {
        run.clients();
        run.built("the extension for Visual Studio Code", vscode::package, || vec![vscode::tests()]);
        run.built("the web package and the demo page", web::build, web::tests);
    }

    println!("\n{}", run.summary.join("\n"));
    println!("{:7.1} s  altogether\n", started.elapsed().as_secs_f64());
    run.durations.sort_by(|a, b| b.0.total_cmp(&a.0));
    println!("The slowest tests:");
    for (seconds, name) in run.durations.iter().take(SLOWEST) {
        println!("{seconds:7.1} s  {name}");
    }
    println!();
    let Tally { passed, failed, skipped } = run.tally;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { Ok(()) } else { Err("not everything passed".into()) }
}

/// Whether a runner's "skipped" says something: in a run of a part of the tests, the others are no news.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Skips {
    Count,
    Ignore,
}

impl Run {
    /// Licences, lints for wasm, documentation, Python.
    fn slower_checks(&mut self) {
        self.licences();
        let wasm = ["--target", "wasm32-unknown-unknown", "--package", "incoder", "--package", "incoder-web"];
        let mut clippy = cargo(&["clippy", "--locked"]);
        clippy.args(wasm).args(["--", "-D", "warnings"]);
        self.check(clippy);
        // Natively the web crate is empty: it is documented for its own target.
        for what in [&["--workspace"][..], &["--target", "wasm32-unknown-unknown", "--package", "incoder-web"]] {
            let mut doc = cargo(&["doc", "--locked", "--no-deps"]);
            doc.args(what).env("RUSTDOCFLAGS", "-D warnings");
            self.check(doc);
        }
        if has_python_tests(Path::new("examples/demo-model")) {
            let mut python = Command::new("python3");
            python.args(["-m", "unittest", "discover", "-s", "examples/demo-model", "-p", "test_*.py"]);
            self.tests(python, Skips::Count);
        }
    }

    /// The tests of the workspace; the kernels' on subgroups of three sizes.
    fn native(&mut self, choice: Choice) {
        let adapter = if choice.own_gpu { Vec::new() } else { lavapipe() };
        let widths: &[&str] = if adapter.is_empty() || choice.quick { &[] } else { &["128", "512"] };
        let nextest = output(Command::new("cargo").args(["nextest", "--version"])).is_some();
        let whole: &[&str] = if nextest { &["nextest", "run"] } else { &["test"] };
        let mut tests = cargo(whole);
        tests.args(["--locked", "--workspace", "--no-fail-fast"]).envs(adapter.iter().cloned());
        if choice.quick && nextest {
            tests.args(["--profile", "quick"]);
        }
        if !adapter.is_empty() {
            tests.env(WIDTH, "256");
        }
        self.tests(tests, Skips::Count);
        if nextest {
            self.tests(cargo(&["test", "--locked", "--workspace", "--doc"]), Skips::Count);
        }
        for width in widths {
            let mut tests = cargo(whole);
            // The whole workspace, though they are all in one package: with fewer packages cargo would pick other
            // features of the dependencies, and build them all again.
            tests.args(["--locked", "--workspace", "--no-fail-fast"]);
            tests.arg("--").args(KERNEL_TESTS);
            tests.envs(adapter.iter().cloned()).env(WIDTH, width);
            self.tests(tests, Skips::Ignore);
        }
    }

    /// Clients that others wrote, against the program that was built for the tests.
    fn clients(&mut self) {
        for install in clients::installs() {
            self.check(install);
        }
        for tests in clients::tests() {
            self.timed_tests(tests);
        }
    }

    /// A command that passes or fails as a whole.
    fn check(&mut self, mut command: Command) {
        let outcome = tee(&mut command);
        self.note(&brief(&command), outcome.ok, outcome.seconds);
        *(if outcome.ok { &mut self.tally.passed } else { &mut self.tally.failed }) += 1;
    }

    /// A test runner: its own numbers count.
    fn tests(&mut self, mut command: Command, skips: Skips) {
        let outcome = tee(&mut command);
        self.note(&brief(&command), outcome.ok, outcome.seconds);
        self.durations.extend(durations(&outcome.text));
        let mut tally = count(&outcome);
        if skips == Skips::Ignore {
            tally.skipped = 0;
        }
        self.tally.add(&tally);
    }

    /// Tests with real deadlines (a debounce, an abort half way): on a busy machine one may miss its own, so a run
    /// that fails is repeated once, which is said, and the second one counts.
    fn timed_tests(&mut self, mut command: Command) {
        let first = tee(&mut command);
        if first.ok {
            self.note(&brief(&command), true, first.seconds);
            self.tally.add(&count(&first));
            self.durations.extend(durations(&first.text));
        } else {
            println!("  failed in {:.1} s; once more\n", first.seconds);
            self.tests(command, Skips::Count);
        }
    }

    fn licences(&mut self) {
        println!("$ licences of all dependencies against deny.toml");
        let started = Instant::now();
        let checked = licences::check();
        match &checked {
            Ok(packages) => println!("{packages} packages, all allowed"),
            Err(problem) => println!("{problem}"),
        }
        self.note("licences of all dependencies against deny.toml", checked.is_ok(), started.elapsed().as_secs_f64());
        *(if checked.is_ok() { &mut self.tally.passed } else { &mut self.tally.failed }) += 1;
    }

    /// What npm builds, then its tests; those of the web package run in a browser.
    fn built(&mut self, what: &str, build: fn() -> Result<(), String>, tests: fn() -> Vec<Command>) {
        let started = Instant::now();
        let built = build();
        if let Err(problem) = &built {
            println!("{problem}");
        }
        self.note(what, built.is_ok(), started.elapsed().as_secs_f64());
        *(if built.is_ok() { &mut self.tally.passed } else { &mut self.tally.failed }) += 1;
        if built.is_ok() {
            self.browser_tests(tests());
        }
    }

    /// Two files at a time, each with a browser of its own: much of what they do is on one core. Those that measure run alone, and
    /// so does, once more, one that failed: on a busy machine a test with a deadline may miss it. That is said, and the second run
    /// counts.
    fn browser_tests(&mut self, tests: Vec<Command>) {
        let (mut alone, mut files): (Vec<Command>, Vec<Command>) = tests.into_iter().partition(measures);
        for tests in alone.iter_mut().chain(&mut files) {
            tests.envs(setup::find_chromium().map(|path| ("CHROMIUM", path)));
        }
        let outcomes = Mutex::new(Vec::new());
        together(&mut files, BROWSERS, |number, outcome| {
            println!("  {}in {:.1} s\n", if outcome.ok { "" } else { "FAILED " }, outcome.seconds);
            outcomes.lock().unwrap_or_else(|e| e.into_inner()).push((number, outcome));
        });
        let mut again = Vec::new();
        let mut outcomes = outcomes.into_inner().unwrap_or_else(|e| e.into_inner());
        outcomes.sort_by_key(|(number, _)| *number);
        for (command, (_, outcome)) in files.into_iter().zip(&outcomes) {
            if outcome.ok {
                self.summary.push(format!("{:7.1} s  {}", outcome.seconds, brief(&command)));
                self.tally.add(&count(outcome));
                self.durations.extend(durations(&outcome.text));
            } else {
                again.push(command);
            }
        }
        for tests in alone {
            self.timed_tests(tests);
        }
        for tests in again {
            println!("  once more, alone:\n");
            self.tests(tests, Skips::Count);
        }
    }

    fn note(&mut self, what: &str, ok: bool, seconds: f64) {
        let result = if ok { "" } else { "FAILED  " };
        self.summary.push(format!("{seconds:7.1} s  {result}{what}"));
        println!("  {}in {seconds:.1} s\n", if ok { "" } else { "FAILED " });
    }
}

/// Whether a file of browser tests measures times.
fn measures(tests: &Command) -> bool {
    let file = tests.get_args().last().unwrap_or_default().to_string_lossy();
    MEASURING.iter().any(|name| file.ends_with(&format!("/{name}.test.mjs")))
}

/// The command without the variables that are the same for every test run.
fn brief(command: &Command) -> String {
    let width = command.get_envs().find(|(name, _)| *name == WIDTH).and_then(|(_, value)| value);
    let width = width.map_or(String::new(), |width| format!("{WIDTH}={} ", width.to_string_lossy()));
    width + &without_environment(command)
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args);
    command
}

/// The environment that makes lavapipe the only adapter. Empty where it is not to be had (macOS: Metal is used).
fn lavapipe() -> Vec<(String, String)> {
    let Some(manifest) = vulkan::lavapipe() else { return Vec::new() };
    let manifest = manifest.display().to_string();
    let variables = [
        ("WGPU_BACKEND", "vulkan"),
        ("WGPU_ADAPTER_NAME", "llvmpipe"),
        ("VK_DRIVER_FILES", &manifest),
        ("VK_ICD_FILENAMES", &manifest),
        ("MESA_VK_IGNORE_CONFORMANCE_WARNING", "1"),
        // Or Mesa looks for a desktop session, and says so on stderr where there is none.
        ("NODEVICE_SELECT", "1"),
    ];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn has_python_tests(folder: &Path) -> bool {
    let is_test = |name: &str| name.starts_with("test_") && name.ends_with(".py");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| is_test(&entry.file_name().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_brief() {
        let mut command = cargo(&["nextest", "run"]);
        command.env("WGPU_BACKEND", "vulkan").env("LP_NATIVE_VECTOR_WIDTH", "128");
        assert_eq!(brief(&command), "LP_NATIVE_VECTOR_WIDTH=128 cargo nextest run");
        assert_eq!(brief(&cargo(&["fmt", "--all"])), "cargo fmt --all");
    }
}
