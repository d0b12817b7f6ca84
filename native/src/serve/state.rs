//! What all handlers share.

use super::completion::{Completion, Document, Options, Running};
use super::metrics::Metrics;
use super::problem::Problem;
use super::queue::Queue;
use super::request::Fields;
use crate::cli::UNTIL_THE_END;
use incoder::{Config, Sampling, Tokenizer};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::SetOnce;

/// Most completions of one prompt.
pub const MAX_CANDIDATES: usize = 8;
/// Most completions of one call.
const MAX_COMPLETIONS: usize = 64;

/// A server: its model, once it is loaded, and the way to it.
#[derive(Debug)]
pub struct Server {
    pub queue: Queue,
    pub metrics: Metrics,
    pub model: SetOnce<Model>,
    pub defaults: Defaults,
    /// What clients call the model.
    pub name: String,
    /// Seconds since 1970 when the server was started.
    pub started: u64,
}

/// The model that is loaded.
#[derive(Debug)]
pub struct Model {
    pub tokenizer: Arc<Tokenizer>,
    pub config: Config,
    /// Tokens that its context holds.
    pub context: usize,
    /// Contexts that are kept.
    pub slots: usize,
    pub device: String,
}

/// What requests do not say.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub sampling: Sampling,
    /// Left out, every request has its own.
    pub seed: Option<u64>,
    pub max_tokens: usize,
}

impl Server {
    pub fn new(name: String, defaults: Defaults) -> Self {
        Self {
            queue: Queue::default(),
            metrics: Metrics::default(),
            model: SetOnce::new(),
            defaults,
            name,
            started: unix_time().as_secs(),
        }
    }

    /// The name for an answer: the client's own, where it gave one.
    pub fn name_for(&self, fields: &Fields) -> Result<String, Problem> {
        Ok(fields.text("model")?.filter(|name| !name.is_empty()).unwrap_or_else(|| self.name.clone()))
    }

    pub fn submit(&self, document: Document, options: &Options, client: Option<String>) -> Running {
        self.queue.submit(Completion { document, options: options.clone(), client })
    }

    /// The options that dialects have in common.
    ///
    /// What the engine does not know is ignored: `frequency_penalty`, `presence_penalty`, `logit_bias` and the like.
    pub fn options(&self, fields: &Fields, stop: &str) -> Result<Options, Problem> {
        let Defaults { sampling, seed, max_tokens } = self.defaults;
        let real = |name: &str, least: f64, most: f64| -> Result<Option<f64>, Problem> {
            Ok(fields.real(name)?.map(|value| value.clamp(least, most)))
        };
        let penalty = match real("repeat_penalty", 0.0, 100.0)? {
            Some(penalty) => Some(penalty),
            None => real("repetition_penalty", 0.0, 100.0)?,
        };
        let sampling = Sampling {
            temperature: real("temperature", 0.0, 100.0)?.unwrap_or(sampling.temperature),
            top_k: fields.whole(&["top_k"])?.map_or(sampling.top_k, |k| usize::try_from(k).unwrap_or(0)),
            top_p: real("top_p", f64::MIN_POSITIVE, 1.0)?.unwrap_or(sampling.top_p),
            min_p: real("min_p", 0.0, 1.0)?.unwrap_or(sampling.min_p),
            // 0 is no penalty, and so is 1.
            repetition_penalty: penalty.filter(|&p| p > 0.0).unwrap_or(sampling.repetition_penalty),
            // A negative number means all of them.
            repeat_last_n: fields
                .whole(&["repeat_last_n"])?
                .map_or(sampling.repeat_last_n, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            // A negative one asks for a new one.
            seed: match fields.whole(&["seed", "random_seed"])? {
                Some(seed) if seed >= 0 => seed.unsigned_abs(),
                _ => seed.unwrap_or_else(new_seed),
            },
        };
        let names = ["n_predict", "max_tokens", "max_completion_tokens", "num_predict", "max_new_tokens"];
        let max_tokens = fields.whole(&names)?.map_or(max_tokens, |n| {
            // A negative number asks for as many as there is room for.
            usize::try_from(n).map_or(UNTIL_THE_END, |n| n.min(UNTIL_THE_END))
        });
        Ok(Options {
            max_tokens,
            sampling,
            stop: fields.stop_texts(stop)?,
            candidates: 1,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            single_line: false,
            min_indentation: 0,
            time_limit: None,
            logprobs: None,
            echo: false,
        })
    }
}

/// Refuses more completions in one call than anybody needs.
pub fn check_count(prompts: usize, candidates: usize) -> Result<(), Problem> {
    match prompts * candidates {
        0 => Err(Problem::request("there is no prompt")),
        n if n > MAX_COMPLETIONS => Err(Problem::request(format!(
            "{n} completions asked for, at most {MAX_COMPLETIONS} are possible in one call"
        ))),
        _ => Ok(()),
    }
}

pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Another seed every time, small enough for any client's numbers.
fn new_seed() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    u64::from(unix_time().subsec_nanos()) ^ COUNT.fetch_add(0x9E37_79B9, Ordering::Relaxed) & 0xFFFF_FFFF
}

impl Model {
    /// A document for a prompt that may hold another model's template.
    pub fn of_prompt(prompt: String) -> Document {
        match incoder::template::hole(&prompt) {
            Some(hole) => Document::Hole { before: hole.before.to_owned(), after: hole.after.to_owned() },
            None => Document::Text(prompt),
        }
    }
}
