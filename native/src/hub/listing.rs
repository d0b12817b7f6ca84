//! The hub's listing of a model: its files, pinned to one commit.

use super::files::{MAX_JSON_BYTES, Place};
use super::hash::Hasher;
use super::http::{Http, Request, escaped};
use super::name::{ModelName, is_commit};
use crate::failure::{Failure, MODEL, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// A file on the hub.
#[derive(Debug, Clone)]
pub struct RemoteFile {
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// The name of its blob, which is its hash: see hash.rs.
    pub etag: String,
    pub url: String,
}

/// What the hub has of a model. Names in it are looked up, and never made into paths.
#[derive(Debug)]
pub struct Listing {
    pub commit: String,
    model: ModelName,
    endpoint: String,
    files: BTreeMap<String, Value>,
    /// What the model's card says, such as `apache-2.0`.
    pub licence: Option<String>,
}

/// Asks the hub. Fails with MODEL where there is no such model, with RUNTIME where the hub cannot be asked.
pub fn ask(http: &Http, endpoint: &str, model: &ModelName, quick: bool) -> Result<Listing> {
    let revision = escaped(model.revision());
    let url = format!("{endpoint}/api/models/{}/revision/{revision}?blobs=true", model.id());
    let what = model.to_string();
    let hint = "check the spelling; there is no folder of that name here either";
    let request = Request { url: &url, what: &what, from: None, hint, quick };
    let bytes = http.bytes(&request, MAX_JSON_BYTES).map_err(|failure| {
        // A hub that does not say which of the two it lacks.
        let main = format!("{endpoint}/api/models/{}", model.id());
        let asks = failure.code == MODEL && model.named_revision().is_some();
        match asks && http.bytes(&Request { url: &main, quick: true, ..request }, MAX_JSON_BYTES).is_ok() {
            true => Failure::model(format!(
                "{} is at {endpoint}, and has no revision {}: check the spelling of what follows the @",
                model.id(),
                model.revision()
            )),
            false => failure,
        }
    })?;
    let other = || Failure::runtime(format!("{endpoint} answers with something else than the files of {model}"));
    let answer: Value = serde_json::from_slice(&bytes).map_err(|_| other())?;
    // Who names a commit gets that one.
    let meant = |commit: &&str| is_commit(commit) && (!is_commit(model.revision()) || *commit == model.revision());
    let commit = answer["sha"].as_str().filter(meant).ok_or_else(other)?;
    let siblings = answer["siblings"].as_array().ok_or_else(other)?;
    let named = |entry: &Value| Some((entry["rfilename"].as_str()?.to_owned(), entry.clone()));
    let files = siblings.iter().filter_map(named).collect();
    let licence = licence(&answer);
    Ok(Listing { commit: commit.to_owned(), model: model.clone(), endpoint: endpoint.to_owned(), files, licence })
}

/// The licence in a model's card; where it is one of its own, by the name that the card gives it. Printed, so shown escaped and short.
fn licence(answer: &Value) -> Option<String> {
    const MOST: usize = 60;
    let card = &answer["cardData"];
    let tag = |tag: &Value| tag.as_str()?.strip_prefix("license:").map(str::to_owned);
    let of_tags = || answer["tags"].as_array()?.iter().find_map(tag);
    let named = |field: &str| card[field].as_str().map(str::to_owned);
    let licence = match named("license") {
        Some(other) if other == "other" => named("license_name").or(Some(other)),
        licence => licence.or_else(of_tags),
    }?;
    Some(licence.chars().filter(|c| !c.is_control()).take(MOST).collect())
}

impl Listing {
    /// What a chosen file is. Fails with MODEL where the listing makes no sense.
    pub fn file(&self, name: &str) -> Result<RemoteFile> {
        let entry = self.files.get(name).ok_or_else(|| self.missing(name))?;
        let (lfs, model) = (&entry["lfs"], &self.model);
        let (size, etag) = match lfs.is_object() {
            true => (&lfs["size"], &lfs["sha256"]),
            false => (&entry["size"], &entry["blobId"]),
        };
        let nonsense = |what: &str, value: &Value| {
            Failure::model(format!("the hub's listing of {model} gives no possible {what} for {name}: {value}"))
        };
        let size_in_bytes = size.as_u64().ok_or_else(|| nonsense("size", size))?;
        let hash = etag.as_str().map(str::to_ascii_lowercase);
        let hash = hash.filter(|hash| Hasher::new(hash, 0).is_some()).ok_or_else(|| nonsense("hash", etag))?;
        let url = format!("{}/{}/resolve/{}/{}", self.endpoint, model.id(), self.commit, escaped(name));
        Ok(RemoteFile { name: name.to_owned(), size: size_in_bytes, etag: hash, url })
    }
}

/// A listing as a place to choose from; `index` fetches the one kind of file that has to be read for that.
pub struct Choice<'a> {
    pub listing: &'a Listing,
    pub index: &'a dyn Fn(&RemoteFile) -> Result<Value>,
}

impl Place for Choice<'_> {
    type File = String;

    fn find(&self, name: &str) -> Option<String> {
        self.listing.files.contains_key(name).then(|| name.to_owned())
    }

    fn json(&self, name: &String) -> Result<Value> {
        let file = self.listing.file(name)?;
        if file.size > MAX_JSON_BYTES {
            return Err(Failure::model(format!("{name} has {} bytes: too long for an index", file.size)));
        }
        (self.index)(&file)
    }

    fn missing(&self, name: &str) -> Failure {
        self.listing.missing(name)
    }
}

impl Listing {
    fn missing(&self, name: &str) -> Failure {
        Failure::model(format!("{} has no {name} at {}: not a model for this program", self.model, self.endpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_is_what_the_card_says() {
        for (answer, expected) in [
            (r#"{"cardData":{"license":"apache-2.0"},"tags":["license:mit"]}"#, Some("apache-2.0")),
            (r#"{"cardData":{"license":"other","license_name":"qwen-research"}}"#, Some("qwen-research")),
            (r#"{"cardData":{"license":"other"}}"#, Some("other")),
            (r#"{"tags":["code","license:mit"]}"#, Some("mit")),
            (r#"{"cardData":{"license":"a\u001b[31mb"}}"#, Some("a[31mb")),
            (r#"{"cardData":{"license":["mit"]},"tags":[]}"#, None),
            ("{}", None),
        ] {
            assert_eq!(licence(&serde_json::from_str(answer).unwrap()).as_deref(), expected, "{answer}");
        }
    }
}
