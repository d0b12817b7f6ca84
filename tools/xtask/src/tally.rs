//! What test runners say at their ends: how many tests passed, and which took long.

use crate::run::Outcome;

/// What passed and failed so far: tests by the runners' own count, a check without tests as one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Tally {
    pub fn add(&mut self, more: &Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

/// The numbers in the closing lines of nextest, `cargo test`, Python's unittest and Node's test runner; a runner that failed without
/// any failed test (it did not compile, say) is one failure.
pub fn count(outcome: &Outcome) -> Tally {
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

/// How many seconds each test took, as nextest and Node's test runner print it.
pub fn durations(text: &str) -> Vec<(f64, String)> {
    let nextest = |line: &str| {
        let (seconds, name) = line.strip_prefix("PASS [")?.split_once("s]")?;
        let name = name.trim_start();
        // Newer versions count the tests before their names.
        let name = if name.starts_with('(') { name.split_once(')')?.1 } else { name };
        Some((seconds.trim().parse().ok()?, name.trim().to_owned()))
    };
    let node = |line: &str| {
        let (name, ms) = line.strip_prefix("✔ ")?.strip_suffix("ms)")?.rsplit_once(" (")?;
        Some((ms.parse::<f64>().ok()? / 1e3, name.to_owned()))
    };
    text.lines().map(str::trim).filter_map(|line| nextest(line).or_else(|| node(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(ok: bool, text: &str) -> (u64, u64, u64) {
        let tally = count(&Outcome { ok, text: text.into(), seconds: 0.0 });
        (tally.passed, tally.failed, tally.skipped)
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

    #[test]
    fn finds_how_long_tests_took() {
        let text = "        PASS [   0.232s] (100/332) incoder::engine infill::x\n    PASS [  12.0s] a b\n  ✔ a name (b) (1500.5ms)\nother";
        let found = [(0.232, "incoder::engine infill::x"), (12.0, "a b"), (1.5005, "a name (b)")];
        assert_eq!(durations(text), found.map(|(seconds, name)| (seconds, name.to_owned())));
    }
}
