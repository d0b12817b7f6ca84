//! Text and tokens: the tokenizer, token healing, and which part of a document the model is shown.

pub(crate) mod fim;
pub mod healing;
pub mod line_ends;
pub mod template;
pub mod tokenizer;
pub mod window;
