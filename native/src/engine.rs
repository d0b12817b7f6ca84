//! A model on a device, ready to be asked: what every command that computes begins with.

use crate::cli;
use crate::failure::{Failure, NO_GPU, Result};
use crate::hub::Needs;
use crate::terminal::{Interrupt, Loading, note};
use crate::{Global, model_folder, tuning};
use incoder::{Config, Device, Error, Folder, Gpu, GpuOptions, LoadOptions, Session, Tokenizer};

/// tokenizer.json of a vocabulary of 50,000 has 2 MB; anything near this is not one.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
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
}

/// Opens the model and the device. Files are looked at first, so that a wrong folder costs no time on the GPU.
pub fn open(model: &cli::Model, device: &cli::Device, global: &Global) -> Result<Engine> {
    let folder = model_folder::open(model.name.as_deref(), Needs::Everything, global)?;
    let tokenizer = tokenizer(folder.as_ref())?;
    let config = pollster::block_on(Config::read(folder.as_ref()))?;
    if tokenizer.vocab_size() > config.vocab_size {
        let (ids, rows) = (tokenizer.vocab_size(), config.vocab_size);
        return Err(Failure::model(format!(
            "tokenizer.json has {ids} ids, config.json says vocab_size {rows}: they are not of one model"
        )));
    }
    let is_demo = model.name.is_none();
    let on = choose(device.select.as_deref(), is_demo, global.quiet)?;
    let options = LoadOptions { context: device.ctx_size, kv: device.kv.into(), warm_up: false };
    let name = match &on {
        Device::Gpu(gpu) => format!("{} ({})", gpu.report().name, gpu.report().backend),
        _ => "the CPU".to_owned(),
    };
    let which = model.name.as_ref().map_or("the demo model".to_owned(), |name| name.display().to_string());
    tracing::info!("{which}, {:.1}M parameters, on {name}", config.parameters() as f64 / 1e6);
    Ok(Engine { session: load(Origin::Folder(folder.as_ref()), &on, &options, global)?, tokenizer })
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
        let on = match on {
            Device::Gpu(gpu) => {
                let config = match origin {
                    Origin::Folder(folder) => Config::read(folder).await?,
                    Origin::Random(config) => config.clone(),
                };
                Device::Gpu(tuning::tuned(gpu, &config).await?)
            }
            other => other.clone(),
        };
        let loaded = match origin {
            Origin::Folder(folder) => Session::load(folder, &on, options, &mut on_progress).await,
            Origin::Random(config) => Session::load_random(config, SEED, &on, options, &mut on_progress).await,
        };
        Ok(loaded?)
    })
}

/// The tokenizer alone: for the commands that need no weights.
pub fn open_tokenizer(model: &cli::Model, global: &Global) -> Result<Tokenizer> {
    let _interrupt = Interrupt::install()?;
    tokenizer(model_folder::open(model.name.as_deref(), Needs::Tokenizer, global)?.as_ref())
}

fn tokenizer(folder: &dyn Folder) -> Result<Tokenizer> {
    Ok(Tokenizer::from_json(&pollster::block_on(folder.text("tokenizer.json", MAX_TOKENIZER_BYTES))?)?)
}

/// The device that was asked for, or the best GPU. With no GPU at all the demo model still runs, on the CPU; a real
/// model would take minutes a token there, so that has to be asked for.
pub fn choose(select: Option<&str>, is_demo: bool, quiet: bool) -> Result<Device> {
    if select.is_some_and(|name| name.eq_ignore_ascii_case("cpu")) {
        note(quiet, "computing on the CPU with the plain reference: right, and slow");
        return Ok(Device::Cpu);
    }
    let options = GpuOptions { adapter: select.map(String::from), ..GpuOptions::default() };
    match pollster::block_on(Gpu::open(&options)) {
        Ok(gpu) => Ok(Device::Gpu(gpu)),
        Err(Error::NoAdapter { .. }) if select.is_none() && is_demo => {
            note(quiet, "no GPU found: computing on the CPU with the plain reference, which is slow");
            Ok(Device::Cpu)
        }
        Err(Error::NoAdapter { reason }) if select.is_some() => {
            let message = format!("no such GPU: {reason}; `incoder devices` lists them, and `-d cpu` is always there");
            Err(Failure { code: NO_GPU, message })
        }
        Err(error) => Err(error.into()),
    }
}
