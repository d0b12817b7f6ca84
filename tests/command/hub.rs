//! Models of a hub: whatever the server or the disk does, the end is a model that works or one line that says why not.

use crate::common::hub_server::{COMMIT, Fault, Hub, etag};
use crate::common::{Model, Ran, finish, program};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const RUNTIME: i32 = 1;
const USAGE: i32 = 2;
const MODEL: i32 = 4;
const WEIGHTS: &str = "model.safetensors";
const NEEDED: [&str; 3] = ["config.json", WEIGHTS, "tokenizer.json"];
const PULL: [&str; 3] = ["models", "pull", "org/tiny"];

/// A user's computer: a cache of its own, and a hub to ask.
struct Home {
    folder: TempDir,
    hub: Hub,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), hub: Hub::start() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program(args);
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_SYMLINKS", "SSL_CERT_FILE"] {
            command.env_remove(name);
        }
        command.env("NO_PROXY", "*").env("HF_HOME", self.folder.path()).env("HF_ENDPOINT", self.hub.url());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args))
    }

    /// With a variable more in the environment.
    fn run_with(&self, name: &str, value: &str, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        command.env(name, value);
        finish(command)
    }

    fn offline(&self, args: &[&str]) -> Ran {
        self.run_with("HF_HUB_OFFLINE", "1", args)
    }

    fn repo(&self) -> PathBuf {
        self.folder.path().join("hub/models--org--tiny")
    }

    fn snapshot(&self) -> PathBuf {
        self.repo().join("snapshots").join(COMMIT)
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.repo().join("blobs").join(etag(name, &self.hub.file(name)))
    }

    fn incomplete(&self, name: &str) -> PathBuf {
        self.blob(name).with_extension("incomplete")
    }

    /// The first bytes of a file, as an earlier download left them.
    fn begin(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.repo().join("blobs")).unwrap();
        fs::write(self.incomplete(name), bytes).unwrap();
    }

    /// Every file that is needed is there, and is the right one; no other is, and nothing is left over.
    #[track_caller]
    fn assert_whole(&self) {
        for name in NEEDED {
            assert!(fs::read(self.snapshot().join(name)).unwrap() == self.hub.file(name), "{name} is another");
        }
        assert_eq!(fs::read_dir(self.snapshot()).unwrap().count(), NEEDED.len());
        assert_eq!(fs::read_dir(self.repo().join("blobs")).unwrap().count(), NEEDED.len());
    }

    /// There are no weights that a program could take for a model's.
    #[track_caller]
    fn assert_no_weights(&self) {
        assert!(!self.snapshot().join(WEIGHTS).exists());
        assert!(!self.blob(WEIGHTS).exists());
        self.run(&["models", "path", "org/tiny"]).refused(MODEL);
    }
}

#[track_caller]
fn assert_says(line: &str, words: &[&str]) {
    assert!(words.iter().all(|word| line.contains(word)), "{line:?} lacks one of {words:?}");
}

fn names(seen: &[(String, Option<String>)]) -> Vec<&str> {
    seen.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_pulled_model_works_and_is_asked_for_once() {
    let home = Home::new();
    let ask = ["generate", "-d", "cpu", "-q", "--ids", "2,17", "-n", "2", "--temp", "0", "--json"];
    let pulled = home.run(&[&ask[..], &["-m", "org/tiny"]].concat()).json();
    let folder = Model::new("tiny-a", "model.fp16.safetensors");
    assert_eq!(pulled["ids"], home.run(&[&ask[..], &["-m", folder.path()]].concat()).json()["ids"]);
    assert_eq!(names(&home.hub.files_seen()), NEEDED);
    home.assert_whole();
    assert_eq!(fs::read_to_string(home.repo().join("refs/main")).unwrap(), COMMIT);

    // Again: one question, whether there is something new.
    let printed = home.run(&PULL).ok();
    assert_eq!(Path::new(printed.trim()), home.snapshot());
    assert_eq!(home.run(&["models", "path", "org/tiny"]).ok(), printed);
    let seen = home.hub.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, "/api/models/org/tiny/revision/main?blobs=true");
    // A commit never changes: no question at all. A file of the snapshot means its folder.
    home.run(&["models", "pull", &format!("org/tiny@{COMMIT}")]).ok();
    let weights = home.snapshot().join(WEIGHTS);
    home.run(&["tokenize", "-m", weights.to_str().unwrap(), "-p", "a"]).ok();
    assert_eq!(home.hub.seen(), []);
}

#[test]
#[cfg(unix)]
fn the_cache_has_pythons_layout() {
    let home = Home::new();
    home.run(&PULL).ok();
    for name in NEEDED {
        let link = fs::read_link(home.snapshot().join(name)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(etag(name, &home.hub.file(name))));
    }
    let lock = home.folder.path().join("hub/.locks/models--org--tiny").join(home.blob(WEIGHTS).file_name().unwrap());
    assert!(lock.with_extension("lock").is_file());
}

#[test]
#[cfg(unix)]
fn what_python_downloaded_is_found() {
    let home = Home::new();
    for part in ["blobs", "refs"] {
        fs::create_dir_all(home.repo().join(part)).unwrap();
    }
    fs::create_dir_all(home.snapshot()).unwrap();
    fs::write(home.repo().join("refs/main"), COMMIT).unwrap();
    for name in NEEDED {
        let blob = home.blob(name);
        fs::write(&blob, home.hub.file(name)).unwrap();
        let target = Path::new("../../blobs").join(blob.file_name().unwrap());
        std::os::unix::fs::symlink(target, home.snapshot().join(name)).unwrap();
    }
    home.run(&PULL).ok();
    assert!(home.hub.files_seen().is_empty());
    home.offline(&["tokenize", "-m", "org/tiny", "-p", "a"]).ok();
    assert_eq!(home.hub.seen(), []);
    home.assert_whole();
}

#[test]
fn a_cut_connection_is_taken_up_where_it_broke() {
    let home = Home::new();
    home.hub.fault(WEIGHTS, 1, Fault::Cut(100_000));
    home.hub.fault("tokenizer.json", 1, Fault::Cut(0));
    home.run(&PULL).ok();
    let ranges: Vec<_> =
        home.hub.files_seen().into_iter().filter(|(name, _)| name == WEIGHTS).map(|(_, r)| r).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned())]);
    home.assert_whole();
}

#[test]
fn a_connection_that_is_always_cut_gets_there_while_it_gets_on() {
    let home = Home::new();
    home.hub.fault(WEIGHTS, usize::MAX, Fault::Cut(40_000));
    home.run(&PULL).ok();
    // 269,176 bytes in steps of 40,000: more tries than a connection gets that gives nothing.
    assert_eq!(home.hub.files_seen().iter().filter(|(name, _)| name == WEIGHTS).count(), 7);
    home.assert_whole();
}

#[test]
fn a_connection_that_gives_nothing_ends_in_an_error_and_goes_on_later() {
    let home = Home::new();
    home.hub.fault(WEIGHTS, 1, Fault::Cut(1000));
    home.hub.fault(WEIGHTS, usize::MAX, Fault::Cut(0));
    let line = home.run(&PULL).refused(RUNTIME);
    assert_says(&line, &[WEIGHTS, " of 269176 bytes", "try again"]);
    home.assert_no_weights();
    let kept = fs::metadata(home.incomplete(WEIGHTS)).unwrap().len();
    home.hub.repair();
    home.hub.seen();
    home.run(&PULL).ok();
    let range = (kept > 0).then(|| format!("bytes={kept}-"));
    assert_eq!(home.hub.files_seen(), [(WEIGHTS.to_owned(), range)]);
    home.assert_whole();
}

#[test]
fn an_earlier_download_goes_on_from_exactly_its_end() {
    let home = Home::new();
    home.begin(WEIGHTS, &home.hub.file(WEIGHTS)[..5000]);
    home.run(&PULL).ok();
    assert!(home.hub.files_seen().contains(&(WEIGHTS.to_owned(), Some("bytes=5000-".to_owned()))));
    home.assert_whole();

    // One that has all bytes already is not asked for at all.
    let home = Home::new();
    home.begin(WEIGHTS, &home.hub.file(WEIGHTS));
    home.run(&PULL).ok();
    assert!(!names(&home.hub.files_seen()).contains(&WEIGHTS));
    home.assert_whole();
}

#[test]
fn a_server_without_ranges() {
    for fault in [Fault::IgnoreRange, Fault::RefuseRange] {
        let home = Home::new();
        home.begin(WEIGHTS, &home.hub.file(WEIGHTS)[..5000]);
        home.hub.fault(WEIGHTS, usize::MAX, fault);
        home.run(&PULL).ok();
        home.assert_whole();
    }
    // Without ranges, and always cut at the same place: it never gets there, and says so.
    let home = Home::new();
    home.hub.fault(WEIGHTS, usize::MAX, Fault::IgnoreRange);
    home.hub.fault(WEIGHTS, usize::MAX, Fault::Cut(50_000));
    assert_says(&home.run(&PULL).refused(RUNTIME), &[WEIGHTS, "of 269176 bytes"]);
    home.assert_no_weights();
}

#[test]
fn damaged_first_bytes_are_fetched_anew() {
    let home = Home::new();
    home.begin(WEIGHTS, &[7; 5000]);
    let ran = home.run(&PULL);
    assert_says(&ran.stderr, &[WEIGHTS, "the first part was damaged"]);
    ran.ok();
    home.assert_whole();

    let home = Home::new();
    let longer = [home.hub.file(WEIGHTS), vec![0; 9]].concat();
    home.begin(WEIGHTS, &longer);
    home.run(&PULL).ok();
    home.assert_whole();
}

#[test]
fn wrong_bytes_never_become_a_model() {
    for name in [WEIGHTS, "tokenizer.json"] {
        let home = Home::new();
        home.hub.fault(name, 1, Fault::WrongByte);
        let line = home.run(&PULL).refused(RUNTIME);
        assert_says(&line, &[name, &etag(name, &home.hub.file(name)), "deleted", "try again"]);
        assert!(!home.blob(name).exists() && !home.incomplete(name).exists());
        home.run(&PULL).ok();
        home.assert_whole();
    }
}

#[test]
fn lies_about_lengths() {
    for lie in [1000, -1000] {
        let home = Home::new();
        home.hub.fault(WEIGHTS, usize::MAX, Fault::Length(lie));
        let length = (269_176 + lie).to_string();
        assert_says(&home.run(&PULL).refused(RUNTIME), &[WEIGHTS, &length, "lists 269176 bytes"]);
        home.assert_no_weights();
    }
    // Whoever answers a range with something else is asked for the whole file.
    let of_ranges =
        ["bytes 0-269175/269176", "bytes 5000-269175/269177", "bytes 5001-269175/269176", "pages 1-2/3", ""];
    for fault in of_ranges.map(Fault::Range).into_iter().chain([
        Fault::NoContentRange,
        Fault::Blocks(4096),
        Fault::Blocks(1 << 20),
    ]) {
        for begun in [5000, 200_000] {
            let home = Home::new();
            home.begin(WEIGHTS, &home.hub.file(WEIGHTS)[..begun]);
            home.hub.fault(WEIGHTS, usize::MAX, fault.clone());
            let ran = home.run(&PULL);
            assert_eq!(ran.code, 0, "{fault:?}: {ran:?}");
            home.assert_whole();
        }
    }
    // A cache of blocks is made use of: what overlaps is passed over, and nothing is fetched twice.
    let home = Home::new();
    home.begin(WEIGHTS, &home.hub.file(WEIGHTS)[..200_000]);
    home.hub.fault(WEIGHTS, usize::MAX, Fault::Blocks(65_536));
    home.run(&PULL).ok();
    let asked: Vec<_> = home.hub.seen_of(WEIGHTS).into_iter().map(|seen| seen.range).collect();
    assert_eq!(asked, [Some("bytes=200000-".to_owned())]);
    // What is compressed on the way is refused by name, and what was there before stays.
    for path in [WEIGHTS, "/api/"] {
        let home = Home::new();
        home.begin(WEIGHTS, &home.hub.file(WEIGHTS)[..5000]);
        home.hub.fault(path, usize::MAX, Fault::Encoding("gzip"));
        assert_says(&home.run(&PULL).refused(RUNTIME), &["sends it compressed (gzip)", "HF_ENDPOINT"]);
        home.hub.repair();
        home.run(&PULL).ok();
        home.assert_whole();
    }
    // The rest of a file, of another length than its header says: the bytes are right all the same.
    let home = Home::new();
    home.begin(WEIGHTS, &home.hub.file(WEIGHTS)[..5000]);
    home.hub.fault(WEIGHTS, usize::MAX, Fault::Length(1000));
    home.run(&PULL).ok();
    home.assert_whole();
    for size in [0, 5, 269_175, 269_177] {
        let home = Home::new();
        home.hub.fault("/api/", usize::MAX, Fault::ListedSize(WEIGHTS, size));
        home.run(&PULL).refused(RUNTIME);
        home.assert_no_weights();
    }
}

#[test]
fn a_listing_of_another_size_does_not_touch_a_good_file() {
    let home = Home::new();
    home.run(&PULL).ok();
    home.hub.fault("/api/", 1, Fault::ListedSize(WEIGHTS, 7));
    let line = home.run(&PULL).refused(MODEL);
    assert_says(&line, &[WEIGHTS, "269176 bytes in the cache", "the hub says 7", "models verify org/tiny"]);
    home.assert_whole();
}

#[test]
fn a_model_larger_than_the_disk_is_not_begun() {
    let home = Home::new();
    home.hub.fault("/api/", usize::MAX, Fault::ListedSize(WEIGHTS, 1 << 62));
    assert_says(&home.run(&PULL).refused(RUNTIME), &["needs 4.61 EB more", "free", "HF_HOME"]);
    assert!(home.hub.files_seen().is_empty());
    home.hub.fault("/api/", usize::MAX, Fault::ListedSize("config.json", u64::MAX));
    assert_says(&home.run(&PULL).refused(MODEL), &["sizes that no disk has"]);
}

#[test]
fn refusals_say_what_to_do() {
    for (path, status, code, words) in [
        ("/api/", 401, MODEL, ["org/tiny", "(401)", "set HF_TOKEN"]),
        ("/api/", 403, MODEL, ["org/tiny", "(403)", "accept its terms"]),
        ("/api/", 404, MODEL, ["org/tiny", "not found", "no folder of that name"]),
        (WEIGHTS, 403, MODEL, [WEIGHTS, "(403)", "HF_TOKEN"]),
        (WEIGHTS, 404, MODEL, [WEIGHTS, "not found", "try again later"]),
        (WEIGHTS, 416, RUNTIME, [WEIGHTS, "416", "without a range"]),
        (WEIGHTS, 500, RUNTIME, [WEIGHTS, "answers 500", "try again"]),
        ("/api/", 503, RUNTIME, ["org/tiny", "answers 503", "try again"]),
    ] {
        let home = Home::new();
        home.hub.fault(path, usize::MAX, Fault::Status(status, None));
        assert_says(&home.run(&PULL).refused(code), &words);
        home.assert_no_weights();
    }
    // A revision that is not there is not a model that is not there.
    let home = Home::new();
    home.hub.fault("/revision/nosuch", usize::MAX, Fault::Status(404, None));
    let line = home.run(&["models", "pull", "org/tiny@nosuch"]).refused(MODEL);
    assert_says(&line, &["org/tiny is at", "has no revision nosuch"]);
    // A mistyped folder is looked for on the hub, and that is said.
    let home = Home::new();
    let line =
        home.run_with("HF_ENDPOINT", "http://127.0.0.1:9", &["generate", "-m", "nonexist", "-p", "x"]).refused(RUNTIME);
    assert_says(&line, &["there is no folder nonexist here"]);
    let home = Home::new();
    home.hub.fault("/api/", 1, Fault::WebPage);
    assert_says(&home.run(&PULL).refused(RUNTIME), &["a web page came"]);
    home.hub.remove("tokenizer.json");
    assert_says(&home.run(&PULL).refused(MODEL), &["org/tiny has no tokenizer.json"]);
    assert!(home.hub.files_seen().is_empty());
}

#[test]
fn another_model_than_was_asked_for_is_refused() {
    let home = Home::new();
    let other = format!("org/tiny@{}", "5".repeat(40));
    assert_says(&home.run(&["models", "pull", &other]).refused(RUNTIME), &["something else than the files of", &other]);
    home.hub.set_commit("../../../x");
    assert_says(&home.run(&PULL).refused(RUNTIME), &["something else than the files of org/tiny"]);
    assert!(home.hub.files_seen().is_empty());

    // Its weights are not even begun where the program cannot run it.
    let home = Home::new();
    home.hub.put("config.json", br#"{"model_type": "gpt2"}"#.to_vec());
    assert_says(&home.run(&PULL).refused(MODEL), &["org/tiny: ", "unsupported model", "gpt2"]);
    assert_eq!(names(&home.hub.files_seen()), ["config.json"]);
}

#[test]
fn a_busy_server_is_given_time() {
    let home = Home::new();
    home.hub.fault("/api/", 2, Fault::Status(500, None));
    home.hub.fault(WEIGHTS, 1, Fault::Status(429, Some(1)));
    let begun = Instant::now();
    home.run(&PULL).ok();
    // Two pauses of the program's own, 250 and 500 ms, and the second that was asked for.
    assert!(begun.elapsed() >= Duration::from_millis(1750), "{:?}", begun.elapsed());
    home.assert_whole();

    let home = Home::new();
    home.hub.fault("/api/", usize::MAX, Fault::Status(429, Some(3600)));
    let begun = Instant::now();
    assert_says(&home.run(&PULL).refused(RUNTIME), &["429", "3600 s"]);
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(home.hub.seen().len(), 1);
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let home = Home::new();
    home.hub.fault(WEIGHTS, 1, Fault::Redirect(home.hub.other_host()));
    // To the same host again, as for a model that was renamed: there it may go.
    home.hub.fault("tokenizer.json", 1, Fault::Redirect(home.hub.url()));
    home.run_with("HF_TOKEN", "hf_secret", &PULL).ok();
    home.assert_whole();
    let with_token = |part: &str| -> Vec<bool> {
        let seen = home.hub.seen_of(part);
        seen.iter().map(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")).collect()
    };
    assert_eq!(with_token("/api/"), [true]);
    assert_eq!(with_token("config.json"), [true]);
    assert_eq!(with_token("tokenizer.json"), [true, true]);
    assert_eq!(with_token(WEIGHTS), [true, false]);

    // The file that a login leaves.
    let home = Home::new();
    fs::write(home.folder.path().join("token"), "hf_filed\n").unwrap();
    home.run(&PULL).ok();
    assert!(home.hub.seen().iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_filed")));
    home.hub.fault("/api/", 1, Fault::Status(401, None));
    let line = home.run(&["models", "pull", "org/other"]).refused(MODEL);
    assert_says(&line, &["the token given", "HF_TOKEN"]);
    assert!(!line.contains("hf_filed"));
}

#[test]
fn offline_takes_what_is_there_and_asks_nobody() {
    let home = Home::new();
    let line = home.offline(&PULL).refused(MODEL);
    assert_says(&line, &["org/tiny is not in the cache", "HF_HUB_OFFLINE"]);
    assert_eq!(home.hub.seen(), []);
    // The tokenizer alone does not need the weights.
    home.run(&["tokenize", "-m", "org/tiny", "-p", "a"]).ok();
    assert_eq!(names(&home.hub.files_seen()), ["config.json", "tokenizer.json"]);
    let line = home.offline(&PULL).refused(MODEL);
    assert_says(&line, &["it lacks model.safetensors", "HF_HUB_OFFLINE"]);
    home.run(&PULL).ok();
    home.hub.seen();
    home.offline(&PULL).ok();
    home.offline(&["tokenize", "-m", "org/tiny", "-p", "a"]).ok();
    assert_eq!(home.hub.seen(), []);
}

#[test]
fn a_hub_that_is_down() {
    let home = Home::new();
    home.run(&PULL).ok();
    // Port 1 of this machine: nobody listens there.
    let unreachable = |home: &Home| home.run_with("HF_ENDPOINT", "http://127.0.0.1:1", &PULL);
    let ran = unreachable(&home);
    assert_says(&ran.stderr, &["127.0.0.1:1", "using org/tiny as it is in the cache"]);
    assert_eq!(ran.stderr.matches('\n').count(), 1);
    ran.ok();
    let line = unreachable(&Home::new()).refused(RUNTIME);
    assert_says(&line, &["org/tiny", "127.0.0.1:1", "check the connection"]);
}

#[test]
fn news_of_a_branch_is_fetched_and_what_did_not_change_is_shared() {
    const NEXT: &str = "3333333333333333333333333333333333333333";
    let home = Home::new();
    home.run(&PULL).ok();
    home.hub.seen();
    home.hub.put("config.json", [home.hub.file("config.json"), b"\n".to_vec()].concat());
    home.hub.set_commit(NEXT);
    home.run(&PULL).ok();
    assert_eq!(names(&home.hub.files_seen()), ["config.json"]);
    let listed = home.run(&["models", "ls", "--json"]).json();
    let models = listed["models"].as_array().unwrap();
    assert_eq!(models.len(), 2);
    assert_eq!((&models[0]["revisions"], &models[1]["revisions"]), (&[""; 0].into(), &["main"].into()));

    // Without the old revision, what both share stays.
    home.run(&["models", "rm", "-y", &format!("org/tiny@{}", &COMMIT[..7])]).ok();
    assert!(!home.snapshot().exists());
    assert_eq!(fs::read_dir(home.repo().join("blobs")).unwrap().count(), NEEDED.len());
    home.offline(&["tokenize", "-m", "org/tiny", "-p", "a"]).ok();
    home.offline(&PULL).ok();
}

#[test]
fn two_processes_share_one_download() {
    let home = Home::new();
    home.hub.fault(WEIGHTS, usize::MAX, Fault::Throttle(1000));
    let ran: Vec<Ran> = std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| home.run(&PULL)));
        both.map(|one| one.join().unwrap()).into()
    });
    ran.into_iter().for_each(|ran| drop(ran.ok()));
    assert_eq!(names(&home.hub.files_seen()), NEEDED);
    home.assert_whole();
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_a_download_that_goes_on_the_next_time() {
    use std::io::Read;
    let home = Home::new();
    home.hub.fault(WEIGHTS, 1, Fault::Throttle(100));
    let mut command = home.command(&PULL);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while fs::metadata(home.incomplete(WEIGHTS)).map_or(0, |file| file.len()) < 2000 {
        assert!(begun.elapsed() < Duration::from_secs(60), "no bytes came");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(said, "error: stopped with Ctrl-C; the next time the download goes on where it was\n");
    home.assert_no_weights();
    let kept = fs::metadata(home.incomplete(WEIGHTS)).unwrap().len();
    home.hub.seen();
    home.run(&PULL).ok();
    assert!(home.hub.files_seen().contains(&(WEIGHTS.to_owned(), Some(format!("bytes={kept}-")))));
    home.assert_whole();
}

#[test]
fn shards_come_with_their_index() {
    let home = Home::new();
    home.hub.put("model-1.safetensors", home.hub.file(WEIGHTS));
    home.hub.remove(WEIGHTS);
    let index = br#"{"weight_map": {"a": "model-1.safetensors"}}"#;
    home.hub.put("model.safetensors.index.json", index.to_vec());
    home.run(&PULL).ok();
    let needed = ["config.json", "model-1.safetensors", "model.safetensors.index.json", "tokenizer.json"];
    assert_eq!(names(&home.hub.files_seen()), needed);
    for name in needed {
        assert!(fs::read(home.snapshot().join(name)).unwrap() == home.hub.file(name), "{name} is another");
    }

    let home = Home::new();
    home.hub.remove(WEIGHTS);
    home.hub.put("model.safetensors.index.json", br#"{"weight_map": {"a": "../../../../x"}}"#.to_vec());
    assert_says(&home.run(&PULL).refused(MODEL), &["model.safetensors.index.json", "no file name"]);
    let home = Home::new();
    home.hub.remove(WEIGHTS);
    home.hub.put("model.safetensors.index.json", br#"{"weight_map": {"a": "model-7.safetensors"}}"#.to_vec());
    assert_says(&home.run(&PULL).refused(MODEL), &["org/tiny has no model-7.safetensors"]);
}

#[test]
fn without_links_the_files_lie_in_the_snapshot() {
    let home = Home::new();
    let no_links = |args: &[&str]| home.run_with("HF_HUB_DISABLE_SYMLINKS", "1", args);
    no_links(&PULL).ok();
    for name in NEEDED {
        assert!(fs::symlink_metadata(home.snapshot().join(name)).unwrap().is_file());
    }
    home.hub.seen();
    no_links(&PULL).ok();
    assert!(home.hub.files_seen().is_empty());
    let verified = no_links(&["models", "verify", "org/tiny", "--json"]).json();
    assert_eq!((&verified["checked"], &verified["unchecked"]), (&3.into(), &serde_json::json!([])));
    // A hash that nobody noted is asked for, and where nobody can say it, that is no success.
    let verify = ["models", "verify", "org/tiny"];
    fs::remove_dir_all(home.repo().join(".hashes")).unwrap();
    assert_says(&no_links(&verify).ok(), &["3 files checked", "0 damaged"]);
    let ran = home.offline(&verify);
    assert_eq!(ran.code, RUNTIME);
    assert_says(&ran.stderr, &["not checked: config.json", WEIGHTS, "neither the cache nor the hub"]);
    let weights = home.snapshot().join(WEIGHTS);
    let mut bytes = fs::read(&weights).unwrap();
    bytes[9] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let ran = no_links(&verify);
    assert_eq!(ran.code, MODEL);
    assert_says(&ran.stderr, &["damaged and removed: model.safetensors"]);
    assert!(!weights.exists());
    no_links(&PULL).ok();
    assert_says(&no_links(&verify).ok(), &["3 files checked", "0 damaged"]);
}

#[test]
fn ls_verify_and_rm() {
    let home = Home::new();
    let ran = home.run(&["models", "ls"]);
    assert_says(&ran.stderr, &["no models in", "incoder models pull"]);
    assert_eq!(ran.ok(), "");
    let pulled = home.run(&["models", "pull", "org/tiny", "facebook/incoder-1B", "--json"]);
    // Said once, and only of Meta's.
    assert_eq!(pulled.stderr.matches("CC-BY-NC 4.0").count(), 1, "{}", pulled.stderr);
    let pulled = pulled.json();
    assert_eq!(pulled["models"][0]["path"], home.snapshot().to_str().unwrap());
    let size: usize = NEEDED.iter().map(|name| home.hub.file(name).len()).sum();
    assert_eq!(pulled["models"][1]["downloaded_bytes"], size);
    // Models of other programs are there, and not listed.
    let other = home.folder.path().join("hub/models--gpt2/snapshots").join(COMMIT);
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    let listed = home.run(&["models", "ls", "--json"]).json();
    let of = |key: &str| -> Vec<_> { listed["models"].as_array().unwrap().iter().map(|m| m[key].clone()).collect() };
    assert_eq!(of("model"), ["facebook/incoder-1B", "org/tiny"]);
    assert_eq!((of("bytes")[1].clone(), of("complete")[1].clone()), (size.into(), true.into()));
    assert_says(&home.run(&["models", "ls"]).ok(), &["org/tiny", "main 1111111", "kB", "complete"]);

    assert_says(&home.run(&["models", "verify", "org/tiny"]).ok(), &["3 files checked", "0 damaged"]);
    let mut bytes = home.hub.file(WEIGHTS);
    bytes[9] ^= 1;
    fs::write(home.blob(WEIGHTS), &bytes).unwrap();
    let ran = home.run(&["models", "verify", "org/tiny"]);
    assert_says(&ran.stderr, &["damaged and removed: model.safetensors", "models pull org/tiny"]);
    assert_eq!(ran.code, MODEL);
    assert_eq!(home.run(&["models", "ls", "--json"]).json()["models"][1]["complete"], false);
    assert_says(&home.run(&["models", "path", "org/tiny"]).refused(MODEL), &["it lacks model.safetensors"]);
    home.hub.seen();
    home.run(&PULL).ok();
    assert_eq!(names(&home.hub.files_seen()), [WEIGHTS]);
    home.assert_whole();

    assert_says(&home.run(&["models", "rm", "org/tiny"]).refused(USAGE), &["-y"]);
    home.assert_whole();
    let removed = home.run(&["models", "rm", "org/tiny", "-y", "--json"]).json();
    assert!(removed["bytes"].as_u64().unwrap() >= size as u64, "{removed}");
    assert!(!home.repo().exists() && other.exists());
    assert_says(&home.run(&["models", "rm", "org/tiny", "-y"]).refused(MODEL), &["org/tiny is not in the cache"]);
    assert_says(&home.run(&["models", "verify", "org/tiny"]).refused(MODEL), &["org/tiny is not in the cache"]);
}

#[test]
#[cfg(unix)]
fn rm_follows_no_link_out_of_the_cache() {
    let home = Home::new();
    home.run(&PULL).ok();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("mine"), "mine").unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), home.snapshot().join("folder")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("mine"), home.snapshot().join("file")).unwrap();
    home.run(&["models", "rm", "-y", &format!("org/tiny@{COMMIT}")]).ok();
    assert!(!home.snapshot().exists());
    assert_eq!(fs::read_to_string(elsewhere.path().join("mine")).unwrap(), "mine");

    // A model's folder that is itself somewhere else is left alone.
    let linked = home.folder.path().join("hub/models--org--linked");
    std::os::unix::fs::symlink(elsewhere.path(), &linked).unwrap();
    home.run(&["models", "rm", "-y", "org/linked"]).refused(RUNTIME);
    assert!(linked.exists() && elsewhere.path().join("mine").exists());
}

#[test]
fn paths_win_over_names() {
    let home = Home::new();
    let here = tempfile::tempdir().unwrap();
    fs::create_dir_all(here.path().join("org/tiny")).unwrap();
    let tokenize = |name: &str| {
        let mut command = home.command(&["tokenize", "-p", "a", "-m", name]);
        command.current_dir(here.path());
        finish(command)
    };
    assert_says(&tokenize("org/tiny").refused(MODEL), &["org/tiny: is not a model folder"]);
    assert_says(&tokenize("./org/none").refused(MODEL), &["./org/none: no such model folder"]);
    assert_says(&tokenize("my model").refused(MODEL), &["no folder or file here", "org/name"]);
    assert_eq!(home.hub.seen(), []);
    let files = Model::tiny();
    for name in ["config.json", "tokenizer.json"] {
        fs::write(here.path().join("org/tiny").join(name), files.read(name)).unwrap();
    }
    tokenize("org/tiny").ok();
    tokenize("org/tiny/config.json").ok();
    assert_eq!(home.hub.seen(), []);
    // A name that is taken for the hub's says both when it is none.
    home.hub.fault("/api/", 1, Fault::Status(404, None));
    assert_says(&tokenize("org/tinny").refused(MODEL), &["org/tinny: not found", "no folder of that name here"]);
    let ran = home.run(&["models", "pull", "a/b/c"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (USAGE, ""));
    assert_says(&ran.stderr, &["org/name@revision"]);
}
