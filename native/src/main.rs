//! The `incoder` command. What it can do is in cli.rs; each command has its file under commands/.

mod cli;
mod commands;
mod engine;
mod failure;
mod headless;
mod hub;
mod input;
mod model_folder;
mod report;
mod split;
mod terminal;
mod tuning;
mod write_back;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use failure::{Failure, Result};
use std::process::ExitCode;

/// The flags that every command has.
#[derive(Debug)]
pub struct Global {
    pub json: bool,
    pub quiet: bool,
    pub verbose: bool,
}

impl Global {
    /// Whether a person is there for a line about speed.
    pub fn talks(&self) -> bool {
        !self.quiet && (self.verbose || console::user_attended_stderr() && !self.json)
    }
}

fn main() -> ExitCode {
    headless::silence_device_select();
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal::error(&failure);
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let global = Global { json: cli.json, quiet: cli.quiet, verbose: cli.verbose > 0 };
    if cli.list_devices {
        return commands::devices::run(&global);
    }
    match &cli.command {
        Some(Command::Generate(args)) => commands::generate::run(args, &global),
        Some(Command::Infill(args)) => commands::infill::run(args, &global),
        Some(Command::Score(args)) => commands::score::run(args, &global),
        Some(Command::Tokenize(args)) => commands::tokenize::tokenize(args, &global),
        Some(Command::Detokenize(args)) => commands::tokenize::detokenize(args, &global),
        Some(Command::Convert(args)) => commands::convert::run(args, &global),
        Some(Command::Plan(args)) => commands::plan::run(args, &global),
        Some(Command::Bench(args)) => commands::bench::run(args, &global),
        Some(Command::Models(models)) => commands::models::run(models, &global),
        Some(Command::Devices) => commands::devices::run(&global),
        Some(Command::Completions { shell }) => completions(*shell),
        None => Err(Failure::usage("no command: `incoder --help` lists them")),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "incoder", &mut script);
    let mut output = terminal::Output::new(&incoder::Cancel::default());
    output.exact(&String::from_utf8_lossy(&script));
    output.finish()
}

/// -v: what this program does; -vv: in detail, with the GPU library's own messages. Without: nothing.
fn log_to_stderr(verbose: u8) {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::prelude::*;
    let targets = match verbose {
        0 => return,
        1 => Targets::new().with_target("incoder", LevelFilter::INFO),
        _ => Targets::new().with_target("incoder", LevelFilter::TRACE).with_default(LevelFilter::INFO),
    };
    let format = tracing_subscriber::fmt::layer().with_target(false).without_time();
    let format = format.with_writer(std::io::stderr).with_ansi(console::colors_enabled_stderr());
    tracing_subscriber::registry().with(format.with_filter(targets)).init();
}
