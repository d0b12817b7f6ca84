//! Each architecture is one file, which reads what is special in its config.json and writes its recipe.
//!
//! Nothing outside this folder knows an architecture. To add one, write its file and register it in [`ALL`]; see
//! `docs/adding-an-architecture.md`.

mod llama;
pub(crate) mod recipe;
mod rotary;
mod xglm;

pub(crate) use rotary::Rotary;

use crate::checkpoint::config::Config;
use crate::checkpoint::fields::{Fields, shown, unsupported};
use crate::error::Result;
use recipe::{Recipe, Weight};
use std::fmt::Debug;

/// Reads config.json, or says that it is not that of this architecture.
type Read = fn(&Fields<'_>) -> Option<Result<Config>>;

/// Every architecture.
const ALL: [Read; 2] = [xglm::read, llama::read];

/// What the models of one architecture have in common.
pub(crate) trait Architecture: Debug + Send + Sync {
    /// The name in config.json's `model_type`.
    fn name(&self) -> &'static str;

    /// What a model in the sizes of `config` computes.
    fn recipe(&self, config: &Config) -> Recipe;

    /// Whether checkpoints may contain the tensor `tensor` although it is not needed.
    fn ignores(&self, tensor: &str) -> bool;
}

/// Reads the configuration of a model of any architecture.
///
/// # Errors
/// What the architecture refuses; [`crate::Error::Unsupported`] where there is none of that name.
pub(crate) fn read(fields: &Fields<'_>) -> Result<Config> {
    let known = "\"xglm\" (InCoder), \"llama\" and \"qwen2\" are computed";
    match ALL.iter().find_map(|read| read(fields)) {
        Some(config) => config,
        None => match fields.get("model_type") {
            Some(kind) => unsupported(format!("model_type {}; {known}", shown(kind))),
            None => unsupported(format!("config.json has no model_type; {known}")),
        },
    }
}

/// The table of the tokens' embeddings.
fn embedding(config: &Config) -> Weight {
    Weight { name: "embed_tokens.weight".to_owned(), rows: config.vocab_size, inputs: config.d_model }
}

/// What the logits come from.
fn head(config: &Config) -> Weight {
    match config.tie_word_embeddings {
        true => embedding(config),
        false => Weight { name: "lm_head.weight".to_owned(), ..embedding(config) },
    }
}

/// Refuses sizes that the shaders cannot take.
fn check_multiple_of_8(sizes: &[(&str, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size)| !size.is_multiple_of(8)) {
        Some((name, size)) => unsupported(format!("{name} {size}; the shaders need a multiple of 8")),
        None => Ok(()),
    }
}
