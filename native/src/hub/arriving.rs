//! Models that are quantized while they come from the hub, tensor by tensor: the original is stored nowhere.

use super::cache::{Repo, failed};
use super::download::wait_for_lock;
use super::files::{self, MAX_JSON_BYTES};
use super::hash::Hasher;
use super::http::{Http, Request};
use super::listing::{self, Choice, RemoteFile};
use super::name::ModelName;
use super::progress::Progress;
use super::settings::Settings;
use super::stream::Remote;
use super::{Needs, check_disk, licence_note};
use crate::commands::convert::Conversion;
use crate::failure::{Failure, Result};
use crate::{Global, terminal};
use incoder::checkpoint::{Checkpoint, Encoder, MemoryFolder};
use incoder::{Config, Folder, Quantization};
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

const WEIGHTS: &str = "model.safetensors";

/// Downloads the model of `commit`, whose small files its snapshot has, in the type of `conversion`. Tensors that an earlier run
/// finished are not downloaded again. The folder, and how many bytes came; fails with MODEL, RUNTIME or USAGE.
pub fn quantize(
    name: &ModelName,
    commit: &str,
    quantization: Quantization,
    conversion: &Conversion<'_>,
    global: &Global,
) -> Result<(PathBuf, u64)> {
    let settings = Settings::from_environment()?;
    let repo = Repo::new(&settings, name);
    if settings.offline {
        return Err(super::not_cached(&repo, Some(commit), Needs::Everything, &settings));
    }
    let (kept, unfinished) = (repo.quantized(commit, quantization), repo.unfinished(commit, quantization));
    let _resumable = terminal::Resumable::begin();
    let lock = repo.locks.join(format!("{commit}-{}.lock", quantization.name()));
    let waiting = || terminal::note(global.quiet, &format!("another program is downloading {name}: waiting"));
    let _lock = wait_for_lock(&lock, &waiting, &|| false)?;
    if kept.join("config.json").is_file() {
        return Ok((kept, 0));
    }
    let at = ModelName::parse(&format!("{}@{commit}", name.id())).map_err(Failure::usage)?;
    let http = Http::new(&settings, &at)?;
    let listing = listing::ask(&http, &settings.endpoint, &at, false)?;
    let small = RefCell::new(MemoryFolder::default());
    for file in ["config.json", "tokenizer.json", "generation_config.json"] {
        let path = repo.snapshot(commit).join(file);
        if path.is_file() {
            let bytes = fs::read(&path).map_err(|e| failed(&path, &e))?;
            small.replace_with(|small| small.clone().with(file, bytes));
        }
    }
    let index = |file: &RemoteFile| {
        let bytes = whole(&http, file)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        small.replace_with(|small| small.clone().with(&file.name, bytes));
        incoder::json::parse(&text).map_err(|problem| Failure::model(format!("{}: {problem}", file.name)))
    };
    let names = files::choose(&Choice { listing: &listing, index: &index }, Needs::Everything)?;
    let weights = names.iter().filter(|name| !name.ends_with(".json"));
    let sizes = weights.map(|name| Ok(listing.file(name)?.size)).collect::<Result<Vec<u64>>>()?;
    let total = sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
    licence_note(name, &listing, global);
    let progress = Progress::new(name.id(), total, global);
    let remote = Remote::new(http, &listing, small.take(), progress);
    let folder: &dyn Folder = &remote;
    let config_json = pollster::block_on(folder.text("config.json", MAX_JSON_BYTES))?;
    let config = pollster::block_on(Config::read(folder))?;
    let checkpoint = pollster::block_on(Checkpoint::open(folder, &config)).map_err(|e| remote.cause(e))?;
    let encoding = conversion.dtype.encoding();
    let mut encoder = Encoder::new(&checkpoint, checkpoint.tensors_as_stored(), encoding);

    fs::create_dir_all(&unfinished).map_err(|e| failed(&unfinished, &e))?;
    let path = unfinished.join(WEIGHTS);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.map_err(|e| failed(&path, &e))?;
    let start = encoder.go_on(kept_bytes(&mut file, encoder.header()));
    check_disk(&settings.cache, name, encoder.bytes() - start)?;
    remote.resumed(total as f64 * (start as f64 / encoder.bytes() as f64));
    let cut = file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start)));
    cut.map_err(|e| failed(&path, &e))?;
    while let Some(bytes) = pollster::block_on(encoder.next()).map_err(|e| remote.cause(e))? {
        file.write_all(&bytes).map_err(|e| failed(&path, &e))?;
    }
    if let Some(damaged) = remote.damaged()? {
        // Which of the tensors are wrong is not known.
        let _ = fs::remove_dir_all(&unfinished);
        let problem = format!("{damaged}: what came is not the file that the hub lists: it was not kept; try again");
        return Err(Failure::runtime(problem));
    }
    file.sync_all().map_err(|e| failed(&path, &e))?;
    drop(file);
    conversion.complete(folder, &unfinished, &config_json, &config, global)?;
    fs::rename(&unfinished, &kept).map_err(|e| failed(&kept, &e))?;
    repo.write_ref(name.revision(), commit)?;
    Ok((kept, remote.received()))
}

/// How much of the file an earlier run wrote; 0 where it was another version of this program that began otherwise.
fn kept_bytes(file: &mut File, header: &[u8]) -> u64 {
    let mut begins = vec![0; header.len()];
    let same = file.read_exact(&mut begins).is_ok() && begins == header;
    if same { file.metadata().map_or(0, |metadata| metadata.len()) } else { 0 }
}

/// A small file; fails with RUNTIME where it is another than the hub lists.
fn whole(http: &Http, file: &RemoteFile) -> Result<Vec<u8>> {
    let hint = "the hub lists it and does not have it: try again later";
    let request = Request { url: &file.url, what: &file.name, from: None, hint, quick: false };
    let bytes = http.bytes(&request, MAX_JSON_BYTES)?;
    let hash = Hasher::new(&file.etag, file.size).map(|mut hasher| {
        hasher.update(&bytes);
        hasher.finish()
    });
    match hash {
        Some(hash) if hash == file.etag => Ok(bytes),
        _ => Err(Failure::runtime(format!("{}: what came is not the file that the hub lists; try again", file.name))),
    }
}
