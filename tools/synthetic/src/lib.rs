//! Full-size InCoder checkpoints of random weights: the published formats, sizes, names and token ids, nobody's weights.
//!
//! What a model holds depends only on its sizes and the seed. Every value is representable in fp16, so that the fp32 and
//! the fp16 files of every format are the same model and give the same tokens; bf16 files hold these values rounded.
//! Values are made as they are written: a checkpoint of 26 GB takes some 30 MB of memory.
#![deny(missing_docs)]

mod files;
mod model;
mod pickle;
mod safetensors;
mod tokenizer;
mod torch;
mod values;
mod zip;

pub use files::{Error, Format, Options, Result, write};
pub use model::Model;
pub use tokenizer::tokenizer_json;
pub use values::Dtype;
