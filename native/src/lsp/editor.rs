//! The protocol: documents, requests, and at most one text in the making for each document.

use super::answer::{Form, Style, answer};
use super::generation::Generation;
use super::source::Source;
use super::text::{Change, Encoding, Position, Range, apply, offset, rest_of_line};
use crate::serve::completion::{Document as Asked, Options};
use lsp_server::{ErrorCode, Message, Notification, Request, RequestId, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::AbortHandle;

/// How often it is looked whether the client is still there.
const LOOK_AFTER_CLIENT: Duration = Duration::from_secs(5);
/// The token under which loading is reported.
const PROGRESS: &str = "incoder/loading";
/// `MessageType`s.
const ERROR: u32 = 1;
const WARNING: u32 = 2;
const INFO: u32 = 3;

/// What happens.
#[derive(Debug)]
pub enum Input {
    Message(Message),
    /// stdin is at its end.
    Closed,
    /// The model is to be loaded here: there is no server, or none that lets us ask, for this reason.
    Load {
        because: Option<String>,
    },
    Ready(Result<Source, String>),
    /// More of a text.
    Text {
        serial: u64,
        text: String,
    },
    Ended {
        serial: u64,
        result: Result<(), String>,
    },
}

/// A client, and all that is known of it.
pub struct Editor {
    out: Box<dyn Fn(Message)>,
    inputs: UnboundedSender<Input>,
    options: Options,
    source: Option<Source>,
    /// A server that has failed may have been started again, or may be gone.
    is_server_lost: bool,
    client: Client,
    documents: HashMap<String, Document>,
    serial: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    ShutDown,
}

/// What the client can do.
#[derive(Debug, Default)]
struct Client {
    style: Style,
    shows_progress: bool,
    process: Option<u64>,
}

#[derive(Debug, Default)]
struct Document {
    text: String,
    making: Option<Making>,
}

/// A text in the making, or made.
#[derive(Debug)]
struct Making {
    serial: u64,
    generation: Generation,
    task: AbortHandle,
    /// The request that waits for it: the newest.
    waiting: Option<Waiting>,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug)]
struct Waiting {
    id: RequestId,
    form: Form,
}

#[derive(Deserialize)]
struct Identifier {
    uri: String,
}

#[derive(Deserialize)]
struct At {
    #[serde(rename = "textDocument")]
    document: Identifier,
    position: Position,
    #[serde(default)]
    context: Value,
}

#[derive(Deserialize)]
struct Selected {
    range: Range,
    text: String,
}

impl Editor {
    pub fn new(out: Box<dyn Fn(Message)>, inputs: UnboundedSender<Input>, options: Options) -> Self {
        Self {
            out,
            inputs,
            options,
            source: None,
            is_server_lost: false,
            client: Client::default(),
            documents: HashMap::new(),
            serial: 0,
            state: State::New,
        }
    }

    /// Serves the client until it ends; whether it said goodbye. `find` looks for a server that has the model: it is called when
    /// there is a client, and again when the server fails. `load` is called when there is no server.
    pub async fn run(mut self, mut received: UnboundedReceiver<Input>, find: impl Fn(), load: impl FnOnce()) -> bool {
        let mut load = Some(load);
        let mut look = tokio::time::interval(LOOK_AFTER_CLIENT);
        loop {
            tokio::select! {
                input = received.recv() => match input {
                    Some(Input::Message(Message::Notification(note))) if note.method == "exit" => {
                        return self.state == State::ShutDown;
                    }
                    Some(Input::Message(Message::Notification(note))) if note.method == "initialized" => {
                        find();
                    }
                    Some(Input::Message(message)) => self.message(message),
                    Some(Input::Load { because }) => {
                        if let Some(problem) = because {
                            self.log(WARNING, &format!("{problem}; the model is loaded here"));
                        }
                        if let Some(load) = load.take() {
                            self.progress(&json!({"kind": "begin", "title": "InCoder", "message": "loading the model"}));
                            load();
                        }
                    }
                    Some(Input::Ready(ready)) => self.ready(ready),
                    Some(Input::Text { serial, text }) => self.more(serial, &text),
                    Some(Input::Ended { serial, result }) => {
                        self.ended(serial, result);
                        if std::mem::take(&mut self.is_server_lost) {
                            find();
                        }
                    }
                    Some(Input::Closed) | None => return self.state == State::ShutDown,
                },
                _ = look.tick() => {
                    if self.client.process.is_some_and(is_gone) {
                        return false;
                    }
                }
            }
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Request(request) => self.request(request),
            Message::Notification(Notification { method, params }) => match method.as_str() {
                "textDocument/didOpen" => self.open(params),
                "textDocument/didChange" => self.change(params),
                "textDocument/didClose" => self.close(params),
                "$/cancelRequest" => self.cancel(&params),
                // Others do not concern a server that completes.
                _ => {}
            },
            // To window/workDoneProgress/create.
            Message::Response(_) => {}
        }
    }

    fn request(&mut self, Request { id, method, params }: Request) {
        match (method.as_str(), self.state) {
            ("initialize", State::New) => {
                let result = self.initialize(&params);
                self.state = State::Open;
                self.answer(id, result);
            }
            (_, State::New) => self.refuse(id, ErrorCode::ServerNotInitialized, "initialize comes first"),
            ("shutdown", _) => {
                self.state = State::ShutDown;
                self.documents.clear();
                self.answer(id, Value::Null);
            }
            (_, State::ShutDown) => self.refuse(id, ErrorCode::InvalidRequest, "the server was shut down"),
            ("textDocument/inlineCompletion", _) => self.complete(id, params, false),
            ("textDocument/completion", _) => self.complete(id, params, true),
            (method, _) => self.refuse(id, ErrorCode::MethodNotFound, &format!("{method} is not known here")),
        }
    }

    fn initialize(&mut self, params: &Value) -> Value {
        let capabilities = &params["capabilities"];
        let offered = capabilities["general"]["positionEncodings"].as_array();
        let is_offered = |name: &str| offered.is_some_and(|all| all.iter().any(|encoding| encoding == name));
        let encoding = if is_offered("utf-8") { Encoding::Utf8 } else { Encoding::Utf16 };
        self.client = Client {
            style: Style::new(capabilities, encoding),
            shows_progress: capabilities["window"]["workDoneProgress"] == true,
            process: params["processId"].as_u64(),
        };
        let mut own = json!({
            "positionEncoding": encoding.name(),
            "textDocumentSync": { "openClose": true, "change": 2 },
            "inlineCompletionProvider": true,
        });
        let is_inline = !capabilities["textDocument"]["inlineCompletion"].is_null();
        if !is_inline || params["initializationOptions"]["completion"] == true {
            own["completionProvider"] = json!({});
        }
        json!({
            "capabilities": own,
            "serverInfo": { "name": "incoder", "version": env!("CARGO_PKG_VERSION") },
        })
    }

    fn open(&mut self, params: Value) {
        #[derive(Deserialize)]
        struct Open {
            #[serde(rename = "textDocument")]
            document: Opened,
        }
        #[derive(Deserialize)]
        struct Opened {
            uri: String,
            text: String,
        }
        if let Some(Open { document: Opened { uri, text } }) = read(params) {
            self.stop(&uri);
            self.documents.insert(uri, Document { text, making: None });
        }
    }

    fn change(&mut self, params: Value) {
        #[derive(Deserialize)]
        struct Changed {
            #[serde(rename = "textDocument")]
            document: Identifier,
            #[serde(rename = "contentChanges")]
            changes: Vec<Change>,
        }
        let Some(Changed { document: Identifier { uri }, changes }) = read(params) else { return };
        let Some(document) = self.documents.get_mut(&uri) else { return };
        let mut goes_on = true;
        for change in &changes {
            let replaced = apply(&mut document.text, change, self.client.style.encoding);
            goes_on &= document.making.as_mut().is_some_and(|making| making.generation.change(&replaced, &change.text));
        }
        if !goes_on {
            self.stop(&uri);
        }
    }

    fn close(&mut self, params: Value) {
        #[derive(Deserialize)]
        struct Close {
            #[serde(rename = "textDocument")]
            document: Identifier,
        }
        if let Some(Close { document }) = read(params) {
            self.stop(&document.uri);
            self.documents.remove(&document.uri);
        }
    }

    fn cancel(&mut self, params: &Value) {
        let Some(id) = serde_json::from_value::<RequestId>(params["id"].clone()).ok() else { return };
        let is_it = |making: &Making| making.waiting.as_ref().is_some_and(|waiting| waiting.id == id);
        for document in self.documents.values_mut() {
            if document.making.as_ref().is_some_and(is_it) {
                document.making = None;
                return self.refuse(id, ErrorCode::RequestCanceled, "cancelled");
            }
        }
    }

    /// Answers a request with what is made already, or begins to make it.
    fn complete(&mut self, id: RequestId, params: Value, is_item: bool) {
        let Some(At { document: Identifier { uri }, position: place, context }) = read::<At>(params) else {
            return self.refuse(id, ErrorCode::InvalidParams, "a document and a position were expected");
        };
        let selected: Option<Selected> = read(context["selectedCompletionInfo"].clone());
        let (Some(source), Some(document)) = (self.source.clone(), self.documents.get_mut(&uri)) else {
            return self.answer(id, Value::Null);
        };
        let form = match selected {
            _ if is_item => Form::Item,
            Some(Selected { range, text }) => Form::Selected { range, text },
            None => Form::Inline,
        };
        let encoding = self.client.style.encoding;
        let mut cursor = offset(&document.text, place, encoding);
        let is_plain = !matches!(form, Form::Selected { .. });
        if let Some(making) = document.making.as_mut().filter(|making| is_plain && making.generation.serves(cursor)) {
            let older = making.waiting.replace(Waiting { id, form });
            if let Some(older) = older {
                self.answer(older.id, Value::Null);
            }
            return self.answer_if_made(&uri);
        }
        self.stop(&uri);
        let Some(document) = self.documents.get_mut(&uri) else { return };
        let mut text = document.text.clone();
        if let Form::Selected { range, text: chosen } = &form {
            let replaced = apply(&mut text, &Change { range: Some(*range), text: chosen.clone() }, encoding);
            cursor = replaced.start + chosen.len();
        }
        let single_line = !rest_of_line(&text, cursor).trim().is_empty();
        let after = text.split_off(cursor);
        self.serial += 1;
        let (serial, inputs) = (self.serial, self.inputs.clone());
        let options = Options { single_line, ..self.options.clone() };
        let task = tokio::spawn(async move {
            let on_text = |text| drop(inputs.send(Input::Text { serial, text }));
            let result = source.complete(Asked::Hole { before: text, after }, options, on_text).await;
            let _ = inputs.send(Input::Ended { serial, result });
        });
        let generation = Generation::new(cursor, is_plain);
        let waiting = Some(Waiting { id, form });
        document.making = Some(Making { serial, generation, task: task.abort_handle(), waiting });
    }

    /// Nobody wants the text that is being made for a document.
    fn stop(&mut self, uri: &str) {
        let making = self.documents.get_mut(uri).and_then(|document| document.making.take());
        if let Some(waiting) = making.and_then(|mut making| making.waiting.take()) {
            self.answer(waiting.id, Value::Null);
        }
    }

    fn more(&mut self, serial: u64, text: &str) {
        let Some((uri, making)) = self.making(serial) else { return };
        making.generation.push(text);
        if !making.generation.agrees() {
            self.stop(&uri);
        }
    }

    fn ended(&mut self, serial: u64, result: Result<(), String>) {
        let Some((uri, making)) = self.making(serial) else { return };
        making.generation.end();
        match result {
            Ok(()) if making.generation.agrees() => self.answer_if_made(&uri),
            Ok(()) => self.stop(&uri),
            Err(problem) => {
                self.stop(&uri);
                self.log(ERROR, &problem);
                if matches!(self.source, Some(Source::Server(_))) {
                    self.source = None;
                    self.is_server_lost = true;
                }
            }
        }
    }

    fn making(&mut self, serial: u64) -> Option<(String, &mut Making)> {
        self.documents.iter_mut().find_map(|(uri, document)| {
            let making = document.making.as_mut().filter(|making| making.serial == serial)?;
            Some((uri.clone(), making))
        })
    }

    fn answer_if_made(&mut self, uri: &str) {
        let Some(document) = self.documents.get_mut(uri) else { return };
        let Some(making) = document.making.as_mut().filter(|making| making.generation.is_whole()) else { return };
        let Some(Waiting { id, form }) = making.waiting.take() else { return };
        let (cursor, rest) = (making.generation.cursor(), making.generation.rest());
        let answer = answer(&document.text, cursor, rest, &form, self.client.style);
        self.answer(id, answer);
    }

    fn ready(&mut self, ready: Result<Source, String>) {
        let said = match &ready {
            Ok(Source::Engine(_)) => "the model is loaded".to_owned(),
            Ok(Source::Server(server)) => format!("completions come from the incoder serve on {}", server.authority),
            Err(problem) => problem.clone(),
        };
        if !matches!(ready, Ok(Source::Server(_))) {
            self.progress(&json!({"kind": "end", "message": said}));
        }
        self.log(if ready.is_ok() { INFO } else { ERROR }, &said);
        self.source = ready.ok();
    }

    /// `$/progress`, where the client shows it.
    fn progress(&mut self, value: &Value) {
        if !self.client.shows_progress || self.state != State::Open {
            return;
        }
        if value["kind"] == "begin" {
            let params = json!({ "token": PROGRESS });
            let id = RequestId::from(PROGRESS.to_owned());
            self.send(Request::new(id, "window/workDoneProgress/create".to_owned(), params).into());
        }
        self.tell("$/progress", json!({ "token": PROGRESS, "value": value }));
    }

    fn log(&self, kind: u32, text: &str) {
        tracing::info!("{text}");
        if self.state == State::Open {
            self.tell("window/logMessage", json!({ "type": kind, "message": format!("incoder: {text}") }));
        }
    }

    fn tell(&self, method: &str, params: Value) {
        self.send(Notification::new(method.to_owned(), params).into());
    }

    fn answer(&self, id: RequestId, result: Value) {
        self.send(Response::new_ok(id, result).into());
    }

    fn refuse(&self, id: RequestId, code: ErrorCode, message: &str) {
        self.send(Response::new_err(id, code as i32, message.to_owned()).into());
    }

    fn send(&self, message: Message) {
        (self.out)(message);
    }
}

/// Parameters, where they are what they should be.
fn read<T: DeserializeOwned>(params: Value) -> Option<T> {
    serde_json::from_value(params).ok()
}

/// Whether a process has ended, where that can be told. Elsewhere stdin ends with it.
fn is_gone(process: u64) -> bool {
    cfg!(target_os = "linux") && !std::path::Path::new(&format!("/proc/{process}")).exists()
}
