//! One request, whatever dialect it came in: a document, what to do with it, and what came of it.

use super::problem::Problem;
use incoder::{Cancel, FinishReason, Sampling, Timings, Window};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// What is to be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// The text around a cursor.
    Hole { before: String, after: String },
    /// A text to continue.
    Text(String),
    /// The same, tokenized by the client.
    Ids(Vec<u32>),
}

impl Document {
    /// Its size, for a log that must not hold texts.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Hole { before, after } => before.len() + after.len(),
            Self::Text(text) => text.len(),
            Self::Ids(ids) => ids.len() * size_of::<u32>(),
        }
    }
}

/// A request.
#[derive(Debug, Clone)]
pub struct Completion {
    pub document: Document,
    pub options: Options,
    /// Who asks, where the dialect says so: of several requests of one client the newest comes first.
    pub client: Option<String>,
}

/// How to complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub max_tokens: usize,
    pub sampling: Sampling,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// How many completions.
    pub candidates: usize,
    /// Go on after `<|endoftext|>`.
    pub ignore_eos: bool,
    /// No more than the rest of the line.
    pub single_line: bool,
    /// From the second line on, a line with fewer leading blanks ends a completion.
    pub min_indentation: usize,
    /// Once so much time has passed since the first token, the next line break ends a completion.
    pub time_limit: Option<Duration>,
    /// The log probability of every token, and of so many others in its place.
    pub logprobs: Option<usize>,
    /// The log probabilities are also those of the text that is continued, which stands before the completion.
    pub echo: bool,
}

/// What a handler is told while its request is served. The texts of one `index` together are the text of its [`Text`].
#[derive(Debug)]
pub enum Told {
    /// The prompt is in the KV cache.
    Begun {
        prompt_tokens: usize,
    },
    /// More text of a completion.
    Text {
        index: usize,
        id: u32,
        text: String,
    },
    Done(Box<Answer>),
    Failed(Problem),
}

/// What came of a request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub texts: Vec<Text>,
    pub prompt_tokens: usize,
    /// Of these, tokens that were still in the KV cache.
    pub cached_tokens: usize,
    /// The part of the document that the model was shown; none for ids.
    pub window: Option<Window>,
    pub timings: Timings,
}

impl Answer {
    /// Whether a part of the document was not shown to the model.
    pub fn is_truncated(&self) -> bool {
        self.window.is_some_and(|window| window.left_out_tokens > 0)
    }

    pub fn completion_tokens(&self) -> usize {
        self.texts.iter().map(|text| text.ids.len()).sum()
    }
}

/// One completion.
#[derive(Debug, Clone)]
pub struct Text {
    pub text: String,
    pub ids: Vec<u32>,
    pub end: End,
    /// As many as `ids`, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// A token's log probability, and the most probable tokens in its place.
#[derive(Debug, Clone)]
pub struct TokenLogprob {
    pub id: u32,
    /// None for the first token of a text that was scored.
    pub logprob: Option<f64>,
    pub top: Vec<(u32, f64)>,
}

/// Why a completion ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The model ended it, or the lines around the hole did.
    Model,
    /// This stop text came.
    Word(String),
    /// It is as long as was asked for, took as long, or the context is full.
    Limit,
}

impl End {
    /// `stop_texts` are those of the request, `spelled` the text that the tokens spell.
    pub fn new(reason: FinishReason, stop_texts: &[String], spelled: &str) -> Self {
        match reason {
            FinishReason::Eos | FinishReason::EndOfMask => Self::Model,
            FinishReason::Stop => {
                let found = stop_texts.iter().filter_map(|stop| Some((spelled.find(stop)? + stop.len(), stop)));
                found.min().map_or(Self::Model, |(_, stop)| Self::Word(stop.clone()))
            }
            FinishReason::Length | FinishReason::Context | FinishReason::Cancelled => Self::Limit,
        }
    }
}

/// A request on its way. Dropping it cancels the work: hyper drops a handler's future when its client has gone.
#[derive(Debug)]
pub struct Running {
    told: UnboundedReceiver<Told>,
    cancel: Cancel,
}

impl Running {
    pub fn new(told: UnboundedReceiver<Told>, cancel: Cancel) -> Self {
        Self { told, cancel }
    }

    /// What comes next; none after the end.
    pub async fn next(&mut self) -> Option<Told> {
        self.told.recv().await
    }

    /// Waits for the end.
    pub async fn answer(mut self) -> Result<Answer, Problem> {
        loop {
            match self.next().await {
                Some(Told::Done(answer)) => return Ok(*answer),
                Some(Told::Failed(problem)) => return Err(problem),
                Some(_) => {}
                None => return Err(Problem::server("the request was dropped unanswered")),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_text_that_ends_first_is_named() {
        let stops = ["ab".to_owned(), "b".to_owned(), "zz".to_owned()];
        let end = |reason, spelled| End::new(reason, &stops, spelled);
        assert_eq!(end(FinishReason::Stop, "xxab"), End::Word("ab".into()));
        assert_eq!(end(FinishReason::Stop, "bzz"), End::Word("b".into()));
        assert_eq!(end(FinishReason::Stop, "none of them"), End::Model);
        assert_eq!(end(FinishReason::EndOfMask, "zz"), End::Model);
        assert_eq!(end(FinishReason::Length, "zz"), End::Limit);
    }
}
