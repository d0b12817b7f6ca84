//! From logits to text: continuing, infilling and scoring, with sampling, stop rules and speculative decoding.

pub mod event;
pub mod generate;
pub mod infill;
pub(crate) mod prompt;
pub(crate) mod request;
pub mod score;
pub mod speculative;
pub(crate) mod stops;
