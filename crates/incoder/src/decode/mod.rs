//! From logits to text: continuing, infilling and scoring, with sampling, stop rules and speculative decoding.

pub mod generate;
pub mod infill;
pub mod sampling;
pub mod score;
pub mod speculative;
pub(crate) mod stops;
