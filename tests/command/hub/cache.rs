//! What is done with models that were downloaded: the layout of the cache, working without a network, listing, checking and removing.

use super::*;
use crate::common::Model;
use crate::common::hub_server::Fault;

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

/// What was downloaded to be quantized is kept quantized alone, and what was there already stays.
#[test]
fn a_model_that_is_quantized_on_arrival_is_kept_quantized() {
    let home = Home::new();
    let ask = ["score", "-m", "org/tiny", "-d", "cpu", "-p", "def f(x):", "--json", "--quantize", "q8"];
    let scored = |ran: Ran| ran.json()["sum"].as_f64().unwrap();
    let first = home.run(&ask);
    assert_says(&first.stderr, &["org/tiny is kept in q8"]);
    let first = scored(first);
    // The weights are asked for once, and are not stored even for a while.
    assert_eq!(names(&home.hub.files_seen()), NEEDED);
    let blobs = fs::read_dir(home.repo().join("blobs")).unwrap();
    assert_eq!((blobs.count(), home.snapshot().join(WEIGHTS).exists()), (NEEDED.len() - 1, false));
    let kept = home.repo().join(".quantized").join(format!("{COMMIT}-q8-v1"));
    assert!(kept.join(WEIGHTS).is_file());
    home.hub.seen();
    // Neither the weights nor anything else is fetched again.
    assert_eq!(scored(home.run(&ask)), first);
    assert!(home.hub.files_seen().is_empty());
    assert_eq!(scored(home.offline(&ask)), first);
    let listed = home.run(&["models", "ls", "--json"]).json();
    let models = listed["models"].as_array().unwrap();
    assert_eq!((models.len(), &models[0]["weights"], &models[0]["complete"]), (1, &"q8".into(), &true.into()));
    assert_eq!(models[0]["path"], kept.to_str().unwrap());

    home.run(&PULL).ok();
    let mut in_4_bits = ask;
    *in_4_bits.last_mut().unwrap() = "q4";
    assert!(scored(home.run(&in_4_bits)) != first);
    home.assert_whole();
    let listed = home.run(&["models", "ls", "--json"]).json();
    let weights: Vec<_> = listed["models"].as_array().unwrap().iter().map(|model| model["weights"].clone()).collect();
    assert_eq!(weights, ["f32", "q8", "q4"]);
    home.run(&["models", "rm", "org/tiny", "-y"]).ok();
    assert!(!home.repo().exists());
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
