//! `incoder infill`, `generate` and `score` on files that are long or hard to cut: all of them are used, byte for byte, and no more
//! than the context window is ever shown.

use crate::common::Model;
use std::path::PathBuf;
use tempfile::TempDir;

/// Files that do not fit a context of 512 tokens, or look as if they did not, and a line to fill in each.
fn hard_files() -> Vec<(&'static str, String, usize)> {
    let code = |i: usize| format!("{}value_{i} = table[{}] + offset\n", " ".repeat(i % 4 * 4), i * 7 % 91);
    let program = |lines: usize| (0..lines).map(code).collect::<String>();
    let class = |i: usize| format!("class C{i}:\n    def m{i}(self, x):\n        return self.a{i} + x\n\n\n");
    vec![
        ("empty", String::new(), 1),
        ("one line without a break", "x = 1".into(), 1),
        ("one line of five megabytes", "x = [1, 2, 3]; ".repeat(350_000), 1),
        ("one word of a megabyte", "a".repeat(1 << 20), 1),
        ("a long program, its start", program(20_000), 1),
        ("a long program, its middle", program(20_000), 10_000),
        ("a long program, its end", program(20_000), 20_001),
        ("classes", (0..3_000).map(class).collect(), 7_001),
        ("CRLF", program(5_000).replace('\n', "\r\n"), 2_500),
        ("CR alone", program(5_000).replace('\n', "\r"), 2_500),
        ("mixed line ends", program(5_000).replace("table", "ta\rble").replace("[7]", "\r\n"), 1_000),
        ("a byte-order mark", format!("\u{feff}{}", program(3_000)), 1_500),
        ("tabs", program(4_000).replace("    ", "\t"), 2_000),
        ("30,000 blank lines", "\n".repeat(30_000), 15_000),
        ("lines of blanks", format!("{}\n", " ".repeat(400)).repeat(2_000), 1_000),
        ("Chinese and Japanese", "# 変数の値を計算して返す。这是一个测试。\n値 = 計算(数)\n".repeat(3_000), 3_001),
        ("emoji", "s = '😀👩‍👩‍👧🏳️‍🌈'\n".repeat(4_000), 2_000),
        ("minified JavaScript", "!function(e,t){for(var n=0;n<t.length;n++)e[t[n]]=n}(a,b);".repeat(6_000), 1),
        ("sentinels", "M = '<|mask:0|><|endofmask|>' # <s><pad>\n".repeat(2_000), 1_000),
        ("form feeds and NULs", "a = 1\u{c}\nb = '\u{0}'\n".repeat(3_000), 2_000),
        ("no break at the end", program(3_000).trim_end().into(), 3_000),
        ("combining marks and right-to-left text", "# e\u{301}\u{302} שלום עולם مرحبا\n".repeat(3_000), 1_500),
    ]
}

struct File {
    _folder: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.py");
        std::fs::write(&path, text).unwrap();
        Self { _folder: folder, path }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

#[test]
fn any_file_is_filled_and_stays_what_it_is() {
    let model = Model::tiny();
    for (name, text, line) in hard_files() {
        let file = File::new(&text);
        let at = format!("{line}:1");
        let flags = [file.path(), "--at", &at, "-n", "4", "--temp", "0", "-c", "512", "--json"];
        let made = model.run("infill", &flags).json();
        let [infill] = &made["infills"].as_array().unwrap()[..] else { panic!("{name}: {}", made["infills"]) };
        let (before, after) = (made["parts"][0].as_str().unwrap(), made["parts"][1].as_str().unwrap());
        assert_eq!(format!("{before}{after}"), text, "{name}");
        assert_eq!(made["text"], format!("{before}{}{after}", infill["text"].as_str().unwrap()), "{name}");
        let window = &made["window"][0];
        let (first, last) = (window["first_line"].as_u64().unwrap(), window["last_line"].as_u64().unwrap());
        assert!(first <= line as u64 && line as u64 <= last, "{name}: {window}");
        assert!(window["tokens"].as_u64().unwrap() <= 512, "{name}: {window}");
        assert_eq!(window["left_out_tokens"].as_u64() > Some(0), text.len() > 5_000, "{name}: {window}");

        let left = File::new(before);
        let generated =
            model.run("generate", &["-f", left.path(), "-n", "4", "--temp", "0", "-c", "512", "--json"]).json();
        assert!(generated["prompt_tokens"].as_u64().unwrap() <= 508, "{name}: {generated}");
    }
}

#[test]
fn what_was_used_is_said_and_can_be_refused() {
    let model = Model::tiny();
    let text: String = (0..400).map(|i| format!("value_{i} = {i}\n")).collect();
    let file = File::new(&text);
    let args = ["infill", "-m", model.path(), "-d", "cpu", file.path(), "--at", "200:1", "-n", "4", "-c", "256"];
    let ran = crate::common::run(&args);
    assert!(matches!(ran.code, 0 | 5), "{ran:?}");
    let note = ran.stderr.lines().find(|line| line.contains("used lines")).expect("a note");
    assert!(note.contains(" of 401 (") && note.contains("did not fit"), "{note}");
    let line = model.run("infill", &[&args[5..], &["--context", "error"]].concat()).refused(2);
    assert!(line.contains("tokens are needed, it holds 256") && line.contains("-c") && line.contains("2048"), "{line}");

    let scored = model.run("score", &["-f", file.path(), "-c", "256", "--json"]).json();
    let logprobs = scored["logprobs"].as_array().unwrap();
    assert!(scored["windows"].as_u64().unwrap() > 2 && logprobs.len() > 1_000);
    assert!(logprobs[0].is_null() && logprobs[1..].iter().all(serde_json::Value::is_number));
    let line = model.run("score", &["-f", file.path(), "-c", "256", "--context", "error"]).refused(2);
    assert!(line.contains("it holds 256"), "{line}");
}

#[test]
fn look_back_and_the_ends_of_holes_are_flags() {
    let model = Model::tiny();
    let text: String = (0..40).map(|i| format!("value_{i} = {i}\n")).collect();
    let file = File::new(&text);
    let ids = |more: &[&str]| {
        let flags = [&[file.path(), "--at", "20:1", "-n", "24", "--temp", "0", "--json"][..], more].concat();
        let made = model.run("infill", &flags).json();
        (made["infills"][0]["text"].as_str().unwrap().to_owned(), made["infills"][0]["ids"].clone())
    };
    assert_eq!(ids(&[]), ids(&["--lookback", "8"]));
    assert_ne!(ids(&["--lookback", "0"]).1, ids(&["--lookback", "8"]).1);
    assert!(!ids(&["--single-line"]).0.contains('\n'));
}
