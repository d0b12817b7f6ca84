//! A model on a device, ready to be asked: what every command that computes begins with.

use crate::cli;
use crate::failure::{Failure, MODEL, NO_GPU, Result};
use crate::hub::{self, Needs};
use crate::terminal::{Interrupt, Loading, note};
use crate::{Global, fastest, model_folder, tuning};
use incoder::{
    Config, Device, Disabled, Error, Folder, Gpu, GpuOptions, LoadOptions, MemoryPlan, Quantization, Session, Tokenizer,
};
use std::ffi::{OsStr, OsString};

/// tokenizer.json of a vocabulary of 50,000 has 2 MB; anything near this is not one.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// A model that one thread computes in reasonable time: without a GPU it is not refused.
const SMALL_PARAMETERS: u64 = 300_000_000;
/// Random weights are the same every time.
const SEED: u32 = 1;

/// What a model is loaded from.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    Folder(&'a dyn Folder),
    /// Random weights in these sizes.
    Random(&'a Config),
}

pub struct Engine {
    pub session: Session,
    pub tokenizer: Tokenizer,
    /// What it runs on, for people.
    pub device: String,
}

/// A model of which everything is known but its weights: what is wrong with the input is said before these are loaded.
pub struct Prepared<'a> {
    pub tokenizer: Tokenizer,
    pub config: Config,
    folder: Box<dyn Folder>,
    name: Option<OsString>,
    device: &'a cli::Device,
}

/// Opens the model: its config and its tokenizer. One of the hub is downloaded where it is not in the cache.
pub fn prepare<'a>(model: &cli::Model, device: &'a cli::Device, global: &Global) -> Result<Prepared<'a>> {
    let name = model.name();
    let folder = match device.quantize {
        Some(quantize) => model_folder::open_quantized(name.as_deref(), quantize.into(), global)?,
        None => model_folder::open(name.as_deref(), Needs::Everything, global)?,
    };
    let tokenizer = tokenizer(folder.as_ref())?;
    let config = pollster::block_on(Config::read(folder.as_ref()))?;
    if tokenizer.vocab_size() > config.vocab_size {
        let (ids, rows) = (tokenizer.vocab_size(), config.vocab_size);
        return Err(Failure::model(format!(
            "tokenizer.json has {ids} ids, config.json says vocab_size {rows}: they are not of one model"
        )));
    }
    Ok(Prepared { tokenizer, config, folder, name, device })
}

impl Prepared<'_> {
    /// Tokens that the context will hold.
    pub fn capacity(&self) -> usize {
        self.device.context().unwrap_or(self.config.default_context())
    }

    /// Loads the weights onto the device.
    pub fn load(self, global: &Global) -> Result<Engine> {
        let Self { tokenizer, config, folder, name, device } = self;
        let select = device.select();
        let mut on = choose(select.as_deref(), config.parameters() <= SMALL_PARAMETERS, global.quiet)?;
        if let (None, Device::Gpu(gpu)) = (&select, &on)
            && gpu.report().kind == "software"
        {
            on = fastest::of(gpu.clone(), &config);
        }
        let (context, quantize) = (device.context(), device.quantize.map(Quantization::from));
        let options = LoadOptions { context, kv: device.kv.into(), quantize, ..Default::default() };
        let where_to = match &on {
            Device::Gpu(gpu) => format!("{} ({})", gpu.report().name, gpu.report().backend),
            _ => "the CPU".to_owned(),
        };
        let which = name.as_ref().map_or("the demo model".to_owned(), |name| name.display().to_string());
        tracing::info!("{which}, {:.1}M parameters, on {where_to}", config.parameters() as f64 / 1e6);
        let session = load(Origin::Folder(folder.as_ref()), &on, &options, global);
        let session = session.map_err(|failure| about_cache(failure, name.as_deref()))?;
        Ok(Engine { session, tokenizer, device: where_to })
    }
}

/// What is wrong with a model of the cache may be its download.
fn about_cache(failure: Failure, name: Option<&OsStr>) -> Failure {
    match name.map(hub::name::classify) {
        Some(Ok(hub::name::Named::Hub(model))) if failure.code == MODEL => {
            let Failure { code, message } = failure;
            let advice = format!("`incoder models verify {}` tells whether its download is damaged", model.id());
            Failure { code, message: format!("{message}; {advice}") }
        }
        _ => failure,
    }
}

/// Where a device cannot hold the context that was asked for, a shorter one may fit.
fn about_context(error: incoder::Error, config: &Config, options: &LoadOptions, on: &Device) -> Failure {
    let asked = options.context.unwrap_or(config.default_context());
    let fits = match (&error, on) {
        (Error::Limit { need, have, .. }, Device::Gpu(gpu)) => {
            // What has a limit grows with the context, or it does not and then this finds none.
            let share = (asked as u128 * u128::from(*have) / u128::from(*need).max(1)) as usize;
            MemoryPlan::largest_context(config, share.min(asked), options.kv, &gpu.memory_limits(), None)
        }
        _ => None,
    };
    let Failure { code, message } = error.into();
    match fits.filter(|&fits| fits < asked) {
        Some(fits) => Failure { code, message: format!("{message}; a context of {fits} tokens would fit: -c {fits}") },
        None => Failure { code, message },
    }
}

/// Loads a model, under a bar when it takes a while.
pub fn load(origin: Origin<'_>, on: &Device, options: &LoadOptions, global: &Global) -> Result<Session> {
    let mut bar = Loading::new(global.quiet);
    let mut on_progress = |progress| {
        if let incoder::Progress::Upload { done, total } = progress {
            bar.update(done, total);
        }
    };
    pollster::block_on(async {
        let config = match origin {
            Origin::Folder(folder) => Config::read(folder).await?,
            Origin::Random(config) => config.clone(),
        };
        let on = match on {
            Device::Gpu(gpu) => Device::Gpu(tuning::tuned(gpu, &config, global.quiet).await?),
            other => other.clone(),
        };
        let loaded = match origin {
            Origin::Folder(folder) => Session::load(folder, &on, options, &mut on_progress).await,
            Origin::Random(config) => Session::load_random(config, SEED, &on, options, &mut on_progress).await,
        };
        loaded.map_err(|error| about_context(error, &config, options, &on))
    })
}

/// The tokenizer alone: for the commands that need no weights.
pub fn open_tokenizer(model: &cli::Model, global: &Global) -> Result<Tokenizer> {
    let _interrupt = Interrupt::install()?;
    tokenizer(model_folder::open(model.name().as_deref(), Needs::Tokenizer, global)?.as_ref())
}

fn tokenizer(folder: &dyn Folder) -> Result<Tokenizer> {
    Ok(Tokenizer::from_json(&pollster::block_on(folder.text("tokenizer.json", MAX_TOKENIZER_BYTES))?)?)
}

/// The device that was asked for, or the best GPU. With no GPU at all a small model still runs, on the CPU; a large one would
/// take long there, so that has to be asked for.
pub fn choose(select: Option<&str>, is_small: bool, quiet: bool) -> Result<Device> {
    if select.is_some_and(|name| name.eq_ignore_ascii_case("cpu")) {
        tracing::info!("computing on the CPU, in one thread");
        return Ok(Device::Cpu);
    }
    let options = GpuOptions { adapter: select.map(String::from), disabled: disabled()?, ..GpuOptions::default() };
    match pollster::block_on(Gpu::open(&options)) {
        Ok(gpu) => Ok(Device::Gpu(gpu)),
        Err(Error::NoAdapter { .. }) if select.is_none() && is_small => {
            note(quiet, "no GPU found: computing on the CPU");
            Ok(Device::Cpu)
        }
        Err(Error::NoAdapter { .. }) if select.is_some() => Err(no_such_gpu(select.unwrap_or_default())),
        Err(error) => Err(error.into()),
    }
}

/// Optional paths of the engine that `INCODER_DISABLE` switches off.
fn disabled() -> Result<Disabled> {
    let names = std::env::var("INCODER_DISABLE").unwrap_or_default();
    names.parse().map_err(|error| Failure::usage(format!("INCODER_DISABLE: {error}")))
}

fn no_such_gpu(name: &str) -> Failure {
    let found: Vec<String> = pollster::block_on(Gpu::list()).into_iter().map(|report| report.name).collect();
    let number = |(i, name): (usize, &String)| format!("GPU {i} is {name}");
    let have = match &found[..] {
        [] => "there is none here".to_owned(),
        found => found.iter().enumerate().map(number).collect::<Vec<_>>().join(", "),
    };
    let message = format!("no GPU {name:?}: {have}; `incoder devices` lists them, and `-d cpu` is always there");
    Failure { code: NO_GPU, message }
}
