//! `incoder models`: what is in the cache of the hub's models.

use crate::cli::Models;
use crate::failure::{Failure, Result};
use crate::hub::cache::{Repo, failed, names_in, read_json};
use crate::hub::hash::Hasher;
use crate::hub::name::ModelName;
use crate::hub::settings::Settings;
use crate::hub::{self, Needs};
use crate::terminal::{Interrupt, Output, bytes, note};
use crate::{Global, model_folder, report};
use incoder::{Cancel, Quantization};
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

pub fn run(command: &Models, global: &Global) -> Result<()> {
    match command {
        Models::Pull { models, quantize } => pull(models, quantize.map(Quantization::from), global),
        Models::Ls => ls(global),
        Models::Rm { model, yes } => rm(model, *yes, global),
        Models::Verify { model } => verify(model, global),
        Models::Path { model } => path(model, global),
    }
}

/// One object or one text on stdout.
fn print(json: &impl Serialize, text: &str, global: &Global) -> Result<()> {
    let mut output = Output::new(&Cancel::default());
    if global.json {
        output.exact(&report::line(json)?);
    } else {
        output.given(text);
    }
    output.finish()
}

fn pull(models: &[ModelName], quantize: Option<Quantization>, global: &Global) -> Result<()> {
    #[derive(Serialize)]
    struct Pulled {
        model: String,
        commit: String,
        downloaded_bytes: u64,
        path: PathBuf,
    }
    #[derive(Serialize)]
    struct All {
        models: Vec<Pulled>,
    }
    let _interrupt = Interrupt::install()?;
    let (mut all, mut text) = (Vec::new(), String::new());
    for model in models {
        let hub::Resolved { commit, folder, downloaded } = match quantize {
            Some(quantization) => model_folder::quantized(model, quantization, true, global)?,
            None => hub::resolve(model, Needs::Everything, true, global)?,
        };
        text += &format!("{}\n", folder.display());
        all.push(Pulled { model: model.to_string(), commit, downloaded_bytes: downloaded, path: folder });
    }
    print(&All { models: all }, &text, global)
}

fn ls(global: &Global) -> Result<()> {
    #[derive(Serialize)]
    struct Listed {
        model: String,
        revisions: Vec<String>,
        commit: String,
        /// How the weights are stored: f16, f32, bf16, q8 or q4; null where the config does not say.
        weights: Option<String>,
        /// With what an unfinished download has so far.
        bytes: u64,
        complete: bool,
        path: PathBuf,
    }
    #[derive(Serialize)]
    struct All {
        cache: PathBuf,
        models: Vec<Listed>,
    }
    let settings = Settings::from_environment()?;
    let mut models = Vec::new();
    for repo in Repo::all(&settings) {
        let refs = repo.refs();
        for commit in repo.commits().into_iter().filter(|commit| repo.is_incoder(commit)) {
            let complete = repo.lacks(&commit, Needs::Everything).is_none();
            let unfinished = if complete { 0 } else { repo.incomplete_bytes() };
            let revisions: Vec<String> =
                refs.iter().filter(|(_, c)| *c == commit).map(|(name, _)| name.clone()).collect();
            let listed = |path: PathBuf, bytes: u64, complete: bool| Listed {
                model: repo.name.id().to_owned(),
                revisions: revisions.clone(),
                commit: commit.clone(),
                weights: weights_of(&path),
                bytes,
                complete,
                path,
            };
            let forms = repo.quantized_forms(&commit);
            // Of a model that was downloaded to be quantized only that is kept.
            if complete || unfinished > 0 || forms.is_empty() {
                let bytes = repo.snapshot_bytes(&commit).saturating_add(unfinished);
                models.push(listed(repo.snapshot(&commit), bytes, complete));
            }
            models.extend(forms.into_iter().map(|(_, path)| {
                let bytes = folder_bytes(&path);
                listed(path, bytes, true)
            }));
        }
    }
    let width = models.iter().map(|m| m.model.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Listed { model, revisions, commit, weights, bytes: size, complete, path } in &models {
        let revisions = [&revisions[..], &[commit.chars().take(7).collect()]].concat().join(" ");
        let (size, state) = (bytes(*size), if *complete { "complete" } else { "unfinished" });
        let weights = weights.as_deref().unwrap_or("");
        text += &format!("{model:width$}  {revisions:14}  {weights:4}  {size:>10}  {state:10}  {}\n", path.display());
    }
    if models.is_empty() {
        note(global.quiet, &format!("no models in {}: `incoder models pull MODEL`", settings.cache.display()));
    }
    print(&All { cache: settings.cache, models }, &text, global)
}

/// How the weights of a model folder are stored, as its config.json says.
fn weights_of(folder: &Path) -> Option<String> {
    let config = read_json(&folder.join("config.json")).ok()?;
    let quantized = config["quantization_config"]["weights"].as_str();
    let dtype = ["dtype", "torch_dtype"].iter().find_map(|name| config[name].as_str());
    let short = |dtype: &str| match dtype {
        "float16" => "f16".to_owned(),
        "float32" => "f32".to_owned(),
        "bfloat16" => "bf16".to_owned(),
        other => other.chars().take(12).collect(),
    };
    quantized.map(str::to_owned).or_else(|| dtype.map(short))
}

/// Bytes of the files of a folder.
fn folder_bytes(folder: &Path) -> u64 {
    let sizes = names_in(folder).into_iter().filter_map(|name| fs::metadata(folder.join(name)).ok());
    sizes.fold(0, |sum, file| sum.saturating_add(file.len()))
}

fn path(model: &ModelName, global: &Global) -> Result<()> {
    #[derive(Serialize)]
    struct Found {
        path: PathBuf,
    }
    let folder = hub::find(model)?.folder;
    let text = format!("{}\n", folder.display());
    print(&Found { path: folder }, &text, global)
}

fn rm(model: &ModelName, yes: bool, global: &Global) -> Result<()> {
    #[derive(Serialize)]
    struct Removed {
        model: String,
        bytes: u64,
    }
    let repo = cached(model)?;
    if !yes {
        ask(&format!("Remove {model} from {}?", repo.root.display()))?;
    }
    let bytes = hub::remove::remove(&repo, model)?;
    note(global.quiet, &format!("{model} removed, {} freed", self::bytes(bytes)));
    if global.json { print(&Removed { model: model.to_string(), bytes }, "", global) } else { Ok(()) }
}

/// Goes on when the user says yes.
fn ask(question: &str) -> Result<()> {
    if !console::user_attended() || !console::user_attended_stderr() {
        return Err(Failure::usage("there is nobody to ask: give -y to remove without asking"));
    }
    let mut answer = String::new();
    let _ = write!(std::io::stderr(), "{question} [y/N] ");
    let read = std::io::stdin().read_line(&mut answer);
    match read {
        Ok(_) if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") => Ok(()),
        _ => Err(Failure::usage("nothing was removed")),
    }
}

fn verify(model: &ModelName, global: &Global) -> Result<()> {
    #[derive(Serialize)]
    struct Verified {
        model: String,
        checked: usize,
        checked_bytes: u64,
        /// Names of files, removed from the cache.
        damaged: Vec<String>,
        /// Files whose hash neither the cache nor the hub says.
        unchecked: Vec<String>,
    }
    let _interrupt = Interrupt::install()?;
    let repo = cached(model)?;
    let mut found = Verified {
        model: model.id().to_owned(),
        checked: 0,
        checked_bytes: 0,
        damaged: Vec::new(),
        unchecked: Vec::new(),
    };
    let names = repo.names_of_blobs();
    let blobs = names_in(&repo.root.join("blobs")).into_iter().map(|etag| {
        let name = names.get(&etag).cloned().unwrap_or_else(|| etag.clone());
        (repo.blob(&etag), name, etag)
    });
    let mut files: Vec<_> = blobs.collect();
    let (loose, why) = loose_files(&repo, model);
    for Loose { commit, name, hash } in loose {
        match hash {
            Some(hash) => files.push((repo.snapshot(&commit).join(&name), name, hash)),
            None => found.unchecked.push(name),
        }
    }
    for (path, name, hash) in files {
        let Ok(file) = fs::metadata(&path).inspect_err(|e| tracing::info!("{}: {e}", path.display())) else { continue };
        // Unfinished downloads are checked when they are finished.
        let Some(mut hasher) = Hasher::new(&hash, file.len()).filter(|_| file.is_file()) else { continue };
        let mut open = fs::File::open(&path).map_err(|e| failed(&path, &e))?;
        found.checked_bytes += hasher.update_from(&mut open).map_err(|e| failed(&path, &e))?;
        found.checked += 1;
        if hasher.finish() != hash {
            drop(open);
            fs::remove_file(&path).map_err(|e| failed(&path, &e))?;
            found.damaged.push(name);
        }
    }
    found.unchecked.dedup();
    let size = bytes(found.checked_bytes);
    let (checked, damaged) = (report::count(found.checked, "file"), found.damaged.len());
    let text = format!("{model}: {checked} checked, {size}, {damaged} damaged\n");
    print(&found, &text, global)?;
    if !found.damaged.is_empty() {
        let names = found.damaged.join(", ");
        return Err(Failure::model(format!("damaged and removed: {names}; `incoder models pull {model}` mends it")));
    }
    if !found.unchecked.is_empty() {
        let names = found.unchecked.join(", ");
        let why = why.map_or(String::new(), |why| format!(" ({why})"));
        return Err(Failure::runtime(format!(
            "not checked: {names}; neither the cache nor the hub says its hash{why}"
        )));
    }
    match found.checked {
        0 => Err(Failure::model(format!("nothing of {model} is in the cache that could be checked"))),
        _ => Ok(()),
    }
}

/// A file that is no link.
struct Loose {
    commit: String,
    name: String,
    hash: Option<String>,
}

/// The files that are no links with their hashes: the one that was noted when it came, or the one that the hub lists. What kept the
/// hub from being asked, too.
fn loose_files(repo: &Repo, model: &ModelName) -> (Vec<Loose>, Option<Failure>) {
    let noted = |(commit, name): (String, String)| {
        let hash = repo.noted_hash(&commit, &name);
        Loose { commit, name, hash }
    };
    let mut files: Vec<Loose> = repo.files_without_blob().into_iter().map(noted).collect();
    let mut trouble = None;
    for commit in repo.commits() {
        let mut unknown: Vec<_> =
            files.iter_mut().filter(|file| file.commit == commit && file.hash.is_none()).collect();
        if unknown.is_empty() {
            continue;
        }
        let names: Vec<String> = unknown.iter().map(|file| file.name.clone()).collect();
        match hub::listed_hashes(model, &commit, &names) {
            Ok(hashes) => unknown.iter_mut().zip(hashes).for_each(|(file, hash)| file.hash = hash),
            Err(failure) => trouble = Some(failure),
        }
    }
    (files, trouble)
}

/// The model's part of the cache, which is there.
fn cached(model: &ModelName) -> Result<Repo> {
    let settings = Settings::from_environment()?;
    let repo = Repo::new(&settings, model);
    let known = model.named_revision().is_none_or(|revision| repo.commit(revision).is_some());
    if known && repo.root.is_dir() {
        return Ok(repo);
    }
    let cache = settings.cache.display();
    Err(Failure::model(format!("{model} is not in the cache ({cache}): `incoder models ls` lists what is")))
}
