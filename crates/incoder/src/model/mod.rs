//! The model on the GPU: its weights, and the forward step as a plan made once.

mod plan;
mod step;
#[cfg(test)]
mod tests;
mod weights;

pub(crate) use plan::Plan;
pub use plan::largest_buffers;
