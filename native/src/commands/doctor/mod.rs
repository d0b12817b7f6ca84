//! `incoder doctor`: whether a GPU computes right, and what to switch off where it does not.

mod endurance;
mod greedy;
mod kernels;
mod speed;
mod text;

use crate::engine;
use crate::failure::{Failure, Result};
use crate::hub::Needs;
use crate::terminal::{Interrupt, Output, Steps};
use crate::{Global, cli, model_folder, report, tuning};
use incoder::gpu::AdapterSpeed;
use incoder::{AdapterReport, Config, Device, Disabled, Gpu};
use serde::Serialize;

/// Everything that `--json` prints.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    adapter: AdapterReport,
    /// What INCODER_DISABLE switches off.
    disabled: String,
    /// Whose sizes the kernels are checked in.
    model: String,
    /// What was found at the first load on this driver.
    warning: Option<String>,
    read_gb_per_second: f64,
    dispatch_us: f64,
    round_trip_us: f64,
    kernels: Vec<kernels::Checked>,
    greedy: Vec<greedy::Compared>,
    speed: Vec<speed::Speed>,
    /// null with --quick.
    endurance: Option<endurance::Endurance>,
    verdict: Verdict,
}

/// What it all comes to.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Verdict {
    right: bool,
    /// What is wrong, a line each.
    wrong: Vec<String>,
    /// What INCODER_DISABLE has to name so that the kernels are right; null where nothing is wrong, or nothing helps.
    avoided_by: Option<String>,
}

/// A way of using the GPU that is checked.
struct Way {
    name: String,
    gpu: Gpu,
}

pub fn run(args: &cli::Doctor, global: &Global) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let mut output = Output::new(&interrupt.cancel);
    let mut say = |text: String| {
        if !global.json {
            output.given(&text);
        }
    };
    let (model, config) = sizes(args, global)?;
    let gpu = open(args, global)?;
    let tuned = pollster::block_on(tuning::kept(&gpu, &config))?;
    let ways = ways(&gpu, &tuned.gpu);
    let disabled = gpu.disabled().to_string();
    say(text::adapter(gpu.report(), &disabled));
    let steps = 2 * ways.len() + 2 * ways.len() + 3 + usize::from(!args.quick);
    let bar = Steps::new(steps, global.quiet || global.json);
    bar.begin("what the GPU reads at most");
    let limit = pollster::block_on(AdapterSpeed::measure(&gpu))?;
    bar.done();
    bar.beside(|| say(text::limit(&limit)));

    let mut checked = Vec::new();
    for (way, kv) in with_both_caches(&ways) {
        bar.begin(&format!("the kernels {}", way.name));
        checked.push(kernels::check(way, &config, kv)?);
        bar.done();
    }
    bar.beside(|| say(text::kernels(&model, &checked)));
    let mut compared = Vec::new();
    for (way, kv) in with_both_caches(&ways) {
        bar.begin(&format!("greedy tokens {}", way.name));
        compared.push(greedy::compare(way, kv)?);
        bar.done();
    }
    bar.beside(|| say(text::greedy(&compared)));
    let mut speeds = Vec::new();
    for model in speed::MODELS {
        bar.begin("prefill and decoding");
        speeds.push(speed::measure(&tuned.gpu, model)?);
        bar.done();
    }
    bar.beside(|| say(text::speed(&speeds)));
    let endurance = if args.quick {
        None
    } else {
        bar.begin(&format!("{} seconds at full load", args.seconds));
        Some(endurance::run(&tuned.gpu, args.seconds as u64)?)
    };
    drop(bar);
    endurance.iter().for_each(|endurance| say(text::endurance(endurance)));

    let mut verdict = Verdict::of(&checked, &compared, endurance.as_ref(), tuned.warning.as_deref());
    if !verdict.right {
        verdict.avoided_by = avoided_by(&gpu, &config, &ways, &checked, &compared)?.map(|paths| paths.to_string());
    }
    say(text::verdict(&verdict));
    let result = verdict.result();
    if global.json {
        let AdapterSpeed { dispatch_us, round_trip_us, .. } = limit;
        output.exact(&report::line(&Report {
            version: env!("CARGO_PKG_VERSION"),
            adapter: gpu.report().clone(),
            disabled,
            model,
            warning: tuned.warning,
            read_gb_per_second: limit.read_gb_per_second(),
            dispatch_us,
            round_trip_us,
            kernels: checked,
            greedy: compared,
            speed: speeds,
            endurance,
            verdict,
        })?);
    }
    output.finish()?;
    result
}

/// What the kernels are checked for: a name, and the sizes.
fn sizes(args: &cli::Doctor, global: &Global) -> Result<(String, Config)> {
    if let Some(shape) = args.shape {
        return Ok((shape.name().to_owned(), shape.config()?));
    }
    let name = args.model.name();
    let folder = model_folder::open(name.as_deref(), Needs::Config, global)?;
    let config = pollster::block_on(Config::read(folder.as_ref()))?;
    Ok((name.map_or("the demo model".to_owned(), |name| name.to_string_lossy().into_owned()), config))
}

fn open(args: &cli::Doctor, global: &Global) -> Result<Gpu> {
    let given = args.device.clone().or_else(|| std::env::var("INCODER_DEVICE").ok().filter(|name| !name.is_empty()));
    match engine::choose(given.as_deref(), false, global.quiet)? {
        Device::Gpu(gpu) => Ok(gpu),
        Device::Cpu => Err(Failure::usage("the CPU is what a GPU is checked against: name a GPU with -d")),
    }
}

/// With everything that the adapter has, without what others may lack, and as models are loaded where that is something else.
fn ways(gpu: &Gpu, loaded: &Gpu) -> Vec<Way> {
    let mut ways = vec![Way { name: "as models are loaded".to_owned(), gpu: loaded.clone() }];
    if loaded.disabled() != gpu.disabled() {
        ways.push(Way { name: "with everything".to_owned(), gpu: gpu.with_tuning(loaded.tuning()) });
    }
    if loaded.uses_subgroups() {
        let disabled = Disabled { subgroups: true, ..Disabled::default() };
        ways.push(Way { name: "without subgroups".to_owned(), gpu: loaded.without(disabled) });
    }
    ways
}

fn with_both_caches(ways: &[Way]) -> impl Iterator<Item = (&Way, cli::Kv)> {
    ways.iter().flat_map(|way| [cli::Kv::F16, cli::Kv::F32].map(|kv| (way, kv)))
}

/// The paths without which the kernels are right or, where they are, the demo model's tokens.
fn avoided_by(
    gpu: &Gpu,
    config: &Config,
    ways: &[Way],
    checked: &[kernels::Checked],
    compared: &[greedy::Compared],
) -> Result<Option<Disabled>> {
    if checked.iter().any(|one| !one.wrong().is_empty()) {
        return Ok(pollster::block_on(gpu.remedy(config))?);
    }
    let is_right = |way: &&Way| compared.iter().all(|one| one.way != way.name || one.wrong().is_none());
    let disabled = ways.iter().find(is_right).map(|way| way.gpu.disabled());
    Ok(disabled.filter(|disabled| *disabled != gpu.disabled()))
}

impl Verdict {
    fn of(
        kernels: &[kernels::Checked],
        greedy: &[greedy::Compared],
        endurance: Option<&endurance::Endurance>,
        warning: Option<&str>,
    ) -> Self {
        let mut wrong: Vec<String> = warning.map(str::to_owned).into_iter().collect();
        wrong.extend(kernels.iter().flat_map(kernels::Checked::wrong));
        wrong.extend(greedy.iter().filter_map(greedy::Compared::wrong));
        wrong.extend(endurance.and_then(endurance::Endurance::wrong));
        Self { right: wrong.is_empty(), wrong, avoided_by: None }
    }

    /// How the program ends.
    fn result(&self) -> Result<()> {
        if self.right {
            return Ok(());
        }
        Err(Failure::runtime(match &self.avoided_by {
            Some(switch) => format!("this GPU computes wrong values; INCODER_DISABLE={switch} avoids them"),
            None => "this GPU computes wrong values, and no switch avoids them: use the CPU (-d cpu)".to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests;
