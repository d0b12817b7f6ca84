//! The model as arithmetic: on the GPU its weights, and the forward pass as a plan made once; on the CPU the plain reference.

mod autotune;
pub(crate) mod backend;
mod check;
mod choose;
pub(crate) mod cpu;
mod entry;
mod fallback;
pub(crate) mod forward;
pub mod gpu;
mod linear;
pub(crate) mod load;
mod memory;
mod overflow;
mod packing;
mod plan;
mod profile;
pub(crate) mod random;
mod random_weights;
mod rotary_table;
mod slots;
mod stack;
mod step;
pub(crate) mod tensors;
#[cfg(test)]
mod tests;
mod tuned;
mod weights;

pub use check::KernelCheck;
pub(crate) use choose::{Choosing, Told};
pub use memory::MemoryPlan;
pub(crate) use plan::Plan;
pub use profile::KernelTime;
pub use tuned::Tuned;
