//! Inputs as people have them: files of every kind, encodings, places, models that are no models, and other programs' habits.

use crate::common::{Model, Ran, finish, oracle, program, run, run_with_stdin};
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder to work in.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file, and its path as an argument.
    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// Greedy, with a few tokens, quiet.
fn infill(model: &Model, more: &[&str]) -> Ran {
    model.run("infill", &[&["--temp", "0", "-n", "4"], more].concat())
}

const LEFT: &str = "def f(x):\n    return ";
const RIGHT: &str = "\n\nprint(f(1))\n";

#[test]
fn what_is_no_text_is_called_by_its_name() {
    let (place, model) = (Place::new(), Model::tiny());
    let utf16: Vec<u8> = "\u{feff}x = <infill>\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (name, bytes, says) in [
        ("wide.py", utf16, "is UTF-16 and not UTF-8: convert it with `iconv -f UTF-16 -t UTF-8 "),
        ("latin.py", b"a = 1\nna\xefve = <infill>\n".to_vec(), "latin.py:2:3: not UTF-8: byte 9 is 0xEF"),
        ("zeros.bin", vec![0; 64], "is binary"),
    ] {
        let file = place.file(name, bytes);
        let line = infill(&model, &[&file]).refused(2);
        assert!(line.contains(says), "{line}");
        assert_eq!(model.run("generate", &["-f", &file]).refused(2), line);
        assert_eq!(model.run("score", &["-f", &file]).refused(2), line);
    }
    assert!(infill(&model, &[place.0.path().to_str().unwrap()]).refused(2).ends_with("is a folder, not a file"));
    #[cfg(unix)]
    assert!(infill(&model, &["/dev/zero"]).refused(2).contains("longer than 256 MiB"));
}

/// A mark stays at the beginning of the file, is no column and is not shown to the model: the text is filled as without it.
#[test]
fn a_byte_order_mark_is_kept_and_not_counted() {
    let (place, model) = (Place::new(), Model::tiny());
    let plain = place.file("plain.py", format!("{LEFT}{RIGHT}"));
    let marked = place.file("marked.py", format!("\u{feff}{LEFT}{RIGHT}"));
    for at in ["1:1", "1:5", "2:12"] {
        let filled = infill(&model, &[&plain, "--at", at]).ok();
        let expected = format!("\u{feff}{filled}");
        assert_eq!(infill(&model, &[&marked, "--at", at]).ok(), expected);
        let json = infill(&model, &[&marked, "--at", at, "--json"]).json();
        assert_eq!(json["text"], expected);
        let copy = place.file("copy.py", format!("\u{feff}{LEFT}{RIGHT}"));
        assert_eq!(infill(&model, &[&copy, "--at", at, "-i"]).ok(), "");
        assert_eq!(fs::read_to_string(&copy).unwrap(), expected);
    }
    let parts = place.file("parts.json", format!("\u{feff}{}", serde_json::json!([LEFT, RIGHT])));
    let expected = infill(&model, &[&plain, "--at", "2:12", "--lookback", "0"]).ok();
    assert_eq!(infill(&model, &["--parts", &parts]).ok(), expected);
    let tokens = |file: &str| run(&["tokenize", "-m", model.path(), "-f", file]).ok();
    assert_eq!(tokens(&marked), tokens(&plain));
}

#[test]
fn line_ends_of_every_kind_come_back() {
    let (place, model) = (Place::new(), Model::tiny());
    let unix = place.file("unix", format!("{LEFT}{RIGHT}"));
    let filled = infill(&model, &[&unix, "--at", "2:12"]).ok();
    for end in ["\r\n", "\r"] {
        let other = place.file("other", format!("{LEFT}{RIGHT}").replace('\n', end));
        assert_eq!(infill(&model, &[&other, "--at", "2:12"]).ok(), filled.replace('\n', end));
    }
}

#[test]
fn messages_point_into_the_users_file() {
    let (place, model) = (Place::new(), Model::tiny());
    let sentinel = place.file("m.py", "a = 1\nb = 2\nc = 3\nM = \"<|mask:0|>\"\n");
    let refuse = ["--sentinels", "refuse"];
    let short = place.file("s.py", "ab\ncd");
    for (args, says) in [
        (
            vec![sentinel.as_str(), "--at", "3:1", refuse[0], refuse[1]],
            "m.py:4:6: the text spells the sentinel <|mask:0|>",
        ),
        (vec![short.as_str(), "--at", "1:4"], "s.py:1:4: line 1 ends at column 3"),
        (vec![short.as_str(), "--at", "3:1"], "s.py has 2 lines, not 3"),
        (vec![short.as_str()], "s.py has no <infill>"),
    ] {
        let line = infill(&model, &args).refused(2);
        assert!(line.contains(says), "{line}");
    }
    let marked = place.file("marked.py", "x = <infill>\ny = '<|endofmask|>'\n<infill>\n");
    assert!(infill(&model, &[&marked, refuse[0], refuse[1]]).refused(2).contains("marked.py:2:6: the text spells"));
    let place_of_file = format!("{short}:2:2");
    assert!(infill(&model, &[&place_of_file]).ok().starts_with("ab\nc"));
    assert!(infill(&model, &[&place_of_file, "--at", "1:1"]).refused(2).contains("say both where the hole is"));
}

/// What can be known from the arguments and the text is said in less time than a model takes to load: here it has no weights.
#[test]
fn what_is_wrong_with_the_input_is_said_before_the_model_is_loaded() {
    let (place, model) = (Place::new(), Model::tiny());
    fs::remove_file(Path::new(model.path()).join("model.safetensors")).unwrap();
    let text = place.file("a.py", "x = 1\n");
    let sentinel = place.file("s.py", "<|mask:0|> <infill>");
    let many = place.file("many.py", "<infill>".repeat(300));
    for args in [
        vec!["infill", &sentinel, "--sentinels", "refuse"],
        vec!["infill", &many],
        vec!["infill", &many, "--n", "2"],
        vec!["infill", &text, "--at", "9:9"],
        vec!["infill", &text, "--at", "1:1", "--stop", ""],
        vec!["infill", &text, &text],
        vec!["generate", "-p", "<|mask:0|>", "--sentinels", "refuse"],
        vec!["generate", "--ids", "2,99999"],
        vec!["generate", "-p", "x", "--stop", ""],
        vec!["score", "--ids", ""],
    ] {
        let ran = model.run(args[0], &args[1..]);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}: {}", ran.stderr);
    }
    assert_eq!(model.run("generate", &["-p", "x"]).code, 4);
}

#[test]
#[cfg(unix)]
fn only_ordinary_files_are_written_and_they_keep_what_they_have() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (place, model) = (Place::new(), Model::tiny());
    let fifo = place.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let started = Instant::now();
    for (path, kind) in [(fifo.to_str().unwrap(), "a FIFO"), ("/dev/null", "a device")] {
        let line = infill(&model, &[path, "--at", "1:1", "-i"]).refused(2);
        assert!(line.ends_with(&format!("is {kind}, no ordinary file: --in-place cannot write it back")), "{line}");
    }
    assert!(started.elapsed() < Duration::from_secs(5));

    let file = place.file("a.py", format!("{LEFT}{RIGHT}"));
    let other_name = place.path("b.py");
    fs::hard_link(&file, &other_name).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let filled = infill(&model, &[&file, "--at", "2:12"]).ok();
    infill(&model, &[&file, "--at", "2:12", "-i"]).ok();
    assert_eq!(
        (fs::read_to_string(&file).unwrap(), fs::read_to_string(&other_name).unwrap()),
        (filled.clone(), filled)
    );
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    // A folder that takes no new file, and a file that is written all the same.
    let folder = place.path("closed");
    fs::create_dir(&folder).unwrap();
    let inside = folder.join("c.py");
    fs::write(&inside, format!("{LEFT}{RIGHT}")).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    infill(&model, &[inside.to_str().unwrap(), "--at", "2:12", "-i"]).ok();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    assert_ne!(fs::read_to_string(&inside).unwrap(), format!("{LEFT}{RIGHT}"));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn what_was_cut_off_has_its_own_exit_code_and_can_be_kept_out() {
    let (place, model) = (Place::new(), Model::tiny());
    let text = format!("{LEFT}<infill>{RIGHT}");
    let file = place.file("a.py", &text);
    let ran = infill(&model, &[&file]);
    assert_eq!((ran.code, ran.stderr.as_str()), (5, ""), "quiet");
    assert_eq!(infill(&model, &[&file, "-i", "--only-complete"]).code, 5);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    // Whatever it begins with is a stop text: the hole is ended by that.
    let stops: Vec<String> = (1..128u8).map(|byte| char::from(byte).to_string()).collect();
    let stops: Vec<&str> = stops.iter().flat_map(|stop| ["--stop", stop.as_str()]).collect();
    let ended = infill(&model, &[&[file.as_str(), "-i", "--only-complete"], &stops[..]].concat());
    if ended.code == 0 {
        assert!(!fs::read_to_string(&file).unwrap().contains("<infill>"));
    }
    let args = model.args("infill", &[&file, "--temp", "0", "-n", "4"]);
    let args: Vec<&str> = args.iter().copied().filter(|arg| *arg != "-q").collect();
    let told = place.file("b.py", &text);
    let args: Vec<&str> = args.iter().map(|arg| if *arg == file { told.as_str() } else { arg }).collect();
    let ran = run(&args);
    assert!(
        ran.stderr.ends_with("b.py: the hole was not ended by the model: see -n and --retries\n"),
        "{}",
        ran.stderr
    );
}

#[test]
fn several_files_are_filled_in_one_call() {
    let (place, model) = (Place::new(), Model::tiny());
    let texts = [format!("{LEFT}<infill>{RIGHT}"), "a = <infill>\nb = <infill>\n".to_owned()];
    let files = [place.file("a.py", &texts[0]), place.file("b.py", &texts[1])];
    let alone: Vec<String> = files.iter().map(|file| infill(&model, &[file]).ok()).collect();
    let both = [files[0].as_str(), files[1].as_str()];
    assert!(infill(&model, &both).refused(2).contains("--in-place, --diff or --json"));
    let lines = infill(&model, &[&both[..], &["--json"]].concat()).ok();
    let texts_of: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].clone()).collect();
    assert_eq!(texts_of, alone);
    // Both: the diff is printed, and the files are written.
    let diff = infill(&model, &[&both[..], &["--diff", "-i"]].concat()).ok();
    assert_eq!(diff.matches("--- ").count(), 2, "{diff}");
    assert_eq!(files.map(|file| fs::read_to_string(file).unwrap()).as_slice(), alone);
}

#[test]
fn habits_of_other_programs_are_understood() {
    let model = Model::tiny();
    let generate = |more: &[&str]| model.run("generate", &[&["-p", "def f(", "--temp", "0"], more].concat()).ok();
    let three = generate(&["-n", "3"]);
    assert_eq!(generate(&["-n", "9", "-n", "3"]), three, "the last one counts");
    assert_eq!(generate(&["-n", "3", "-s", "-1", "-c", "0", "--top-k", "-1", "-t", "4", "-ngl", "0"]), three);
    let all = model.run("generate", &["-p", "x", "-n", "-1", "-c", "24", "--temp", "0", "--json"]).json();
    assert!(all["ids"].as_array().unwrap().len() > 10, "{all}");
    let path = model.path().to_owned();
    let mut command = program(&["generate", "-p", "def f(", "--temp", "0", "-n", "3", "-d", "cpu", "-q"]);
    command.env("INCODER_MODEL", &path);
    assert_eq!(finish(command).ok(), three);
    let mut command = program(&["generate", "-p", "x", "-n", "1", "-q"]);
    command.env("INCODER_DEVICE", "no such device");
    assert!(finish(command).refused(3).contains("no GPU \"no such device\""));
    assert_eq!(run(&["version"]).ok(), run(&["--version"]).ok());
    assert!(run(&["man"]).ok().starts_with(".ie"));
    assert!(run(&["man", "models", "pull"]).ok().contains("incoder"));
    let ran = run(&["completions", "bash", "--json"]);
    let failed: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &failed["error"]["code"]), (2, &2.into()));
    assert!(failed["error"]["message"].as_str().unwrap().contains("no JSON form"), "{failed}");
    assert_eq!(run(&["models", "list"]).code, 0);
}

/// Beside a software adapter the faster of the two computes: measured once, kept in a file, and taken from it then.
#[test]
fn the_faster_of_cpu_and_software_adapter_is_taken() {
    let (place, model) = (Place::new(), Model::tiny());
    let kept = place.path("incoder/devices.json");
    let device = || {
        let mut command = program(&["generate", "-m", model.path(), "-p", "x", "-n", "1", "-v"]);
        command.env("XDG_CACHE_HOME", place.0.path());
        let ran = finish(command);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stderr.lines().find_map(|line| Some(line.split_once("M parameters, on ")?.1.to_owned())).unwrap()
    };
    let measured = device();
    // Hardware is not timed against the CPU.
    let Ok(text) = fs::read_to_string(&kept) else { return };
    let mut times: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (_, entry) = times.as_object_mut().unwrap().iter_mut().next().unwrap();
    let faster = |entry: &serde_json::Value| entry["cpu"].as_f64().unwrap() < entry["adapter"].as_f64().unwrap();
    assert_eq!(measured == "the CPU", faster(entry), "{entry}");
    for (cpu, adapter) in [(1.0, 2.0), (2.0, 1.0)] {
        let (_, entry) = times.as_object_mut().unwrap().iter_mut().next().unwrap();
        *entry = serde_json::json!({ "cpu": cpu, "adapter": adapter });
        fs::write(&kept, times.to_string()).unwrap();
        assert_eq!(device() == "the CPU", cpu < adapter);
    }
    fs::write(&kept, "damaged").unwrap();
    device();
    assert!(serde_json::from_str::<serde_json::Value>(&fs::read_to_string(&kept).unwrap()).is_ok());
}

#[test]
#[cfg(unix)]
fn what_cannot_be_printed_is_a_failure() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [&["--help"][..], &["infill", "--help"], &["--version"], &["completions", "bash"], &["man"]] {
        let mut command = program(args);
        command.stdout(full());
        assert_eq!(finish(command).code, 1, "{args:?}");
    }
}

#[test]
fn shells_are_told_the_models_and_the_devices() {
    let offered = |words: &[&str]| {
        let mut command = program(&[&["--"], words].concat());
        command.env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
        command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9").env("HF_HUB_CACHE", oracle("none"));
        finish(command).ok()
    };
    let models = offered(&["incoder", "models", ""]);
    assert!(models.starts_with("pull\nls\nrm\nverify\n"), "{models}");
    assert!(offered(&["incoder", "generate", "-d", "c"]).contains("cpu"));
    assert!(run(&["completions", "zsh"]).ok().contains("incoder"));
}

#[test]
fn models_that_are_none_are_named_in_the_files_terms() {
    let change = |name: &str, bytes: &[u8]| {
        let model = Model::tiny();
        let path = Path::new(model.path()).join(name);
        fs::remove_file(&path).ok();
        fs::write(path, bytes).unwrap();
        model.run("generate", &["-p", "x", "-n", "1"]).refused(4)
    };
    let rust = ["Some(", "None", "struct", "invalid type", "Error {", "os error"];
    for (name, bytes, says) in [
        (
            "config.json",
            &b"{\"model_type\": \"gpt2\"}"[..],
            "model_type \"gpt2\"; \"xglm\" (InCoder), \"llama\" and \"qwen2\" are computed",
        ),
        ("config.json", b"[1, 2]", "config.json: is no JSON object"),
        ("config.json", b"", "config.json: is empty"),
        ("config.json", b"{\"a\": 1", "config.json: is no valid JSON"),
        ("config.json", b"<html>", "it begins with \"<\", as a web page does"),
        ("config.json", b"\xff\xfe{\0}\0", "config.json: is UTF-16"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
        ("model.safetensors", b"", "model.safetensors: is 0 bytes long"),
        ("tokenizer.json", b"{}", "tokenizer.json"),
    ] {
        let line = change(name, bytes);
        assert!(line.contains(says), "{line}");
        assert!(!rust.iter().any(|word| line.contains(word)), "{line}");
    }
    #[cfg(unix)]
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let model = Model::tiny();
        let path = Path::new(model.path()).join(name);
        fs::remove_file(&path).ok();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let started = Instant::now();
        let ran = model.run("generate", &["-p", "x", "-n", "1"]);
        assert!(ran.code == 4 && started.elapsed() < Duration::from_secs(5), "{ran:?}");
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_reading_of_a_pipe_at_once() {
    let model = Model::tiny();
    let mut command = program(&model.args("infill", &["-", "-n", "1"]));
    let mut child = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let started = Instant::now();
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert!(status.signal() == Some(2) || status.code() == Some(130), "{status:?}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a file holds and wherever the hole is said to be: the program ends with 0, 2 or 5, and the bytes around the hole
    /// are those of the file.
    #[test]
    fn any_bytes_at_any_place_stay_what_they_are(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "(?s)(.|\r\n|\n|\r|\u{feff}|é|\u{0}|<infill>){0,30}".prop_map(String::into_bytes),
        ],
        line in 1usize..6,
        column in 1usize..9,
    ) {
        let (place, model) = (Place::new(), Model::tiny());
        let file = place.file("a", &bytes);
        let at = format!("{line}:{column}");
        let ran = model.run("infill", &["-n", "2", "--temp", "0", "-i", &file, "--at", &at]);
        prop_assert!(matches!(ran.code, 0 | 2 | 5), "{:?}", ran);
        let after = fs::read(&file).unwrap();
        if ran.code == 2 {
            prop_assert_eq!(&after, &bytes);
        } else {
            // What was put in stands in one place.
            let before = bytes.iter().zip(&after).take_while(|(a, b)| a == b).count();
            let behind = bytes.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
            prop_assert!(before + behind >= bytes.len(), "{:?} became {:?}", bytes, after);
        }
        let piped = run_with_stdin(&model.args("infill", &["-", "-n", "1", "--temp", "0"]), &bytes);
        prop_assert!(matches!(piped.code, 0 | 2 | 5), "{:?}", piped);
    }
}
