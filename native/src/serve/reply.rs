//! Answers: one JSON object, or a stream of events or lines.

use super::completion::{Answer, Running, Told};
use super::problem::Problem;
use axum::body::Body;
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;

/// One line of compact JSON: classic Vim reads an answer line by line, and llama.vim looks for `"content":"` without a blank.
pub fn json(value: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], value.to_string())
}

/// The requests that one call makes: one for each of its prompts.
#[derive(Debug)]
pub struct Batch {
    running: VecDeque<Running>,
    /// The prompt whose turn it is.
    at: usize,
    /// What was told while waiting for the first sign of life.
    first: Option<Told>,
}

impl Batch {
    pub fn new(running: impl IntoIterator<Item = Running>) -> Self {
        Self { running: running.into_iter().collect(), at: 0, first: None }
    }

    /// Waits until the first prompt is read: what is wrong before that is no event of a stream, but an error of its own.
    pub async fn begun(mut self) -> Result<Self, Problem> {
        match self.next().await {
            Some((_, Told::Failed(problem))) => Err(problem),
            told => Ok(Self { at: 0, first: told.map(|(_, told)| told), ..self }),
        }
    }

    /// What comes next, and of which prompt.
    pub async fn next(&mut self) -> Option<(usize, Told)> {
        if let Some(told) = self.first.take() {
            return Some((self.at, told));
        }
        let told = self.running.front_mut()?.next().await;
        let at = self.at;
        match told {
            Some(told @ Told::Done(_)) => {
                self.running.pop_front();
                self.at += 1;
                Some((at, told))
            }
            Some(told @ Told::Failed(_)) => {
                self.running.clear();
                Some((at, told))
            }
            Some(told) => Some((at, told)),
            None => {
                self.running.clear();
                Some((at, Told::Failed(Problem::server("the request was dropped unanswered"))))
            }
        }
    }

    /// Waits for all answers.
    pub async fn answers(mut self) -> Result<Vec<Answer>, Problem> {
        let mut answers = Vec::new();
        while let Some((_, told)) = self.next().await {
            match told {
                Told::Done(answer) => answers.push(*answer),
                Told::Failed(problem) => return Err(problem),
                _ => {}
            }
        }
        Ok(answers)
    }
}

/// What a dialect makes of what is told: any number of JSON objects, or texts that are none.
fn rendered(
    batch: Batch,
    mut render: impl FnMut(usize, Told) -> Vec<String> + Send + 'static,
    last: Option<&'static str>,
) -> impl Stream<Item = String> + Send + 'static {
    let told = stream::unfold(batch, |mut batch| async { batch.next().await.map(|told| (told, batch)) });
    let texts = told.map(move |(prompt, told)| stream::iter(render(prompt, told))).flatten();
    texts.chain(stream::iter(last.map(String::from)))
}

/// Server-sent events, `last` behind them.
pub fn events(
    batch: Batch,
    render: impl FnMut(usize, Told) -> Vec<String> + Send + 'static,
    last: Option<&'static str>,
) -> Response {
    let events = rendered(batch, render, last).map(|data| Ok::<_, Infallible>(Event::default().data(data)));
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

/// One JSON object a line.
pub fn lines(batch: Batch, render: impl FnMut(usize, Told) -> Vec<String> + Send + 'static) -> Response {
    let lines = rendered(batch, render, None).map(|line| Ok::<_, Infallible>(line + "\n"));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}
