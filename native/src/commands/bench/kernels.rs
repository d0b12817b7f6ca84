//! Every kernel at the shapes of a model, one layer of it at a time, so that large ones fit anywhere.

use super::job::Bench;
use super::profile::Profile;
use super::work::Work;
use super::{Measurement, Setting};
use crate::Global;
use crate::cli::{self, Shape};
use crate::engine::{self, Origin};
use crate::failure::Result;
use incoder::{Cancel, Device, LoadOptions, Quantization, Session};

/// Tokens of context: the kernels of attention are timed after [`DEPTH`] others.
const CONTEXT: usize = 1024;
const DEPTH: usize = 512;
/// Tokens of a step: those that have kernels of their own, and more.
const STEPS: [usize; 6] = [1, 2, 4, 8, 32, 128];
/// Tokens whose logits are compared with the reference's: a tile of 8, and one of a single token.
const CHECKED: usize = 9;
/// The most that they may differ, of the largest: single precision in another order, through one layer.
const TOLERANCE: f64 = 1e-3;

/// Loads one layer of `shape` on the GPU, and holds its logits against the CPU reference's.
pub fn open(args: &cli::Bench, shape: Shape, cancel: &Cancel, global: &Global) -> Result<(Setting, Bench)> {
    let mut config = shape.config()?;
    config.num_layers = 1;
    let origin = Origin::Random(&config);
    let device = super::choose(args, false, global)?;
    let quantize = args.quantize.map(Quantization::from);
    let options = LoadOptions { context: Some(CONTEXT), kv: args.kv.into(), quantize, ..Default::default() };
    let name = format!("one layer of {}, random weights", shape.name());
    let (mut setting, mut session) = super::load(args, name, origin, &device, &options, global)?;
    let small = LoadOptions { context: Some(CHECKED), ..options };
    let mut reference = engine::load(origin, &Device::Cpu, &small, global)?;
    let error = largest_error(&mut session, &mut reference, cancel)?;
    if error > TOLERANCE {
        let told = format!("{}: logits differ from the reference's by {error:.1e} of the largest", setting.model);
        return Err(incoder::Error::Tensor { name: "logits".to_owned(), problem: told }.into());
    }
    setting.reference_error = Some(error);
    let work =
        Work::new(session.config(), [setting.weight_bytes, setting.head_bytes], options.kv, session.prefill_chunk());
    Ok((setting, Bench::new(session, work, cancel)?))
}

fn largest_error(session: &mut Session, reference: &mut Session, cancel: &Cancel) -> Result<f64> {
    let vocab = session.config().vocab_size as u32;
    let ids: Vec<u32> = (0..CHECKED as u32).map(|i| (i * 7919 + 13) % vocab).collect();
    let mut worst = 0.0;
    // All but the last in one step, and then the last alone.
    for ids in [&ids[..CHECKED - 1], &ids[..]] {
        pollster::block_on(session.set_context(ids, cancel))?;
        pollster::block_on(reference.set_context(ids, cancel))?;
        let largest = reference.logits().iter().fold(0f32, |most, logit| most.max(logit.abs()));
        let pairs = session.logits().iter().zip(reference.logits());
        let error = pairs.fold(0f32, |most, (a, b)| if a.is_nan() { f32::INFINITY } else { most.max((a - b).abs()) });
        worst = f64::from(error / largest).max(worst);
    }
    Ok(worst)
}

/// What is timed of each layer.
pub fn steps(bench: &Bench) -> Vec<Box<dyn Measurement>> {
    let steps = STEPS.iter().filter(|&&tokens| tokens <= bench.largest_step());
    steps.map(|&tokens| Box::new(Profile { depth: DEPTH, tokens }) as Box<dyn Measurement>).collect()
}
