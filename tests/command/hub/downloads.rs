//! Downloads from servers that cut, lie, refuse or are busy.

use super::*;
use crate::common::hub_server::Fault;
use std::time::{Duration, Instant};

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

/// What is quantized while it comes goes on at the first tensor that was not finished, and is checked like any other download.
#[test]
fn a_model_that_is_quantized_on_arrival_goes_on_where_it_was() {
    let home = Home::new();
    let oracle = |path: &str| fs::read(crate::common::oracle(path)).unwrap();
    home.hub.put("config.json", oracle("small-b/config.json"));
    home.hub.put("tokenizer.json", oracle("tok-2k/tokenizer.json"));
    home.hub.put(WEIGHTS, oracle("small-b/model.fp16.safetensors"));
    let pull = [&PULL[..], &["--quantize", "q4"]].concat();
    home.hub.fault(WEIGHTS, usize::MAX, Fault::WrongByte);
    assert_says(&home.run(&pull).refused(RUNTIME), &[WEIGHTS, "not the file that the hub lists"]);
    let kept = home.repo().join(".quantized");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 0);

    home.hub.repair();
    home.hub.fault(WEIGHTS, usize::MAX, Fault::Cut(5_000_000));
    home.hub.fault(WEIGHTS, usize::MAX, Fault::RefuseRange);
    assert_says(&home.run(&pull).refused(RUNTIME), &[WEIGHTS, "the connection", "try again"]);
    home.hub.repair();
    home.hub.seen();
    let printed = home.run(&pull).ok();
    let seen = home.hub.files_seen();
    // The header again, and the rest of the tensors.
    let [(_, None), (_, Some(range))] = &seen[..] else { panic!("{seen:?}") };
    let from: usize = range["bytes=".len()..range.len() - 1].parse().unwrap();
    assert!((2_000_000..=5_000_000).contains(&from), "{range}");
    assert_eq!(fs::read_dir(home.repo().join("blobs")).unwrap().count(), NEEDED.len() - 1);

    // The same bits as those of a model that is whole on the disk.
    let whole = crate::common::Model::new("small-b", "model.fp16.safetensors");
    let score = |args: &[&str]| {
        let ask = ["score", "-d", "cpu", "-p", "def f(x):", "--json", "-q"];
        home.offline(&[&ask[..], args].concat()).json()["sum"].clone()
    };
    let quantized = score(&["-m", printed.trim()]);
    assert_eq!(quantized, score(&["-m", "org/tiny", "--quantize", "q4"]));
    assert_eq!(quantized, score(&["-m", whole.path(), "--quantize", "q4"]));
}
