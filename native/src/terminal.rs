//! What the user sees while it runs: text on stdout, progress and notes on stderr, and what Ctrl-C does.

use crate::failure::{Failure, INTERRUPTED, Result};
use console::{Style, Term};
use incoder::Cancel;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::borrow::Cow;
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Downloads under way, for what Ctrl-C says.
static RESUMABLE: AtomicUsize = AtomicUsize::new(0);

/// Whether anything was printed on stdout.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// No message of this program itself is nearly as long.
const MAX_MESSAGE_CHARACTERS: usize = 1000;
/// A load shorter than this shows no bar: it would only flash.
const BAR_AFTER: Duration = Duration::from_secs(1);

/// One line on stderr for the user, unless told to be quiet.
pub fn note(quiet: bool, text: &str) {
    if !quiet {
        // A closed stderr is no reason to stop.
        let _ = writeln!(std::io::stderr(), "incoder: {}", presentable(text));
    }
}

/// The one line that says why the program ends.
pub fn error(failure: &Failure) {
    let label = Style::new().for_stderr().red().bold().apply_to("error:");
    let _ = writeln!(std::io::stderr(), "{label} {}", presentable(&failure.to_string()));
}

/// The same as JSON on stdout, for a script that reads nothing else; not behind a result that was printed already.
pub fn error_as_json(failure: &Failure) {
    if !PRINTED.load(Ordering::SeqCst) {
        let error = serde_json::json!({ "error": { "code": failure.code, "message": failure.to_string() } });
        let _ = writeln!(std::io::stdout(), "{error}");
    }
}

/// `2.61 GB`: decimal units, as everywhere else here.
pub fn bytes(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// While this lives, what Ctrl-C ends goes on the next time.
#[derive(Debug)]
pub struct Resumable(());

impl Resumable {
    pub fn begin() -> Self {
        RESUMABLE.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Resumable {
    fn drop(&mut self) {
        RESUMABLE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Ctrl-C: ends a load or a download at once; stops a running generation within a token; pressed again, ends that at once too.
#[derive(Debug, Clone)]
pub struct Interrupt {
    pub cancel: Cancel,
    generating: Arc<AtomicBool>,
    pressed: Arc<AtomicBool>,
}

impl Interrupt {
    pub fn install() -> Result<Self> {
        let this = Self { cancel: Cancel::default(), generating: Arc::default(), pressed: Arc::default() };
        let handler = this.clone();
        let on_press = move || {
            let again = handler.pressed.swap(true, Ordering::SeqCst);
            if again || !handler.generating.load(Ordering::SeqCst) {
                if RESUMABLE.load(Ordering::SeqCst) > 0 {
                    let text = "stopped with Ctrl-C; the next time the download goes on where it was";
                    // The bar's line is not to be written over.
                    let _ = Term::stderr().is_term().then(|| writeln!(std::io::stderr()));
                    error(&Failure::interrupted(text));
                }
                std::process::exit(INTERRUPTED.into());
            }
            handler.cancel.cancel();
        };
        ctrlc::set_handler(on_press).map_err(|e| Failure::runtime(format!("Ctrl-C cannot be handled: {e}")))?;
        Ok(this)
    }

    /// From here on there is something worth printing.
    pub fn generating(&self) {
        self.generating.store(true, Ordering::SeqCst);
    }

    /// From here on there is nothing to print again: what was made before is done.
    pub fn preparing(&self) {
        self.generating.store(false, Ordering::SeqCst);
    }

    pub fn was_pressed(&self) -> bool {
        self.pressed.load(Ordering::SeqCst)
    }

    /// How a command that has printed what there is ends.
    pub fn result(&self) -> Result<()> {
        if self.was_pressed() { Err(Failure::interrupted("stopped with Ctrl-C")) } else { Ok(()) }
    }
}

/// Text on stdout as it is made. A reader that goes away (`| head`) cancels the work and is no error.
#[derive(Debug)]
pub struct Output {
    terminal: bool,
    /// On a terminal, unless NO_COLOR is set; elsewhere where CLICOLOR_FORCE is.
    colour: bool,
    cancel: Cancel,
    failed: Option<std::io::Error>,
    at_line_start: bool,
}

impl Output {
    pub fn new(cancel: &Cancel) -> Self {
        let (terminal, colour) = (Term::stdout().is_term(), console::colors_enabled());
        Self { terminal, colour, cancel: cancel.clone(), failed: None, at_line_start: true }
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether nobody reads any more, or nobody waits.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Text of the user's own.
    pub fn given(&mut self, text: &str) {
        self.write(text, None);
    }

    /// Text of the model: stands out in colour.
    pub fn filled(&mut self, text: &str) {
        self.write(text, Some(&Style::new().green().bold()));
    }

    /// Text that shall look the same everywhere, byte for byte: JSON, scripts.
    pub fn exact(&mut self, text: &str) {
        self.put(text);
    }

    /// Ends an unfinished line, on a terminal only: a pipe gets the text as it is.
    pub fn end_line(&mut self) {
        if self.terminal && !self.at_line_start {
            self.put("\n");
        }
    }

    /// Reports what went wrong on the way.
    pub fn finish(mut self) -> Result<()> {
        if self.failed.is_none() {
            self.failed = std::io::stdout().flush().err();
        }
        match self.failed {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::runtime(format!("stdout: {error}"))),
            _ => Ok(()),
        }
    }

    fn write(&mut self, text: &str, style: Option<&Style>) {
        let text = if self.terminal { visible(text) } else { Cow::Borrowed(text) };
        match style {
            // Styled line by line: a colour that runs over a line break colours the rest of the line on some terminals.
            Some(style) if self.colour => {
                let lines = text.split('\n').map(|line| match line {
                    "" => String::new(),
                    _ => style.apply_to(line).to_string(),
                });
                let lines: Vec<String> = lines.collect();
                self.put(&lines.join("\n"));
            }
            _ => self.put(&text),
        }
    }

    fn put(&mut self, text: &str) {
        if self.failed.is_some() || text.is_empty() {
            return;
        }
        PRINTED.store(true, Ordering::SeqCst);
        let mut stdout = std::io::stdout().lock();
        let done = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        if let Err(error) = done {
            self.failed = Some(error);
            self.cancel.cancel();
        }
        self.at_line_start = text.ends_with('\n');
    }
}

/// A message as it may be printed: names in it may come from a stranger's file, long and full of control characters.
fn presentable(message: &str) -> String {
    let shown = visible(message);
    match shown.char_indices().nth(MAX_MESSAGE_CHARACTERS) {
        Some((end, _)) => format!("{} …", &shown[..end]),
        None => shown.into_owned(),
    }
}

/// Control characters shown as pictures: what a model writes must not steer the user's terminal.
fn visible(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let picture = |c: char| match u32::from(c) {
        0x0d => None,
        code @ 0..=0x1f => char::from_u32(0x2400 + code),
        0x7f => Some('\u{2421}'),
        _ => Some(char::REPLACEMENT_CHARACTER),
    };
    Cow::Owned(text.chars().filter_map(|c| if steers(c) { picture(c) } else { Some(c) }).collect())
}

/// The bar while a model loads: on a terminal only, and only when it takes a while.
pub struct Loading {
    bar: Option<ProgressBar>,
    shown: bool,
    started: Instant,
}

impl Loading {
    pub fn new(quiet: bool) -> Self {
        Self { bar: None, shown: !quiet && Term::stderr().is_term(), started: Instant::now() }
    }

    /// `done` and `total` in bytes.
    pub fn update(&mut self, done: u64, total: u64) {
        if !self.shown || self.started.elapsed() < BAR_AFTER {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("loading {bar:30} {decimal_bytes}/{decimal_total_bytes} {eta}");
            style.map(|style| bar.clone().with_style(style)).unwrap_or(bar)
        });
        bar.set_position(done);
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The bar over steps that are counted: on a terminal only.
pub struct Steps {
    bar: ProgressBar,
}

impl Steps {
    pub fn new(total: usize, quiet: bool) -> Self {
        if quiet || !Term::stderr().is_term() {
            return Self { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}");
        Self { bar: style.map(|style| bar.clone().with_style(style)).unwrap_or(bar) }
    }

    /// What the next steps are.
    pub fn begin(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
    }

    pub fn done(&self) {
        self.bar.inc(1);
    }

    /// Prints without running into the bar.
    pub fn beside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_an_end() {
        assert_eq!(presentable("a\x1b[31m"), "a␛[31m");
        assert_eq!(presentable(&"é".repeat(5000)), format!("{} …", "é".repeat(1000)));
    }

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(visible("a\tb\nc"), "a\tb\nc");
        assert_eq!(visible("\x1b[2Ja\r\n\x7f\u{9b}"), "␛[2Ja\n␡\u{fffd}");
    }
}
