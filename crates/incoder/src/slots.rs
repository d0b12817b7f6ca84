//! Several contexts in one session: what two editors ask for by turns is not computed again each time.

use crate::error::{Error, Result};
use crate::session::Session;

/// The contexts that are not the present one, and what decides which of them is given up.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// How many there may be.
    most: usize,
    /// The present one's number.
    present: usize,
    /// Calls so far.
    clock: u64,
    all: Vec<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Tokens whose keys and values are in its cache; empty for the present one, whose tokens the session has.
    tokens: Vec<u32>,
    /// The distribution after the last of them; empty when not computed.
    logits: Vec<f32>,
    /// Tokens that were last asked for; those behind them were generated.
    asked: usize,
    /// When that was.
    used: u64,
}

impl Slots {
    /// What the other caches held is gone.
    pub fn forget(&mut self) {
        self.all.clear();
    }
}

impl Session {
    /// Lets the session hold up to `most` contexts, each with a KV cache of its own, which is made when it is first needed.
    /// [`Session::set_context`] then goes on from the one that has most of the new context, unless that would give up more than
    /// it keeps; otherwise the one that was not asked for the longest is given up. 0 and 1 are one context.
    pub fn set_slots(&mut self, most: usize) {
        self.slots.most = most;
    }

    /// Contexts that are held now.
    pub fn slots(&self) -> usize {
        self.slots.all.len().max(1)
    }

    /// Goes over to the context that `tokens` are best made from.
    pub(crate) async fn select_for(&mut self, tokens: &[u32]) -> Result<()> {
        if self.slots.most < 2 {
            return Ok(());
        }
        let slots = &mut self.slots;
        slots.clock += 1;
        let count = slots.all.len().max(slots.present + 1);
        slots.all.resize_with(count, Slot::default);
        let present = slots.present;
        self.swap_with(present);
        let slots = &self.slots;
        let common = |slot: &Slot| slot.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let kept = slots.all.iter().map(|slot| (common(slot), slot.asked.min(slot.tokens.len()))).enumerate();
        let (best, (common, asked)) = kept.max_by_key(|(_, (common, _))| *common).unwrap_or_default();
        let oldest = slots.all.iter().enumerate().min_by_key(|(_, slot)| slot.used).map_or(0, |(i, _)| i);
        let slot = if common * 2 >= asked {
            best
        } else if slots.all.len() < slots.most {
            slots.all.len()
        } else {
            oldest
        };
        let selected = match self.select(slot).await {
            // There is no room for one more: those that are there have to do.
            Err(Error::OutOfMemory { .. } | Error::Limit { .. }) if slot == self.slots.all.len() => {
                self.slots.most = self.slots.all.len();
                self.select(oldest).await
            }
            selected => selected,
        };
        let present = self.slots.present;
        self.swap_with(present);
        self.slots.all[present].asked = tokens.len();
        selected
    }

    async fn select(&mut self, slot: usize) -> Result<()> {
        self.backend.select(slot).await?;
        let count = self.slots.all.len().max(slot + 1);
        self.slots.all.resize_with(count, Slot::default);
        self.slots.all[slot].used = self.slots.clock;
        self.slots.present = slot;
        Ok(())
    }

    /// Puts the session's context into a slot, and what the slot has into the session.
    fn swap_with(&mut self, slot: usize) {
        let slot = &mut self.slots.all[slot];
        std::mem::swap(&mut self.tokens, &mut slot.tokens);
        std::mem::swap(&mut self.logits, &mut slot.logits);
    }
}
