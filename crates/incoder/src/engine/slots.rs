//! Several KV caches beside one copy of the weights: the dispatches of a step are there once for each of them.

use super::MemoryPlan;
use super::plan::Plan;
use super::step::{Op, Shapes, Step};
use crate::error::Result;

/// The dispatches of a step for one KV cache, which lives as long as they do.
#[derive(Debug, Default)]
pub(super) struct Dispatches(Vec<Op>);

impl Step {
    /// Exchanges the dispatches, and with them the KV cache.
    fn swap(&mut self, other: &mut Dispatches) {
        std::mem::swap(&mut self.ops, &mut other.0);
    }
}

impl Plan {
    /// Goes over to KV cache number `slot`, which is made where it is not there yet.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] and [`crate::Error::OutOfMemory`] when there is no room for one more: then the present one stays.
    pub async fn select(&mut self, slot: usize) -> Result<()> {
        if slot == self.slot {
            return Ok(());
        }
        self.chain.forget();
        let count = self.parked.len().max(slot.max(self.slot) + 1);
        self.parked.resize_with(count, Default::default);
        self.step.swap(&mut self.parked[self.slot]);
        self.step.swap(&mut self.parked[slot]);
        if self.step.ops.is_empty() {
            let bytes = MemoryPlan::new(&self.config, self.capacity, self.kv, &self.gpu.memory_limits()).kv_cache;
            let shapes = Shapes::new(&self.config, self.capacity, self.kv);
            let (gpu, step, activations, weights) = (&self.gpu, &mut self.step, &self.activations, &self.weights);
            let recipe = self.config.recipe();
            let one_more = async || Self::lay_out(gpu, &recipe, &shapes, step, activations, weights);
            if let Err(error) = gpu.allocating("the KV cache of one more context", bytes, one_more).await {
                self.step.clear();
                self.step.swap(&mut self.parked[self.slot]);
                return Err(error);
            }
        }
        self.slot = slot;
        Ok(())
    }
}
