//! Models from the hub: found in the cache that Python shares, downloaded where they are not there.

pub mod arriving;
mod blob;
pub mod cache;
mod certificates;
mod download;
mod files;
pub mod hash;
mod http;
mod listing;
pub mod name;
mod progress;
mod quantized;
pub mod remove;
pub mod settings;
mod stream;

use crate::failure::{Failure, INTERRUPTED, RUNTIME, Result};
use crate::{Global, terminal};
use cache::Repo;
use download::Downloads;
pub use files::Needs;
use http::Http;
use listing::{Choice, Listing, RemoteFile};
use name::ModelName;
use settings::Settings;
use std::path::{Path, PathBuf};

/// Folders, links and lock files take a little, too.
const SPARE_BYTES: u64 = 1 << 20;

/// A model that is in the cache as far as it is needed.
#[derive(Debug)]
pub struct Resolved {
    pub commit: String,
    /// The snapshot.
    pub folder: PathBuf,
    /// How much came over the network for this, in bytes.
    pub downloaded: u64,
}

/// The model's snapshot, downloaded where it is not whole or not the newest; where the newest cannot be had, an older one
/// is taken unless `insist`. Fails with MODEL, RUNTIME or USAGE.
pub fn resolve(name: &ModelName, needs: Needs, insist: bool, global: &Global) -> Result<Resolved> {
    let settings = Settings::from_environment()?;
    let repo = Repo::new(&settings, name);
    let known = repo.commit(name.revision());
    let whole = known.as_ref().filter(|commit| repo.lacks(commit, needs).is_none());
    let cached = |commit: &String| Resolved { commit: commit.clone(), folder: repo.snapshot(commit), downloaded: 0 };
    // A commit never changes: nothing to ask.
    if let Some(commit) = whole.filter(|commit| settings.offline || commit.as_str() == name.revision()) {
        return Ok(cached(commit));
    }
    if settings.offline {
        return Err(not_cached(&repo, known.as_deref(), needs, &settings));
    }
    let http = Http::new(&settings, name)?;
    let (newest, enough) = match listing::ask(&http, &settings.endpoint, name, whole.is_some()) {
        // Whoever asks for the newest is told that it did not come; whoever wants to work works.
        Ok(listing) => (pull(&settings, &http, &repo, &listing, needs, global), !insist),
        Err(failure) => (Err(failure), true),
    };
    match (newest, whole) {
        (Err(failure), Some(commit)) if enough && failure.code != INTERRUPTED => {
            terminal::note(global.quiet, &format!("{failure}; using {name} as it is in the cache"));
            Ok(cached(commit))
        }
        // A mistyped folder reads like a model's name.
        (Err(failure), None) if failure.code == RUNTIME && enough => {
            let Failure { code, message } = failure;
            let hint = format!("there is no folder {name} here, so that the hub was asked for it");
            Err(Failure { code, message: format!("{message}; {hint}") })
        }
        (newest, _) => newest,
    }
}

/// The hashes of a snapshot's files as the hub lists them. Fails with RUNTIME where it cannot be asked.
pub fn listed_hashes(model: &ModelName, commit: &str, names: &[String]) -> Result<Vec<Option<String>>> {
    let settings = Settings::from_environment()?;
    if settings.offline {
        return Err(Failure::runtime("HF_HUB_OFFLINE is set"));
    }
    let at = ModelName::parse(&format!("{}@{commit}", model.id())).map_err(Failure::usage)?;
    let listing = listing::ask(&Http::new(&settings, &at)?, &settings.endpoint, &at, false)?;
    Ok(names.iter().map(|name| listing.file(name).ok().map(|file| file.etag)).collect())
}

/// The model's snapshot without the network. Fails with MODEL where it is not there or not whole.
pub fn find(name: &ModelName) -> Result<Resolved> {
    let settings = Settings::from_environment()?;
    let repo = Repo::new(&settings, name);
    match repo.commit(name.revision()) {
        Some(commit) if repo.lacks(&commit, Needs::Everything).is_none() => {
            Ok(Resolved { folder: repo.snapshot(&commit), commit, downloaded: 0 })
        }
        known => Err(not_cached(&repo, known.as_deref(), Needs::Everything, &settings)),
    }
}

fn not_cached(repo: &Repo, known: Option<&str>, needs: Needs, settings: &Settings) -> Failure {
    let advice = match settings.offline {
        true => "HF_HUB_OFFLINE is set: unset it to download the rest".to_owned(),
        false => format!("`incoder models pull {}` downloads it", repo.name),
    };
    let what = match known.and_then(|commit| repo.lacks(commit, needs)) {
        Some(failure) => failure.to_string(),
        None => format!("{} is not in the cache ({})", repo.name, settings.cache.display()),
    };
    Failure::model(format!("{what}; {advice}"))
}

fn pull(
    settings: &Settings,
    http: &Http,
    repo: &Repo,
    listing: &Listing,
    needs: Needs,
    global: &Global,
) -> Result<Resolved> {
    let (name, commit) = (&repo.name, listing.commit.as_str());
    let index = |file: &RemoteFile| {
        Downloads::new(http, repo, commit, file.size, global).all(std::slice::from_ref(file))?;
        cache::read_json(&repo.snapshot(commit).join(&file.name))
    };
    let names = files::choose(&Choice { listing, index: &index }, needs)?;
    let mut wanted = Vec::new();
    let (mut total, mut missing) = (0_u64, 0_u64);
    for file in names.iter().map(|file| listing.file(file)) {
        let file = file?;
        if repo.has(commit, &file.name, file.size)? {
            continue;
        }
        let kept = match repo.has_blob(&file.etag, &file.name, file.size)? {
            true => file.size,
            false => std::fs::metadata(repo.blob(&format!("{}.incomplete", file.etag))).map_or(0, |kept| kept.len()),
        };
        let sums = (total.checked_add(file.size), missing.checked_add(file.size - kept.min(file.size)));
        let (Some(sum), Some(missing_sum)) = sums else {
            return Err(Failure::model(format!("the hub's listing of {name} gives sizes that no disk has")));
        };
        (total, missing) = (sum, missing_sum);
        wanted.push(file);
    }
    check_disk(&settings.cache, name, missing)?;
    if !wanted.is_empty() {
        if missing > 0 {
            licence_note(name, listing, global);
        }
        tracing::info!("{name}: {} files, {missing} of {total} bytes to download", wanted.len());
        let downloads = Downloads::new(http, repo, commit, total, global);
        // Gigabytes of a model that this program cannot run are not worth the wait.
        let first = usize::from(wanted[0].name == "config.json");
        downloads.all(&wanted[..first])?;
        check_config(repo, commit)?;
        downloads.all(&wanted[first..])?;
        drop(downloads);
        tracing::info!("{name}: {missing} bytes downloaded");
    }
    // A ref to a snapshot of which only the tokenizer is there would hide an older one that is whole.
    if needs == Needs::Everything || repo.commit(name.revision()).is_none() {
        let noted = repo.write_ref(name.revision(), commit);
        // A cache that is read-only and whole is good enough.
        if !wanted.is_empty() {
            noted?;
        }
    }
    Ok(Resolved { commit: commit.to_owned(), folder: repo.snapshot(commit), downloaded: missing })
}

/// The licence of what is downloaded: Meta's, or what the model's card says.
fn licence_note(name: &ModelName, listing: &Listing, global: &Global) {
    if name.is_metas() {
        terminal::note(global.quiet, "Meta's InCoder weights are licensed CC-BY-NC 4.0: no commercial use");
    } else if let Some(licence) = &listing.licence {
        terminal::note(global.quiet, &format!("{name} is licensed {licence}, says its model card"));
    }
}

/// Fails with MODEL where the engine would refuse the model.
fn check_config(repo: &Repo, commit: &str) -> Result<()> {
    let config = cache::read_json(&repo.snapshot(commit).join("config.json"))?;
    let Err(error) = incoder::Config::from_json(&config.to_string()) else { return Ok(()) };
    let Failure { code, message } = error.into();
    Err(Failure { code, message: format!("{}: {message}", repo.name) })
}

/// Fails with RUNTIME where the disk is too small for `missing` bytes more.
fn check_disk(cache: &Path, name: &ModelName, missing: u64) -> Result<()> {
    let there = cache.ancestors().find(|folder| folder.exists());
    let Some(free) = there.and_then(|folder| fs4::available_space(folder).ok()) else { return Ok(()) };
    if missing == 0 || missing.saturating_add(SPARE_BYTES) <= free {
        return Ok(());
    }
    let (missing, free) = (terminal::bytes(missing), terminal::bytes(free));
    let advice = "free some, or set HF_HOME to a folder on another disk";
    Err(Failure::runtime(format!("{name} needs {missing} more, and {} has {free} free: {advice}", cache.display())))
}
