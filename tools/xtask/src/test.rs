//! The README's second command and CI's only one: every check and every test, on the same adapter everywhere.

use crate::run::{Outcome, output, tee, without_environment};
use crate::{licences, setup, vulkan, web};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// How lavapipe is told the width of its vectors, and with it the size of its subgroups.
const WIDTH: &str = "LP_NATIVE_VECTOR_WIDTH";
/// Tests whose name has one of these run again on subgroups of other widths: the kernels, and a whole small model.
const KERNEL_TESTS: [&str; 2] = ["kernel", "tiny_sequences"];

/// What passed and failed so far: tests by the runners' own count, a check without tests as one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    fn add(&mut self, more: &Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

struct Run {
    tally: Tally,
    summary: Vec<String>,
}

pub fn test(own_gpu: bool) -> Result<(), String> {
    let started = Instant::now();
    setup::everything()?;
    let mut run = Run { tally: Tally::default(), summary: Vec::new() };

    run.check(cargo(&["fmt", "--all", "--check"]));
    run.licences();
    run.check(cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    let wasm = ["--target", "wasm32-unknown-unknown", "--package", "incoder", "--package", "incoder-web"];
    let mut clippy = cargo(&["clippy", "--locked"]);
    clippy.args(wasm).args(["--", "-D", "warnings"]);
    run.check(clippy);
    // Natively the web crate is empty: it is documented for its own target.
    for what in [&["--workspace"][..], &["--target", "wasm32-unknown-unknown", "--package", "incoder-web"]] {
        let mut doc = cargo(&["doc", "--locked", "--no-deps"]);
        doc.args(what).env("RUSTDOCFLAGS", "-D warnings");
        run.check(doc);
    }
    if has_python_tests(Path::new("examples/demo-model")) {
        let mut python = Command::new("python3");
        python.args(["-m", "unittest", "discover", "-s", "examples/demo-model", "-p", "test_*.py"]);
        run.tests(python, Skips::Count);
    }

    let adapter = if own_gpu { Vec::new() } else { lavapipe() };
    let widths: &[&str] = if adapter.is_empty() { &[] } else { &["128", "512"] };
    let nextest = output(Command::new("cargo").args(["nextest", "--version"])).is_some();
    let whole: &[&str] = if nextest { &["nextest", "run"] } else { &["test"] };
    let mut tests = cargo(whole);
    tests.args(["--locked", "--workspace", "--no-fail-fast"]).envs(adapter.iter().cloned());
    if !widths.is_empty() {
        tests.env(WIDTH, "256");
    }
    run.tests(tests, Skips::Count);
    if nextest {
        run.tests(cargo(&["test", "--locked", "--workspace", "--doc"]), Skips::Count);
    }
    for width in widths {
        let mut tests = cargo(whole);
        // The whole workspace, though they are all in one package: with fewer packages cargo would pick other
        // features of the dependencies, and build them all again.
        tests.args(["--locked", "--workspace", "--no-fail-fast"]);
        tests.arg("--").args(KERNEL_TESTS);
        tests.envs(adapter.iter().cloned()).env(WIDTH, width);
        run.tests(tests, Skips::Ignore);
    }

    run.web();

    println!("\n{}", run.summary.join("\n"));
    println!("{:7.1} s  altogether\n", started.elapsed().as_secs_f64());
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

    /// The web package and the demo page: built, then tested in a browser.
    fn web(&mut self) {
        let started = Instant::now();
        let built = web::build();
        if let Err(problem) = &built {
            println!("{problem}");
        }
        self.note("the web package and the demo page", built.is_ok(), started.elapsed().as_secs_f64());
        *(if built.is_ok() { &mut self.tally.passed } else { &mut self.tally.failed }) += 1;
        if built.is_ok() {
            for mut tests in web::tests() {
                tests.envs(setup::find_chromium().map(|path| ("CHROMIUM", path)));
                self.timed_tests(tests);
            }
        }
    }

    fn note(&mut self, what: &str, ok: bool, seconds: f64) {
        let result = if ok { "" } else { "FAILED  " };
        self.summary.push(format!("{seconds:7.1} s  {result}{what}"));
        println!("  {}in {seconds:.1} s\n", if ok { "" } else { "FAILED " });
    }
}

/// The command without the variables that are the same for every test run.
fn brief(command: &Command) -> String {
    let width = command.get_envs().find(|(name, _)| *name == WIDTH).and_then(|(_, value)| value);
    let width = width.map_or(String::new(), |width| format!("{WIDTH}={} ", width.to_string_lossy()));
    width + &without_environment(command)
}

/// The numbers in the closing lines of nextest, `cargo test`, Python's unittest and Node's test runner; a runner that failed without
/// any failed test (it did not compile, say) is one failure.
fn count(outcome: &Outcome) -> Tally {
    let mut tally = Tally::default();
    let mut python = None;
    for line in outcome.text.lines().map(str::trim) {
        if line.starts_with("Summary [") || line.starts_with("test result:") {
            tally.passed += number_before(line, "passed");
            tally.failed += number_before(line, "failed") + number_before(line, "timed out");
            tally.skipped += number_before(line, "skipped") + number_before(line, "ignored");
        } else if let Some((what, n)) = line.strip_prefix("ℹ ").and_then(|l| l.split_once(' ')) {
            let n = n.parse().unwrap_or(0);
            match what {
                "pass" => tally.passed += n,
                "fail" | "cancelled" => tally.failed += n,
                "skipped" | "todo" => tally.skipped += n,
                _ => {}
            }
        } else if let Some(ran) = line.strip_prefix("Ran ").and_then(|l| l.split(' ').next()?.parse::<u64>().ok()) {
            python = Some(ran);
        } else if let Some(ran) = python.filter(|_| line.starts_with("OK") || line.starts_with("FAILED (")) {
            let of = |what: &str| number_after(line, what);
            let (failed, skipped) = (of("failures=") + of("errors="), of("skipped="));
            tally.passed += ran.saturating_sub(failed + skipped);
            tally.failed += failed;
            tally.skipped += skipped;
        }
    }
    if !outcome.ok && tally.failed == 0 {
        tally.failed = 1;
    }
    tally
}

/// In "12 passed (1 slow), 3 skipped": 12 before "passed".
fn number_before(line: &str, word: &str) -> u64 {
    let Some(at) = line.find(&format!(" {word}")) else { return 0 };
    let digits = line[..at].rsplit(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

fn number_after(line: &str, word: &str) -> u64 {
    let digits = line.split_once(word).and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
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

    fn counted(ok: bool, text: &str) -> (u64, u64, u64) {
        let tally = count(&Outcome { ok, text: text.into(), seconds: 0.0 });
        (tally.passed, tally.failed, tally.skipped)
    }

    #[test]
    fn summaries_are_brief() {
        let mut command = cargo(&["nextest", "run"]);
        command.env("WGPU_BACKEND", "vulkan").env("LP_NATIVE_VECTOR_WIDTH", "128");
        assert_eq!(brief(&command), "LP_NATIVE_VECTOR_WIDTH=128 cargo nextest run");
        assert_eq!(brief(&cargo(&["fmt", "--all"])), "cargo fmt --all");
    }

    #[test]
    fn counts_what_runners_say() {
        let nextest = "     Summary [   0.056s] 45 tests run: 42 passed (1 slow), 2 failed, 1 timed out, 7 skipped";
        assert_eq!(counted(false, nextest), (42, 3, 7));
        let cargo = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.05s";
        assert_eq!(counted(true, &format!("{cargo}\n{cargo}")), (24, 0, 2));
        assert_eq!(counted(true, "Ran 5 tests in 0.001s\n\nOK (skipped=1)"), (4, 0, 1));
        assert_eq!(counted(false, "Ran 5 tests in 0.001s\n\nFAILED (failures=1, errors=2)"), (2, 3, 0));
        let node =
            "ℹ tests 6\nℹ suites 0\nℹ pass 3\nℹ fail 1\nℹ cancelled 1\nℹ skipped 1\nℹ todo 0\nℹ duration_ms 57.3";
        assert_eq!(counted(false, node), (3, 2, 1));
        assert_eq!(counted(false, "error: could not compile"), (0, 1, 0));
    }
}
