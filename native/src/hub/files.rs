//! Which files a model has, and which of them are needed: the same choice for a listing and for a folder.

use super::name::is_file_name;
use crate::failure::{Failure, Result};
use serde_json::Value;
use std::collections::BTreeSet;

/// No listing, config or index comes near this; what does is something else.
pub const MAX_JSON_BYTES: u64 = 32 << 20;

/// What a command reads of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Config,
    Tokenizer,
    Everything,
}

/// A place with files: a listing of the hub, or a folder.
pub trait Place {
    type File;
    /// The file of this name; None where there is none.
    fn find(&self, name: &str) -> Option<Self::File>;
    /// The JSON in a file.
    fn json(&self, file: &Self::File) -> Result<Value>;
    /// The failure for a file that is needed and not there.
    fn missing(&self, name: &str) -> Failure;
}

/// config.json, tokenizer.json and the weights: one file, or an index and its shards; safetensors before torch's.
pub fn choose<P: Place>(place: &P, needs: Needs) -> Result<Vec<P::File>> {
    let required = |name: &str| place.find(name).ok_or_else(|| place.missing(name));
    let mut files = vec![required("config.json")?];
    if needs == Needs::Config {
        return Ok(files);
    }
    files.push(required("tokenizer.json")?);
    // What it says of the tokens that end a text counts; most models have none.
    files.extend(place.find("generation_config.json"));
    if needs == Needs::Tokenizer {
        return Ok(files);
    }
    for kind in ["model.safetensors", "pytorch_model.bin"] {
        if let Some(single) = place.find(kind) {
            files.push(single);
            return Ok(files);
        }
        let index_name = format!("{kind}.index.json");
        if let Some(index) = place.find(&index_name) {
            for shard in shards(&place.json(&index)?, &index_name)? {
                files.push(required(&shard)?);
            }
            files.push(index);
            return Ok(files);
        }
    }
    Err(place.missing("model.safetensors"))
}

fn shards(index: &Value, name: &str) -> Result<BTreeSet<String>> {
    let map = index["weight_map"].as_object().filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| Failure::model(format!("{name} names no shards")))?;
    let shard = |value: &Value| match value.as_str() {
        Some(shard) if is_file_name(shard) => Ok(shard.to_owned()),
        _ => Err(Failure::model(format!("{name} names {value} as a shard, which is no file name"))),
    };
    map.values().map(shard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Names<'a>(&'a [&'a str], Value);

    impl Place for Names<'_> {
        type File = String;
        fn find(&self, name: &str) -> Option<String> {
            self.0.contains(&name).then(|| name.to_owned())
        }
        fn json(&self, _: &String) -> Result<Value> {
            Ok(self.1.clone())
        }
        fn missing(&self, name: &str) -> Failure {
            Failure::model(format!("no {name}"))
        }
    }

    fn chosen(names: &[&str], index: Value) -> std::result::Result<String, String> {
        let all = [&["config.json", "tokenizer.json", "README.md"], names].concat();
        let chosen = choose(&Names(&all, index), Needs::Everything).map_err(|e| e.to_string())?;
        Ok(chosen.get(2..).unwrap_or_default().join(" "))
    }

    #[test]
    fn chooses_one_form_of_the_weights() {
        let index = json!({"weight_map": {"a": "s-1", "b": "s-2", "c": "s-1"}});
        let chosen = |names: &[&str]| chosen(names, index.clone());
        assert_eq!(chosen(&["pytorch_model.bin", "model.safetensors"]).unwrap(), "model.safetensors");
        let both = ["pytorch_model.bin", "model.safetensors.index.json", "s-1", "s-2"];
        assert_eq!(chosen(&both).unwrap(), "s-1 s-2 model.safetensors.index.json");
        assert_eq!(chosen(&both[..1]).unwrap(), "pytorch_model.bin");
        assert_eq!(chosen(&["pytorch_model.bin.index.json", "s-1"]).unwrap_err(), "no s-2");
        assert_eq!(chosen(&["tf_model.h5"]).unwrap_err(), "no model.safetensors");
    }

    #[test]
    fn refuses_shards_that_are_no_file_names() {
        for shard in [json!("../x"), json!("/etc/passwd"), json!("a/b"), json!(""), json!(".."), json!(7), json!("C:x")]
        {
            let failed = chosen(&["model.safetensors.index.json"], json!({"weight_map": {"a": shard}}));
            assert!(failed.unwrap_err().contains("no file name"));
        }
        for index in [json!({}), json!([]), json!({"weight_map": {}}), json!({"weight_map": "a"})] {
            assert!(chosen(&["model.safetensors.index.json"], index).unwrap_err().contains("names no shards"));
        }
    }
}
