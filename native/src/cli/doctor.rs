//! `incoder doctor`.

use super::bench::Shape;
use super::options::Model;
use super::values::positive;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    pub model: Model,
    /// Check the kernels in these sizes instead of a model's
    #[arg(long, value_enum, value_name = "SIZE", conflicts_with = "name")]
    pub shape: Option<Shape>,
    /// Without the run at full load: takes less than half a minute
    #[arg(long)]
    pub quick: bool,
    /// How long the run at full load takes
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = positive(), conflicts_with = "quick")]
    pub seconds: usize,
    /// Which GPU: its number or a part of its name from `incoder devices` (left out: INCODER_DEVICE, or the fastest)
    #[arg(short, long, value_name = "DEVICE", add = ArgValueCompleter::new(crate::complete::devices))]
    pub device: Option<String>,
}
