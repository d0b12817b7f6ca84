//! Keys and values beyond the range of fp16: noticed before anything is chosen from them, and kept in fp32 from there on.

use super::MemoryPlan;
use super::choose::Chooser;
use super::plan::{Chain, Plan};
use super::step::{Shapes, Step};
use super::weights::rank;
use crate::engine::forward::Kv;
use crate::error::{Error, Result};

impl Plan {
    /// Whether everything in the cache is what was computed. `told` is what the steps so far have left in `overflow`.
    ///
    /// # Errors
    /// [`Error::KvOverflow`] when not; the next steps begin with a clean slate.
    pub(super) fn check_overflow(&mut self, told: u32) -> Result<()> {
        if told == 0 {
            return Ok(());
        }
        self.chain.forget();
        self.step.clear_overflow();
        let layers = self.config.num_layers;
        // A value's rank is that of its layer's keys, less one.
        let layer = (0..layers).find(|&layer| told + 1 >= rank(layer, layers)).unwrap_or_default();
        Err(Error::KvOverflow { what: if told == rank(layer, layers) { "keys" } else { "values" }, layer })
    }

    /// How keys and values are stored.
    pub fn kv(&self) -> Kv {
        self.kv
    }

    /// Keys and values are stored in fp32 from here on; those that were there are gone.
    ///
    /// # Errors
    /// As [`Plan::load`]: then everything is as it was, but for the keys and values.
    pub async fn widen(&mut self) -> Result<()> {
        let (gpu, config, capacity) = (self.gpu.clone(), self.config.clone(), self.capacity);
        let shapes = |kv| Shapes::new(&config, capacity, kv);
        let recipe = config.recipe();
        let bytes = MemoryPlan::new(&config, capacity, Kv::F32, &gpu.memory_limits()).kv_cache;
        self.chain = Chain::default();
        // The narrow cache goes first: there may not be room for both.
        self.step.clear();
        self.parked.clear();
        gpu.settle().await?;
        let (weights, activations, most) = (&self.weights, &self.activations, self.max_logits());
        let wider = async || {
            let mut step = Step::new(&gpu, shapes(Kv::F32), &mut |_| ()).await?;
            let chooser = Chooser::new(&gpu, config.vocab_size, most, &activations.logits, step.state()).await?;
            Self::lay_out(&gpu, &recipe, &shapes(Kv::F32), &mut step, activations, weights)?;
            Ok((step, chooser))
        };
        match gpu.allocating("the KV cache in fp32 (ask for a shorter context)", bytes, wider).await {
            Ok((step, chooser)) => (self.step, self.chooser, self.kv) = (step, chooser, Kv::F32),
            Err(error) => {
                Self::lay_out(&gpu, &recipe, &shapes(self.kv), &mut self.step, &self.activations, &self.weights)?;
                return Err(error);
            }
        }
        Ok(())
    }
}
