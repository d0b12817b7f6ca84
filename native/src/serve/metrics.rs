//! What the server counts, for `/metrics`.

use super::completion::Answer;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

#[derive(Debug, Default)]
pub struct Metrics {
    prompt_tokens: AtomicU64,
    prompt_microseconds: AtomicU64,
    new_tokens: AtomicU64,
    decode_microseconds: AtomicU64,
    requests: AtomicU64,
    steps: AtomicU64,
    is_busy: AtomicBool,
}

impl Metrics {
    /// So many steps of the model were computed until now.
    pub fn set_steps(&self, steps: u64) {
        self.steps.store(steps, Relaxed);
    }

    /// The engine begins with a request.
    pub fn begin(&self) {
        self.requests.fetch_add(1, Relaxed);
        self.is_busy.store(true, Relaxed);
    }

    pub fn end(&self) {
        self.is_busy.store(false, Relaxed);
    }

    /// Whether the engine computes.
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Relaxed)
    }

    /// Counts what was computed for an answer.
    pub fn count(&self, answer: &Answer) {
        let microseconds = |ms: f64| (ms * 1e3) as u64;
        self.prompt_tokens.fetch_add((answer.prompt_tokens - answer.cached_tokens) as u64, Relaxed);
        self.prompt_microseconds.fetch_add(microseconds(answer.timings.prompt_ms), Relaxed);
        self.new_tokens.fetch_add(answer.completion_tokens() as u64, Relaxed);
        self.decode_microseconds.fetch_add(microseconds(answer.timings.decode_ms), Relaxed);
    }

    /// Prometheus' text, under llama-server's names. `waiting` requests are in the queue.
    pub fn text(&self, waiting: usize) -> String {
        let get = |counter: &AtomicU64| counter.load(Relaxed) as f64;
        let (prompt, prompt_s) = (get(&self.prompt_tokens), get(&self.prompt_microseconds) / 1e6);
        let (new, decode_s) = (get(&self.new_tokens), get(&self.decode_microseconds) / 1e6);
        let rate = |tokens: f64, seconds: f64| if seconds > 0.0 { tokens / seconds } else { 0.0 };
        let busy = f64::from(u8::from(self.is_busy()));
        let mut text = String::new();
        for (name, kind, help, value) in [
            ("prompt_tokens_total", "counter", "Prompt tokens computed.", prompt),
            ("prompt_seconds_total", "counter", "Seconds spent on prompts.", prompt_s),
            ("tokens_predicted_total", "counter", "New tokens.", new),
            ("tokens_predicted_seconds_total", "counter", "Seconds spent on new tokens.", decode_s),
            ("n_requests_total", "counter", "Requests that the engine began with.", get(&self.requests)),
            ("n_decode_total", "counter", "Steps of the model, of prompts and of new tokens.", get(&self.steps)),
            ("prompt_tokens_seconds", "gauge", "Prompt tokens a second, on average.", rate(prompt, prompt_s)),
            ("predicted_tokens_seconds", "gauge", "New tokens a second, on average.", rate(new, decode_s)),
            ("requests_processing", "gauge", "Requests being computed.", busy),
            ("requests_deferred", "gauge", "Requests in the queue.", waiting as f64),
        ] {
            // Writing to a String does not fail.
            let _ =
                writeln!(text, "# HELP llamacpp:{name} {help}\n# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}");
        }
        text
    }
}
