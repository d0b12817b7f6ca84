//! What a shell offers after <TAB>: models of the cache, and devices.

use crate::hub::cache::Repo;
use crate::hub::settings::Settings;
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use incoder::Gpu;
use std::ffi::OsStr;

/// Models in the cache.
pub fn cached_models(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Ok(settings) = Settings::from_environment() else { return Vec::new() };
    let mine = |repo: &Repo| repo.commits().iter().any(|commit| repo.is_incoder(commit));
    let repos = Repo::all(&settings).into_iter().filter(mine);
    beginning(begun, repos.map(|repo| CompletionCandidate::new(repo.name.id().to_owned())))
}

/// Models in the cache, and folders.
pub fn models(begun: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = cached_models(begun);
    found.extend(PathCompleter::any().complete(begun));
    found
}

/// The CPU, and the GPUs by number.
pub fn devices(begun: &OsStr) -> Vec<CompletionCandidate> {
    let cpu = CompletionCandidate::new("cpu").help(Some("the CPU".into()));
    let gpus = pollster::block_on(Gpu::list()).into_iter().enumerate();
    let gpus = gpus.map(|(i, report)| CompletionCandidate::new(i.to_string()).help(Some(report.name.into())));
    beginning(begun, std::iter::once(cpu).chain(gpus))
}

fn beginning(begun: &OsStr, all: impl Iterator<Item = CompletionCandidate>) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy().into_owned();
    all.filter(|candidate| candidate.get_value().to_string_lossy().starts_with(&begun)).collect()
}
