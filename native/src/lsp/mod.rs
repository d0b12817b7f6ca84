//! `incoder lsp`: completions for editors that speak the Language Server Protocol, 3.18 or older.

mod answer;
mod editor;
mod generation;
mod source;
mod suggestion;
mod text;

use crate::failure::{Failure, Result};
use crate::serve::engine;
use crate::serve::metrics::Metrics;
use crate::serve::queue::Queue;
use crate::terminal::note;
use crate::{Global, cli, engine as loading};
use editor::{Editor, Input};
use lsp_server::Connection;
use source::{Probe, Server, Source};
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Contexts that are kept: of two files side by side.
const SLOTS: usize = 2;

pub fn run(args: &cli::Lsp, global: &Global) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::runtime(format!("the server cannot start: {e}")))?;
    let (connection, threads) = Connection::stdio();
    let (inputs, received) = unbounded_channel();
    std::thread::scope(|scope| {
        let messages = inputs.clone();
        let receiver = connection.receiver;
        scope.spawn(move || {
            for message in receiver {
                if messages.send(Input::Message(message)).is_err() {
                    return;
                }
            }
            let _ = messages.send(Input::Closed);
        });
        let queue = Arc::new(Queue::default());
        let loaded = (inputs.clone(), queue.clone());
        let load = move || {
            let (inputs, queue) = loaded;
            scope.spawn(move || load_and_serve(args, global, &inputs, &queue));
        };
        let server = Server { authority: args.server.clone(), key: cli::api_key(None)? };
        let (finder, alone) = (inputs.clone(), args.alone);
        let find = move || {
            let (server, finder) = (server.clone(), finder.clone());
            tokio::spawn(async move {
                // One model in memory is enough.
                let found = match alone {
                    true => Probe::Absent,
                    false => server.probe().await,
                };
                let found = match found {
                    Probe::Present => Input::Ready(Ok(Source::Server(server))),
                    Probe::Absent => Input::Load { because: None },
                    Probe::Refuses(problem) => Input::Load { because: Some(problem) },
                };
                let _ = finder.send(found);
            });
        };
        let sender = connection.sender;
        // A client that has gone is noticed where it is read from.
        let out = Box::new(move |message| drop(sender.send(message)));
        let editor = Editor::new(out, inputs, options(args));
        let is_orderly = runtime.block_on(editor.run(received, find, load));
        // The last answers are written before the program ends; the engine's thread would not end by itself.
        if is_orderly {
            let _ = threads.join();
        }
        std::process::exit(if is_orderly { 0 } else { 1 });
    })
}

/// The engine's thread: says that it is ready, or why it is not, and serves until the program ends.
fn load_and_serve(args: &cli::Lsp, global: &Global, inputs: &UnboundedSender<Input>, queue: &Arc<Queue>) {
    let loaded = loading::prepare(&args.model, &args.device, global).and_then(|prepared| prepared.load(global));
    let mut engine = match loaded {
        Ok(engine) => engine,
        Err(failure) => {
            let _ = inputs.send(Input::Ready(Err(failure.to_string())));
            return;
        }
    };
    engine.session.set_slots(SLOTS);
    let _ = inputs.send(Input::Ready(Ok(Source::Engine(queue.clone()))));
    let failure = engine::serve(&mut engine.session, &engine.tokenizer, queue, &Metrics::default());
    note(global.quiet, &failure.to_string());
    let _ = inputs.send(Input::Ready(Err(failure.to_string())));
}

fn options(args: &cli::Lsp) -> crate::serve::completion::Options {
    crate::serve::completion::Options {
        max_tokens: args.max_tokens,
        sampling: crate::commands::sampling_without_seed(&args.decoding),
        stop: Vec::new(),
        candidates: 1,
        ignore_eos: false,
        single_line: false,
        min_indentation: 0,
        time_limit: None,
        logprobs: None,
        echo: false,
    }
}
