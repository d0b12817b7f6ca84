//! The model on the GPU: its weights, and the forward step as a plan made once.

mod autotune;
mod choose;
mod memory;
mod overflow;
mod plan;
mod profile;
mod random;
mod step;
#[cfg(test)]
mod tests;
mod tuned;
mod weights;

pub(crate) use choose::{Choosing, Told};
pub use memory::MemoryPlan;
pub(crate) use plan::Plan;
pub use profile::KernelTime;
pub use tuned::Tuned;
