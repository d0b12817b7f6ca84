//! The model on the GPU: its weights, and the forward step as a plan made once.

mod plan;
mod weights;

pub(crate) use plan::Plan;
