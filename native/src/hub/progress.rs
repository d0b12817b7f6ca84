//! The bar of a download: all files together, with rate and the time that is left.

use crate::Global;
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TEMPLATE: &str = "{msg} {bar:25} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left";

/// Shown on a terminal, unless told to be quiet.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// `total` in bytes, those of earlier downloads included.
    pub fn new(name: &str, total: u64, global: &Global) -> Self {
        if global.quiet || !Term::stderr().is_term() {
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let bar = bar.with_message(name.to_owned());
        let style = ProgressStyle::with_template(TEMPLATE);
        Self { bar: style.map(|style| bar.clone().with_style(style)).unwrap_or(bar) }
    }

    /// Bytes that an earlier download left: done, and no part of the rate.
    pub fn resumed(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.bar.reset_eta();
    }

    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Bytes that have to come once more.
    pub fn take_back(&self, bytes: u64) {
        self.bar.dec(bytes);
        self.bar.reset_eta();
    }

    /// A line for the user that does not run into the bar.
    pub fn note(&self, global: &Global, text: &str) {
        self.bar.suspend(|| crate::terminal::note(global.quiet, text));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
