//! The GPU's time for one step, kernel by kernel.

use super::Measurement;
use super::job::Bench;
use super::table::{Row, Spread};
use crate::failure::Result;
use incoder::KernelTime;
use std::fmt;

/// A step of so many tokens after `depth` others.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    pub depth: usize,
    pub tokens: usize,
}

impl Measurement for Profile {
    fn need(&self) -> usize {
        self.depth.max(1).saturating_add(self.tokens)
    }

    fn rows(
        &self,
        bench: &mut Bench,
        repetitions: usize,
        limit: Option<f64>,
        done: &mut dyn FnMut(),
    ) -> Result<Vec<Row>> {
        let once = |_| pollster::block_on(bench.profile(self.depth, self.tokens));
        let profiles = super::repeated(repetitions, done, once)?;
        Ok(figures(&self.to_string(), self.depth, &profiles, limit))
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step of {} at {}", self.tokens, self.depth)
    }
}

/// A row for the step `name` after `depth` tokens, and one for each of its kernels; `limit` in GB/s.
fn figures(name: &str, depth: usize, profiles: &[Vec<KernelTime>], limit: Option<f64>) -> Vec<Row> {
    let Some(first) = profiles.first() else { return Vec::new() };
    let whole = Spread::of(profiles.iter().map(|kernels| kernels.iter().map(|kernel| kernel.ms).sum()));
    let row = |test, label, ms: Spread, bytes: u64, flop: u64| {
        let gb_per_second = (bytes > 0).then(|| bytes as f64 / 1e6 / ms.median);
        Row {
            depth_tokens: depth,
            share_percent: Some(100.0 * ms.median / whole.median),
            gb_per_second,
            limit_percent: gb_per_second.zip(limit).map(|(gb, limit)| 100.0 * gb / limit),
            gflop_per_second: (flop > 0).then(|| flop as f64 / 1e6 / ms.median),
            ..Row::new(test, label, ms)
        }
    };
    let (bytes, flop) = first.iter().fold((0, 0), |sum, kernel| (sum.0 + kernel.bytes, sum.1 + kernel.flop));
    let mut rows = vec![row("step", name.to_owned(), whole, bytes, flop)];
    for (i, KernelTime { kernel, dispatches, bytes, flop, .. }) in first.iter().enumerate() {
        let ms = Spread::of(profiles.iter().filter_map(|kernels| kernels.get(i)).map(|kernel| kernel.ms));
        rows.push(row("kernel", format!("{kernel} ({dispatches})"), ms, *bytes, *flop));
    }
    rows
}
