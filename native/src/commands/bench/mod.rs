//! `incoder bench`: how fast a model runs, beside what the GPU can do at most.

mod job;
mod kernels;
mod profile;
mod shape;
mod table;
mod work;

use super::devices::size;
use crate::engine::{self, Origin};
use crate::failure::{Failure, Result};
use crate::hub::Needs;
use crate::terminal::{Interrupt, Output, Steps, note};
use crate::{Global, cli, model_folder, report};
use clap::ValueEnum as _;
use incoder::gpu::{AdapterSpeed, ReadRate};
use incoder::{Cancel, Device, LoadOptions, MemoryLimits, MemoryPlan, Quantization, Session};
use job::{Bench, Job};
use profile::Profile;
use serde::Serialize;
use std::fmt::Display;
use table::{Row, Table};
use work::Work;

/// Everything that `-o json` prints.
#[derive(Serialize)]
struct Benchmark {
    #[serde(flatten)]
    setting: Setting,
    rows: Vec<Row>,
    left_out: Vec<LeftOut>,
}

/// Something whose figures are rows of the table. Its name is the first row's.
trait Measurement: Display {
    /// Tokens of context that it takes.
    fn need(&self) -> usize;

    /// Does it once for warming up and then `repetitions` times; `limit` in GB/s. `done` is told of each time.
    fn rows(
        &self,
        bench: &mut Bench,
        repetitions: usize,
        limit: Option<f64>,
        done: &mut dyn FnMut(),
    ) -> Result<Vec<Row>>;
}

/// What `once` gives, `repetitions` times after one for warming up, which is number 0 and does not count.
fn repeated<T>(repetitions: usize, done: &mut dyn FnMut(), mut once: impl FnMut(usize) -> Result<T>) -> Result<Vec<T>> {
    once(0)?;
    done();
    let counted = (1..=repetitions).map(|repetition| once(repetition).inspect(|_| done()));
    counted.collect()
}

/// What was measured, and on what.
#[derive(Serialize)]
struct Setting {
    model: String,
    parameters: u64,
    /// As they lie on a GPU.
    weight_bytes: u64,
    /// Of them, those of the head.
    #[serde(skip)]
    head_bytes: u64,
    weights: &'static str,
    kv: &'static str,
    context_tokens: usize,
    repetitions: usize,
    device: On,
    /// null on the CPU.
    limit: Option<Limit>,
    /// The largest difference of a logit from the CPU reference's, of the largest one, where they were compared.
    reference_error: Option<f64>,
}

#[derive(Serialize)]
struct On {
    name: String,
    backend: String,
    #[serde(rename = "type")]
    kind: String,
    driver: String,
}

/// What the GPU does at best, measured in the same run.
#[derive(Serialize)]
struct Limit {
    /// The better of the two ways to read.
    read_gb_per_second: f64,
    buffer: ReadRate,
    texture: ReadRate,
    storage_texture: Option<ReadRate>,
    dispatch_us: f64,
    round_trip_us: f64,
}

/// A row that does not fit.
#[derive(Serialize)]
struct LeftOut {
    row: String,
    need_tokens: usize,
    have_tokens: usize,
}

pub fn run(args: &cli::Bench, global: &Global) -> Result<()> {
    let form = if global.json { cli::Table::Json } else { args.output.unwrap_or(cli::Table::Md) };
    let timed = if args.profile || args.kernels { Vec::new() } else { jobs(args)? };
    // Nothing here is worth waiting for: Ctrl-C ends it at once, and the rows that were done have been printed.
    let interrupt = Interrupt::install()?;
    let mut output = Output::new(&interrupt.cancel);
    if args.kernels {
        let shapes = args.shape.map_or_else(|| cli::Shape::value_variants().to_vec(), |shape| vec![shape]);
        for shape in shapes {
            let (setting, bench) = kernels::open(args, shape, &interrupt.cancel, global)?;
            let steps = kernels::steps(&bench);
            measure(steps, setting, bench, (args, form, global), &mut output)?;
        }
    } else {
        let (setting, bench) = open(args, &interrupt.cancel, global)?;
        let asked = if args.profile { profiles(args, &bench) } else { timed };
        measure(asked, setting, bench, (args, form, global), &mut output)?;
    }
    output.finish()
}

/// Measures what fits, and prints it row by row.
fn measure(
    asked: Vec<Box<dyn Measurement>>,
    setting: Setting,
    mut bench: Bench,
    (args, form, global): (&cli::Bench, cli::Table, &Global),
    output: &mut Output,
) -> Result<()> {
    let (asked, large): (Vec<_>, Vec<_>) = asked.into_iter().partition(|one| one.need() <= setting.context_tokens);
    let have_tokens = setting.context_tokens;
    let too_large = large.iter().map(|one| LeftOut { row: one.to_string(), need_tokens: one.need(), have_tokens });
    let left_out: Vec<LeftOut> = too_large.collect();
    for LeftOut { row, need_tokens, have_tokens } in &left_out {
        note(
            global.quiet,
            &format!("left out: {row} takes {need_tokens} tokens, the context holds {have_tokens} (-c)"),
        );
    }
    if asked.is_empty() {
        return Err(Failure::usage(format!("nothing fits a context of {have_tokens} tokens: see -c")));
    }
    let limit = setting.limit.as_ref().map(|limit| limit.read_gb_per_second);
    let table = Table::new(form, &setting, args.profile);
    output.given(&table.head(&setting));
    let bar = Steps::new(asked.len() * (args.repetitions + 1), global.quiet);
    let mut rows = Vec::new();
    for one in &asked {
        bar.begin(&one.to_string());
        let new = one.rows(&mut bench, args.repetitions, limit, &mut || bar.done())?;
        bar.beside(|| new.iter().for_each(|row| output.given(&table.row(row))));
        rows.extend(new);
        if output.is_cancelled() {
            break;
        }
    }
    drop(bar);
    match form {
        cli::Table::Json => output.exact(&report::line(&Benchmark { setting, rows, left_out })?),
        cli::Table::Md if args.kernels => output.given("\n"),
        _ => {}
    }
    Ok(())
}

/// A step that decodes after each depth, and one that prefills.
fn profiles(args: &cli::Bench, bench: &Bench) -> Vec<Box<dyn Measurement>> {
    let decode = args.n_depth.iter().map(|&depth| Profile { depth, tokens: 1 });
    let prompts = args.n_prompt.iter().filter(|&&prompt| prompt > 0);
    let prefill = prompts.map(|&prompt| Profile { depth: 0, tokens: prompt.min(bench.largest_step()) });
    decode.chain(prefill).map(|one| Box::new(one) as Box<dyn Measurement>).collect()
}

/// What was asked for, in the order of the rows.
fn jobs(args: &cli::Bench) -> Result<Vec<Box<dyn Measurement>>> {
    let some = |counts: &[usize]| counts.iter().copied().filter(|&n| n > 0).collect::<Vec<_>>();
    let (prompts, news) = (some(&args.n_prompt), some(&args.n_gen));
    let mut jobs: Vec<Job> = prompts.iter().map(|&prompt| Job::Prompt { prompt }).collect();
    for &new in &news {
        jobs.extend(args.n_depth.iter().map(|&depth| Job::Decode { depth, new }));
    }
    match args.pg {
        Some(Some((prompt, new))) => jobs.push(Job::PromptAndDecode { prompt, new }),
        Some(None) => {
            for &prompt in &prompts {
                jobs.extend(news.iter().map(|&new| Job::PromptAndDecode { prompt, new }));
            }
        }
        None => {}
    }
    if !args.no_infill {
        jobs.extend([Job::Infill, Job::InfillTyped, Job::InfillBegun, Job::InfillLine]);
    }
    if jobs.is_empty() {
        return Err(Failure::usage("nothing to measure: -p and -n are 0, and there is no infilling"));
    }
    Ok(jobs.into_iter().map(|job| Box::new(job) as Box<dyn Measurement>).collect())
}

/// Opens the device, measures what it can do while its memory is free, and loads the model.
fn open(args: &cli::Bench, cancel: &Cancel, global: &Global) -> Result<(Setting, Bench)> {
    let (context, quantize) = (args.ctx_size.filter(|&size| size > 0), args.quantize.map(Quantization::from));
    let options = LoadOptions { context, kv: args.kv.into(), quantize, ..Default::default() };
    let (setting, session) = if let Some(shape) = args.shape {
        let (model, config) = (format!("{}, random weights", shape.name()), shape.config()?);
        load(args, model, Origin::Random(&config), &choose(args, false, global)?, &options, global)?
    } else {
        let name = args.model.name();
        let folder = model_folder::open(name.as_deref(), Needs::Everything, global)?;
        let name = name.map(|name| name.to_string_lossy().into_owned());
        let device = choose(args, name.is_none(), global)?;
        let model = name.unwrap_or_else(|| "the demo model".to_owned());
        load(args, model, Origin::Folder(folder.as_ref()), &device, &options, global)?
    };
    let config = session.config().clone();
    let work = Work::new(&config, [setting.weight_bytes, setting.head_bytes], options.kv, session.prefill_chunk());
    Ok((setting, Bench::new(session, work, cancel)?))
}

/// The device asked for. Kernels are a GPU's.
fn choose(args: &cli::Bench, is_demo: bool, global: &Global) -> Result<Device> {
    let cpu = args.n_gpu_layers.filter(|on_gpu| !on_gpu).map(|_| "cpu");
    let device = engine::choose(cpu.or(args.device.as_deref()), is_demo, global.quiet)?;
    if matches!(device, Device::Cpu) && (args.profile || args.kernels) {
        return Err(Failure::usage("--profile and --kernels time a GPU's kernels: name one with --device"));
    }
    Ok(device)
}

fn load(
    args: &cli::Bench,
    model: String,
    origin: Origin<'_>,
    device: &Device,
    options: &LoadOptions,
    global: &Global,
) -> Result<(Setting, Session)> {
    let (on, limits, limit) = match device {
        Device::Gpu(gpu) => {
            let bar = Steps::new(1, global.quiet);
            bar.begin("what the GPU reads at most");
            let limit = Limit::from(pollster::block_on(AdapterSpeed::measure(gpu))?);
            let incoder::AdapterReport { name, backend, kind, driver, .. } = gpu.report().clone();
            (On { name, backend, kind, driver }, gpu.memory_limits(), Some(limit))
        }
        Device::Cpu => (On::cpu(), MemoryLimits::default(), None),
    };
    let session = engine::load(origin, device, options, global)?;
    let config = session.config();
    let plan = MemoryPlan::new(config, session.capacity(), options.kv, &limits);
    let setting = Setting {
        model,
        parameters: config.parameters(),
        weight_bytes: plan.weights,
        head_bytes: plan.head,
        weights: config.quantization.map_or("fp16", Quantization::name),
        kv: args.kv.name(),
        context_tokens: session.capacity(),
        repetitions: args.repetitions,
        device: on,
        limit,
        reference_error: None,
    };
    Ok((setting, session))
}

impl On {
    fn cpu() -> Self {
        let name = "CPU, the plain reference".to_owned();
        Self { name, backend: "none".to_owned(), kind: "cpu".to_owned(), driver: String::new() }
    }
}

impl From<AdapterSpeed> for Limit {
    fn from(speed: AdapterSpeed) -> Self {
        Self {
            read_gb_per_second: speed.read_gb_per_second(),
            buffer: speed.buffer,
            texture: speed.texture,
            storage_texture: speed.storage_texture,
            dispatch_us: speed.dispatch_us,
            round_trip_us: speed.round_trip_us,
        }
    }
}

impl Setting {
    /// What stands above a table for people, as a list in Markdown.
    fn for_people(&self) -> String {
        let Self {
            model, parameters, weights, kv, context_tokens, repetitions, device, limit, reference_error, ..
        } = self;
        let (millions, bytes) = (*parameters as f64 / 1e6, size(self.weight_bytes));
        let mut text = format!(
            "- model: {model}; {millions:.1}M parameters, {bytes} in {weights}; KV cache {kv}, {context_tokens} tokens\n\
             - device: {} ({}, {})\n",
            device.name, device.backend, device.kind
        );
        if let Some(limit) = limit {
            let ways = [
                ("storage textures", limit.storage_texture),
                ("textures", Some(limit.texture)),
                ("buffers", Some(limit.buffer)),
            ];
            let way = |(name, rate): (&str, Option<ReadRate>)| {
                rate.map(|rate| format!("{name} {:.2} with {} threads", rate.gb_per_second, rate.workgroup_threads))
            };
            let ways: Vec<String> = ways.into_iter().filter_map(way).collect();
            let Limit { read_gb_per_second, dispatch_us, round_trip_us, .. } = limit;
            text += &format!(
                "- limit: reads {read_gb_per_second:.2} GB/s ({} a workgroup); a dispatch {dispatch_us:.1} µs, submit \
                 and readback {round_trip_us:.0} µs\n",
                ways.join(", "),
            );
        }
        if let Some(error) = reference_error {
            text += &format!("- logits differ from the reference's by {error:.1e} of the largest at most\n");
        }
        text + &format!("- medians of {repetitions} repetitions\n\n")
    }
}
