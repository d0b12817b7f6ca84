//! The `incoder` command. What it can do is in cli.rs; each command has its file under commands/.

mod args;
mod cli;
mod commands;
mod complete;
mod document;
mod engine;
mod failure;
mod fastest;
mod files;
mod headless;
mod hub;
mod input;
mod lsp;
mod model_folder;
mod report;
mod serve;
mod split;
mod terminal;
mod text;
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
    // Where a shell asks what may follow, that is answered, and the program ends.
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let cli = match Cli::try_parse_from(args::understood(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => return said(&error),
    };
    log_to_stderr(cli.verbose);
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                terminal::error(&failure);
                if cli.json {
                    terminal::error_as_json(&failure);
                }
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Help, version, or what is wrong with the arguments. What cannot be printed is a failure here as everywhere.
fn said(error: &clap::Error) -> ExitCode {
    let printed = error.print().and_then(|()| std::io::Write::flush(&mut std::io::stdout()));
    match printed {
        Err(e) if !error.use_stderr() && e.kind() != std::io::ErrorKind::BrokenPipe => {
            terminal::error(&Failure::runtime(format!("stdout: {}", files::explained(&e))));
            ExitCode::from(failure::RUNTIME)
        }
        _ => ExitCode::from(error.exit_code() as u8),
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
        Some(Command::Serve(args)) => serve::run(args, &global),
        Some(Command::Lsp(args)) => lsp::run(args, &global),
        Some(Command::Tokenize(args)) => commands::tokenize::tokenize(args, &global),
        Some(Command::Detokenize(args)) => commands::tokenize::detokenize(args, &global),
        Some(Command::Convert(args)) => commands::convert::run(args, &global),
        Some(Command::Plan(args)) => commands::plan::run(args, &global),
        Some(Command::Bench(args)) => commands::bench::run(args, &global),
        Some(Command::Models(models)) => commands::models::run(models, &global),
        Some(Command::Doctor(args)) => commands::doctor::run(args, &global),
        Some(Command::Devices) => commands::devices::run(&global),
        Some(Command::Completions { .. } | Command::Man { .. }) if global.json => {
            Err(Failure::usage("what is printed is for another program as it is: there is no JSON form of it"))
        }
        Some(Command::Completions { shell }) => completions(*shell),
        Some(Command::Man { command }) => man(command),
        Some(Command::Version) => version(&global),
        None => Err(Failure::usage("no command: `incoder --help` lists them")),
    }
}

/// The script asks this program, so that it offers the models of the cache and the devices as they are then.
fn completions(shell: clap_complete::Shell) -> Result<()> {
    let shells = clap_complete::env::Shells::builtins();
    let name = shell.to_string();
    let known = shells.completer(&name).ok_or_else(|| Failure::usage(format!("there is no script for {name}")))?;
    let mut script = Vec::new();
    let written = known.write_registration("COMPLETE", "incoder", "incoder", "incoder", &mut script);
    written.map_err(|e| Failure::runtime(e.to_string()))?;
    print(&String::from_utf8_lossy(&script))
}

/// The manual page of the program, or of one of its commands.
fn man(words: &[String]) -> Result<()> {
    let mut command = Cli::command();
    command.build();
    for word in words {
        let missing = || Failure::usage(format!("there is no command {word}: `incoder --help` lists them"));
        command = command.find_subcommand(word).ok_or_else(missing)?.clone();
    }
    let name = [&["incoder".to_owned()], words].concat().join("-");
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command.display_name(name.clone()))
        .title(name)
        .source(concat!("incoder ", env!("CARGO_PKG_VERSION")))
        .render(&mut page);
    rendered.map_err(|e| Failure::runtime(e.to_string()))?;
    print(&String::from_utf8_lossy(&page))
}

fn version(global: &Global) -> Result<()> {
    #[derive(serde::Serialize)]
    struct Version {
        version: &'static str,
    }
    let version = env!("CARGO_PKG_VERSION");
    let text = if global.json { report::line(&Version { version })? } else { format!("incoder {version}\n") };
    print(&text)
}

fn print(text: &str) -> Result<()> {
    let mut output = terminal::Output::new(&incoder::Cancel::default());
    output.exact(text);
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
