//! The model on the GPU: its weights, and the forward step as a plan made once.

mod memory;
mod plan;
mod profile;
mod step;
#[cfg(test)]
mod tests;
mod weights;

pub use memory::MemoryPlan;
pub(crate) use plan::Plan;
pub use profile::KernelTime;
