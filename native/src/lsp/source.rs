//! Where texts come from: the engine in this process, or a server that has the model already.

use crate::serve::completion::{Completion, Document, Options, Told};
use crate::serve::queue::Queue;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

/// A server on this machine answers sooner, or it is busy.
const PROBE_TIME: Duration = Duration::from_millis(500);
/// Bytes of an event at most.
const MAX_EVENT: usize = 1 << 20;

/// Where texts come from.
#[derive(Debug, Clone)]
pub enum Source {
    Engine(Arc<Queue>),
    Server(Server),
}

impl Source {
    /// Makes the text for a hole, and hands it out as it grows. Dropping the future stops the work.
    pub async fn complete(&self, document: Document, options: Options, on_text: impl Fn(String)) -> Result<(), String> {
        match self {
            Self::Engine(queue) => {
                let mut running = queue.submit(Completion { document, options, client: None });
                while let Some(told) = running.next().await {
                    match told {
                        Told::Text { text, .. } => on_text(text),
                        Told::Done(_) => return Ok(()),
                        Told::Failed(problem) => return Err(problem.message),
                        Told::Begun { .. } => {}
                    }
                }
                Err("the engine ended".to_owned())
            }
            Self::Server(server) => server.complete(&document, &options, on_text).await,
        }
    }
}

/// What was found where a server may be.
#[derive(Debug)]
pub enum Probe {
    Present,
    Absent,
    /// A server that does not let this client ask, and what it says.
    Refuses(String),
}

/// An `incoder serve` on this machine.
#[derive(Debug, Clone)]
pub struct Server {
    /// Host and port.
    pub authority: String,
    pub key: Option<String>,
}

impl Server {
    /// Whether there is one: another program may have the port.
    pub async fn probe(&self) -> Probe {
        let answered = tokio::time::timeout(PROBE_TIME, self.send(Method::GET, "/props", String::new())).await;
        let Ok(Ok((response, _open))) = answered else { return Probe::Absent };
        let is_incoder =
            response.headers().get(header::SERVER).is_some_and(|name| name.as_bytes().starts_with(b"incoder/"));
        match response.status() {
            _ if !is_incoder => Probe::Absent,
            // One that still loads its model answers as soon as it is there.
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => Probe::Present,
            status => Probe::Refuses(format!("the incoder serve on {} refuses with {status}", self.authority)),
        }
    }

    async fn complete(&self, document: &Document, options: &Options, on_text: impl Fn(String)) -> Result<(), String> {
        let Document::Hole { before, after } = document else { return Err("only holes are asked for".to_owned()) };
        let stop: &[&str] = if options.single_line { &["\n"] } else { &[] };
        let body = json!({
            "input_prefix": before, "input_suffix": after, "n_predict": options.max_tokens, "stream": true,
            "temperature": options.sampling.temperature, "top_k": options.sampling.top_k,
            "top_p": options.sampling.top_p, "min_p": options.sampling.min_p,
            "repeat_penalty": options.sampling.repetition_penalty, "seed": options.sampling.seed, "stop": stop,
        });
        let (response, _open) = self.send(Method::POST, "/infill", body.to_string()).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut received = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| format!("the server's answer broke off: {e}"))?;
            received.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if received.len() > MAX_EVENT {
                return Err("the server's answer is none".to_owned());
            }
            while let Some(end) = received.iter().position(|&byte| byte == b'\n').filter(|_| status.is_success()) {
                let line: Vec<u8> = received.drain(..=end).collect();
                let Some(data) = line.strip_prefix(b"data: ") else { continue };
                let event: Value = serde_json::from_slice(data).map_err(|e| format!("the server's answer: {e}"))?;
                if let Some(problem) = event.pointer("/error/message").and_then(Value::as_str) {
                    return Err(problem.to_owned());
                }
                on_text(event["content"].as_str().unwrap_or_default().to_owned());
                if event["stop"] == true {
                    return Ok(());
                }
            }
        }
        let answer: Value = serde_json::from_slice(&received).unwrap_or_default();
        let problem = answer.pointer("/error/message").and_then(Value::as_str).unwrap_or("no answer");
        Err(format!("{status}: {problem}"))
    }

    /// Sends a request on a connection of its own, which is closed when what comes with the response is dropped.
    async fn send(&self, method: Method, path: &str, body: String) -> Result<(Response<Incoming>, Open), String> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|e| format!("{}: {e}", self.authority))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("{}: {e}", self.authority))?;
        let open = Open(tokio::spawn(connection).abort_handle());
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.authority);
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| format!("{}: {e}", self.authority))?;
        Ok((response, open))
    }
}

/// An open connection. Its end is how the server learns that nobody waits any more.
struct Open(AbortHandle);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.abort();
    }
}
