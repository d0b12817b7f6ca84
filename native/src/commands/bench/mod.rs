//! `incoder bench`: how fast a model runs, beside what the GPU can do at most.

mod job;
mod table;
mod work;

use super::devices::size;
use crate::failure::{Failure, Result};
use crate::hub::Needs;
use crate::random_model::RandomModel;
use crate::terminal::{Interrupt, Output, Steps, note};
use crate::{Global, cli, engine, model_folder, report};
use incoder::gpu::{AdapterSpeed, ReadRate};
use incoder::{Cancel, Config, Device, Folder, LoadOptions, MemoryLimits, MemoryPlan};
use job::{Bench, Job};
use serde::Serialize;
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

/// What was measured, and on what.
#[derive(Serialize)]
struct Setting {
    model: String,
    parameters: u64,
    /// As they lie on a GPU, in fp16.
    weight_bytes: u64,
    kv: &'static str,
    context_tokens: usize,
    repetitions: usize,
    device: On,
    /// null on the CPU.
    limit: Option<Limit>,
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
    let jobs = jobs(args)?;
    let form = if global.json { cli::Table::Json } else { args.output.unwrap_or(cli::Table::Md) };
    // Nothing here is worth waiting for: Ctrl-C ends it at once, and the rows that were done have been printed.
    let interrupt = Interrupt::install()?;
    let (setting, mut bench) = open(args, &interrupt.cancel, global)?;
    let (jobs, large): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.need() <= setting.context_tokens);
    let too_large =
        |job: &Job| LeftOut { row: job.to_string(), need_tokens: job.need(), have_tokens: setting.context_tokens };
    let left_out: Vec<LeftOut> = large.iter().map(too_large).collect();
    for LeftOut { row, need_tokens, have_tokens } in &left_out {
        note(
            global.quiet,
            &format!("left out: {row} takes {need_tokens} tokens, the context holds {have_tokens} (-c)"),
        );
    }
    if jobs.is_empty() {
        return Err(Failure::usage(format!("nothing fits a context of {} tokens: see -c", setting.context_tokens)));
    }
    let mut output = Output::new(&interrupt.cancel);
    let table = Table::new(form, &setting);
    output.given(&table.head(&setting));
    let bar = Steps::new(jobs.len() * (args.repetitions + 1), global.quiet);
    let mut rows = Vec::new();
    for job in &jobs {
        bar.begin(&job.to_string());
        let mut times = Vec::with_capacity(args.repetitions);
        for repetition in 0..=args.repetitions {
            let time = pollster::block_on(job.time(&mut bench, repetition))?;
            // The first one is the warm-up.
            times.extend((repetition > 0).then_some(time));
            bar.done();
        }
        let new = job.rows(&times, &bench.work, setting.limit.as_ref().map(|limit| limit.read_gb_per_second));
        bar.beside(|| new.iter().for_each(|row| output.given(&table.row(row))));
        rows.extend(new);
        if interrupt.cancel.is_cancelled() {
            // Nobody reads any more.
            break;
        }
    }
    drop(bar);
    if form == cli::Table::Json {
        output.exact(&report::line(&Benchmark { setting, rows, left_out })?);
    }
    output.finish()
}

/// What was asked for, in the order of the rows.
fn jobs(args: &cli::Bench) -> Result<Vec<Job>> {
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
        jobs.extend([Job::Infill, Job::InfillTyped]);
    }
    if jobs.is_empty() {
        return Err(Failure::usage("nothing to measure: -p and -n are 0, and there is no infilling"));
    }
    Ok(jobs)
}

/// Opens the device, measures what it can do while its memory is free, and loads the model.
fn open(args: &cli::Bench, cancel: &Cancel, global: &Global) -> Result<(Setting, Bench)> {
    let folder: Box<dyn Folder> = match args.shape {
        Some(shape) => Box::new(RandomModel::new(shape)),
        None => model_folder::open(args.model.name.as_deref(), Needs::Everything, global)?,
    };
    let model = match (args.shape, &args.model.name) {
        (Some(shape), _) => format!("{}, random weights", shape.name()),
        (_, Some(name)) => name.to_string_lossy().into_owned(),
        _ => "the demo model".to_owned(),
    };
    let config = Config::from_json(&pollster::block_on(folder.text("config.json", 1 << 20))?)?;
    let is_demo = args.shape.is_none() && args.model.name.is_none();
    let device = engine::choose(args.device.as_deref(), is_demo, global.quiet)?;
    let (on, limits, limit) = match &device {
        Device::Gpu(gpu) => {
            let bar = Steps::new(1, global.quiet);
            bar.begin("what the GPU reads at most");
            let limit = Limit::from(pollster::block_on(AdapterSpeed::measure(gpu))?);
            let incoder::AdapterReport { name, backend, kind, driver, .. } = gpu.report().clone();
            (On { name, backend, kind, driver }, gpu.memory_limits(), Some(limit))
        }
        Device::Cpu => (On::cpu(), MemoryLimits::default(), None),
    };
    let options = LoadOptions { context: args.ctx_size, kv: args.kv.into(), warm_up: false };
    let session = engine::load(folder.as_ref(), &device, &options, global)?;
    let plan = MemoryPlan::new(&config, session.capacity(), options.kv, &limits);
    let setting = Setting {
        model,
        parameters: config.parameters(),
        weight_bytes: plan.weights,
        kv: args.kv.name(),
        context_tokens: session.capacity(),
        repetitions: args.repetitions,
        device: on,
        limit,
    };
    let work = Work::new(&config, plan.weights, options.kv);
    Ok((setting, Bench::new(session, work, cancel)?))
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
            dispatch_us: speed.dispatch_us,
            round_trip_us: speed.round_trip_us,
        }
    }
}

impl Setting {
    /// What stands above a table for people, as a list in Markdown.
    fn for_people(&self) -> String {
        let Self { model, parameters, weight_bytes, kv, context_tokens, repetitions, device, limit } = self;
        let (millions, weights) = (*parameters as f64 / 1e6, size(*weight_bytes));
        let mut text = format!(
            "- model: {model}; {millions:.1}M parameters, {weights}; KV cache {kv}, {context_tokens} tokens\n\
             - device: {} ({}, {})\n",
            device.name, device.backend, device.kind
        );
        if let Some(Limit { read_gb_per_second, buffer, texture, dispatch_us, round_trip_us }) = limit {
            text += &format!(
                "- limit: reads {read_gb_per_second:.2} GB/s (textures {:.2} with {} threads a workgroup, buffers {:.2} \
                 with {}); a dispatch {dispatch_us:.1} µs, submit and readback {round_trip_us:.0} µs\n",
                texture.gb_per_second, texture.workgroup_threads, buffer.gb_per_second, buffer.workgroup_threads,
            );
        }
        text + &format!("- medians of {repetitions} repetitions\n\n")
    }
}
