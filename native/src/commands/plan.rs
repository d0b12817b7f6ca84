//! `incoder plan`: what a model takes, and on which GPU it fits, before anything is downloaded or loaded.

use super::devices::{PUBLISHED, in_words, machine_memory, shared_memory, size, type_name, types, verdict};
use crate::failure::Result;
use crate::hub::Needs;
use crate::terminal::{Output, note};
use crate::{Global, cli, model_folder, report};
use incoder::{AdapterReport, Cancel, Config, Gpu, Kv, MemoryLimits, MemoryPlan, Quantization};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

#[derive(Serialize)]
struct Planned {
    model: String,
    parameters: u64,
    /// Tokens that the KV cache holds: the prompt's, and the new ones of every candidate.
    context_tokens: usize,
    /// What is left of them for the prompt.
    prompt_tokens: usize,
    devices: Vec<OnDevice>,
}

#[derive(Serialize)]
struct OnDevice {
    index: usize,
    name: String,
    /// fp16, q8 or q4.
    weights: &'static str,
    weight_bytes: u64,
    kv_bytes: u64,
    scratch_bytes: u64,
    total_bytes: u64,
    /// The device's memory, where it is known.
    memory_bytes: Option<u64>,
    /// null: the limits allow it, and the memory is not known.
    fits: Option<bool>,
    blockers: Vec<Blocker>,
    /// The most tokens that would fit; null when none do.
    largest_context_tokens: Option<usize>,
    /// The same with weights of the other types.
    others: Vec<InType>,
}

/// What the model takes with weights of one type.
#[derive(Serialize)]
struct InType {
    weights: &'static str,
    weight_bytes: u64,
    total_bytes: u64,
    fits: Option<bool>,
    largest_context_tokens: Option<usize>,
}

#[derive(Serialize)]
struct Blocker {
    what: String,
    need_bytes: u64,
    have_bytes: u64,
}

pub fn run(args: &cli::Plan, global: &Global) -> Result<()> {
    let (model, config) = config(args, global)?;
    let config = config.quantized(args.quantize.map(Quantization::from))?;
    let context_tokens = args.ctx_size.filter(|&size| size > 0).unwrap_or(config.default_context());
    let prompt_tokens = context_tokens.saturating_sub(args.candidates.saturating_mul(args.max_tokens));
    let adapters = pollster::block_on(Gpu::list());
    let machine = machine_memory();
    let on = |(index, adapter)| {
        let memory = args.memory.or_else(|| shared_memory(adapter, machine));
        on_device(index, adapter, memory, &config, context_tokens, args.kv.into())
    };
    let planned = Planned {
        model,
        parameters: config.parameters(),
        context_tokens,
        prompt_tokens,
        devices: adapters.iter().enumerate().map(on).collect(),
    };
    let mut output = Output::new(&Cancel::default());
    if global.json {
        output.exact(&report::line(&planned)?);
    } else {
        output.given(&for_people(&planned, &config, args));
        if adapters.is_empty() {
            note(global.quiet, "no GPU found: install a Vulkan, Metal or DX12 driver, or use the CPU with -d cpu");
        }
    }
    output.finish()
}

/// The model's name and its config.json: of the published models without asking anyone.
fn config(args: &cli::Plan, global: &Global) -> Result<(String, Config)> {
    let Some(model) = &args.model else {
        return Ok(("the demo model".to_owned(), read(model_folder::open(None, Needs::Config, global)?.as_ref())?));
    };
    let name = model.to_string_lossy().into_owned();
    let short = name.strip_prefix("facebook/incoder-").unwrap_or(&name);
    if !Path::new(model).exists()
        && let Some(published) = PUBLISHED.iter().find(|published| published.name.eq_ignore_ascii_case(short))
    {
        return Ok((format!("facebook/incoder-{}", published.name), Config::from_json(published.config)?));
    }
    Ok((name, read(model_folder::open(Some(model), Needs::Config, global)?.as_ref())?))
}

fn read(folder: &dyn incoder::Folder) -> Result<Config> {
    Ok(pollster::block_on(Config::read(folder))?)
}

fn on_device(
    index: usize,
    adapter: &AdapterReport,
    memory_bytes: Option<u64>,
    config: &Config,
    context: usize,
    kv: Kv,
) -> OnDevice {
    let limits = MemoryLimits::from(adapter);
    let plan = MemoryPlan::new(config, context, kv, &limits);
    let in_type = |quantization| {
        let mut config = config.clone();
        config.quantization = quantization;
        let plan = MemoryPlan::new(&config, context, kv, &limits);
        InType {
            weights: type_name(quantization),
            weight_bytes: plan.weights,
            total_bytes: plan.total(),
            fits: verdict(&plan, &limits, memory_bytes),
            largest_context_tokens: MemoryPlan::largest_context(&config, context, kv, &limits, memory_bytes),
        }
    };
    let blocker = |error| match error {
        incoder::Error::Limit { what, need, have } => Some(Blocker { what, need_bytes: need, have_bytes: have }),
        _ => None,
    };
    OnDevice {
        index,
        name: adapter.name.clone(),
        weights: type_name(config.quantization),
        weight_bytes: plan.weights,
        kv_bytes: plan.kv_cache,
        scratch_bytes: plan.scratch,
        total_bytes: plan.total(),
        memory_bytes,
        fits: verdict(&plan, &limits, memory_bytes),
        blockers: plan.blockers(&limits).into_iter().filter_map(blocker).collect(),
        largest_context_tokens: MemoryPlan::largest_context(config, context, kv, &limits, memory_bytes),
        others: types().filter(|&other| other != config.quantization).map(in_type).collect(),
    }
}

fn for_people(planned: &Planned, config: &Config, args: &cli::Plan) -> String {
    let Planned { model, parameters, context_tokens, prompt_tokens, devices } = planned;
    let mut text = format!("{model}: {:.1}M parameters, {} layers\n", *parameters as f64 / 1e6, config.num_layers);
    // Without a GPU the figures are those of the limits that every WebGPU adapter has.
    let plan = MemoryPlan::new(config, *context_tokens, args.kv.into(), &MemoryLimits::default());
    let first = devices.first();
    let weights = first.map_or(plan.weights, |device| device.weight_bytes);
    let kv = first.map_or(plan.kv_cache, |device| device.kv_bytes);
    let _ = writeln!(text, "   weights   {:>8}  {}", size(weights), type_name(config.quantization));
    let _ = writeln!(text, "   KV cache  {:>8}  {context_tokens} tokens, {}", size(kv), args.kv.name());
    let (n, each) = (args.candidates, args.max_tokens);
    let _ = match n {
        1 => writeln!(text, "             room for a prompt of {prompt_tokens} tokens and {each} new ones"),
        _ => writeln!(
            text,
            "             room for a prompt of {prompt_tokens} tokens and {each} new ones in each of {n} candidates"
        ),
    };
    if devices.is_empty() {
        let _ = writeln!(text, "   scratch   {:>8}\n   total     {:>8}", size(plan.scratch), size(plan.total()));
    }
    for device in devices {
        let _ = writeln!(text, "{}: {}", device.index, device.name);
        let _ = writeln!(text, "   scratch   {:>8}", size(device.scratch_bytes));
        let of = device.memory_bytes.map_or(String::new(), |memory| format!(" of {}", size(memory)));
        let _ = writeln!(text, "   total     {:>8}{of}: {}", size(device.total_bytes), in_words(device.fits));
        for Blocker { what, need_bytes, have_bytes } in &device.blockers {
            let _ = writeln!(text, "   {what} needs {need_bytes}, this adapter allows {have_bytes}");
        }
        if device.fits == Some(false) {
            let _ = match device.largest_context_tokens {
                Some(tokens) => writeln!(text, "   a context of {tokens} tokens would fit: -c {tokens}"),
                None => writeln!(text, "   no context fits: this GPU is too small for the model in {}", device.weights),
            };
        }
        for other in &device.others {
            let (total, fits) = (size(other.total_bytes), in_words(other.fits));
            let shorter = match (other.fits, other.largest_context_tokens) {
                (Some(false), Some(tokens)) => format!("; a context of {tokens} tokens would"),
                _ => String::new(),
            };
            let _ = writeln!(text, "   in {:6}    {total:>8}{of}: {fits}{shorter}", other.weights);
        }
    }
    text
}
