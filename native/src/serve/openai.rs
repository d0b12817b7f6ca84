//! OpenAI's completions, and the two forms of it that differ in little: DeepSeek's path and Mistral's fill-in-the-middle.

use super::completion::{Answer, Document, End, Options, Text, TokenLogprob, Told};
use super::llama::prompts;
use super::problem::Problem;
use super::reply::{self, Batch};
use super::request::Fields;
use super::state::{MAX_CANDIDATES, Server, check_count, unix_time};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use incoder::{Timings, Tokenizer};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// As many as OpenAI allows, and a few more.
const MAX_LOGPROBS: usize = 20;

/// Where the text of a choice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `choices[].text`, with OpenAI and DeepSeek.
    Text,
    /// `choices[].message.content`, or `.delta.content` in a stream, with Mistral.
    Message,
}

/// `POST /v1/completions`, with or without a `suffix`; with `segments` it is Tabby's.
pub async fn completions(State(server): State<Arc<Server>>, fields: Fields) -> Result<Response, Problem> {
    if fields.has("segments") {
        return super::tabby::completions(&server, &fields).await;
    }
    let documents = match (fields.text("suffix")?, fields.get("prompt")) {
        (Some(after), Some(Value::String(before))) => vec![Document::Hole { before: before.clone(), after }],
        (Some(_), _) => return Err(Problem::request("Field 'suffix': it needs a 'prompt' that is one string")),
        (None, prompt) => prompts(prompt)?,
    };
    Call::new(&server, &fields, Form::Text)?.run(&server, documents).await
}

/// Mistral's `POST /v1/fim/completions`.
pub async fn fim(State(server): State<Arc<Server>>, fields: Fields) -> Result<Response, Problem> {
    let (before, after) = (fields.required_text("prompt")?, fields.text("suffix")?.unwrap_or_default());
    let document = Document::Hole { before, after };
    Call::new(&server, &fields, Form::Message)?.run(&server, vec![document]).await
}

/// A new answer's id.
pub fn new_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("cmpl-{:x}-{:x}", unix_time().as_nanos(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A request as it was understood.
struct Call {
    options: Options,
    form: Form,
    stream: bool,
    include_usage: bool,
    client: Option<String>,
    id: String,
    created: u64,
    model: String,
}

impl Call {
    fn new(server: &Server, fields: &Fields, form: Form) -> Result<Self, Problem> {
        let mut options = server.options(fields, "stop")?;
        options.candidates = fields.within(&["n"], 1, MAX_CANDIDATES)?.unwrap_or(1);
        options.logprobs = fields.within(&["logprobs"], 0, MAX_LOGPROBS)?;
        options.echo = fields.flag("echo")?.unwrap_or(false);
        Ok(Self {
            options,
            form,
            stream: fields.flag("stream")?.unwrap_or(false),
            include_usage: fields.object("stream_options")?.flag("include_usage")?.unwrap_or(false),
            client: fields.text("user")?.filter(|user| !user.is_empty()),
            id: new_id(),
            created: unix_time().as_secs(),
            model: server.name_for(fields)?,
        })
    }

    async fn run(self, server: &Server, documents: Vec<Document>) -> Result<Response, Problem> {
        check_count(documents.len(), self.options.candidates)?;
        let model = server.model.wait().await;
        let tokenizer = model.tokenizer.clone();
        let echoed: Vec<String> = match self.options.echo {
            true => documents.iter().map(|document| text_of(document, &tokenizer)).collect::<Result<_, _>>()?,
            false => vec![String::new(); documents.len()],
        };
        if self.options.max_tokens == 0 && !(self.options.echo && self.options.logprobs.is_some()) {
            let answers = vec![nothing(self.options.candidates); documents.len()];
            return Ok(self.whole(&answers, &echoed, &tokenizer));
        }
        let submit = |document| server.submit(document, &self.options, self.client.clone());
        let batch = Batch::new(documents.into_iter().map(submit));
        if !self.stream {
            return Ok(self.whole(&batch.answers().await?, &echoed, &tokenizer));
        }
        let batch = batch.begun().await?;
        let prompts = echoed.len();
        let mut used = Usage::default();
        let render = move |prompt: usize, told: Told| match told {
            Told::Begun { .. } if !echoed[prompt].is_empty() => {
                let index = |i| prompt * self.options.candidates + i;
                (0..self.options.candidates).map(|i| self.chunk(index(i), &echoed[prompt], None, None)).collect()
            }
            Told::Begun { .. } => Vec::new(),
            Told::Text { index, text, .. } => {
                vec![self.chunk(prompt * self.options.candidates + index, &text, None, None)]
            }
            Told::Done(answer) => {
                used.add(&answer);
                let last = |(i, text): (usize, &Text)| {
                    let logprobs = self.options.logprobs.map(|_| logprobs(&text.logprobs, &tokenizer));
                    self.chunk(prompt * self.options.candidates + i, "", Some(text), logprobs)
                };
                let mut chunks: Vec<String> = answer.texts.iter().enumerate().map(last).collect();
                if self.include_usage && prompt + 1 == prompts {
                    let mut usage = self.envelope();
                    usage.insert("choices".into(), json!([]));
                    usage.insert("usage".into(), used.json());
                    chunks.push(Value::Object(usage).to_string());
                }
                chunks
            }
            Told::Failed(problem) => vec![problem.body().to_string()],
        };
        Ok(reply::events(batch, render, Some("[DONE]")))
    }

    /// What every object of an answer begins with.
    fn envelope(&self) -> Map<String, Value> {
        let object = match (self.form, self.stream) {
            (Form::Text, _) => "text_completion",
            (Form::Message, true) => "chat.completion.chunk",
            (Form::Message, false) => "chat.completion",
        };
        let fields = [
            ("id", json!(self.id)),
            ("object", json!(object)),
            ("created", json!(self.created)),
            ("model", json!(self.model)),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
    }

    fn choice(&self, index: usize, text: &str, ended: Option<&Text>, logprobs: Option<Value>) -> Value {
        let finish_reason = ended.map(|text| if text.end == End::Limit { "length" } else { "stop" });
        match (self.form, self.stream) {
            (Form::Text, _) => {
                json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason })
            }
            (Form::Message, false) => json!({
                "index": index, "message": { "role": "assistant", "content": text }, "finish_reason": finish_reason,
            }),
            (Form::Message, true) => {
                json!({ "index": index, "delta": { "content": text }, "finish_reason": finish_reason })
            }
        }
    }

    fn chunk(&self, index: usize, text: &str, ended: Option<&Text>, logprobs: Option<Value>) -> String {
        let mut chunk = self.envelope();
        chunk.insert("choices".into(), json!([self.choice(index, text, ended, logprobs)]));
        Value::Object(chunk).to_string()
    }

    fn whole(&self, answers: &[Answer], echoed: &[String], tokenizer: &Tokenizer) -> Response {
        let (mut choices, mut used) = (Vec::new(), Usage::default());
        for (answer, echoed) in answers.iter().zip(echoed) {
            used.add(answer);
            for text in &answer.texts {
                let logprobs = self.options.logprobs.map(|_| logprobs(&text.logprobs, tokenizer));
                choices.push(self.choice(choices.len(), &format!("{echoed}{}", text.text), Some(text), logprobs));
            }
        }
        let mut whole = self.envelope();
        whole.insert("choices".into(), Value::Array(choices));
        whole.insert("usage".into(), used.json());
        reply::json(&Value::Object(whole)).into_response()
    }
}

fn nothing(candidates: usize) -> Answer {
    let nothing = Text { text: String::new(), ids: Vec::new(), end: End::Limit, logprobs: Vec::new() };
    let texts = vec![nothing; candidates];
    Answer { texts, prompt_tokens: 0, cached_tokens: 0, window: None, timings: Timings::default() }
}

/// The text that `echo` puts before a completion.
fn text_of(document: &Document, tokenizer: &Tokenizer) -> Result<String, Problem> {
    match document {
        Document::Text(text) => Ok(text.clone()),
        Document::Ids(ids) => Ok(tokenizer.decode(ids, false)?),
        Document::Hole { .. } => {
            Err(Problem::request("Field 'echo': a hole has text on two sides, there is no echo of it"))
        }
    }
}

#[derive(Debug, Default)]
struct Usage {
    prompt: usize,
    cached: usize,
    new: usize,
}

impl Usage {
    fn add(&mut self, answer: &Answer) {
        self.prompt += answer.prompt_tokens;
        self.cached += answer.cached_tokens;
        self.new += answer.completion_tokens();
    }

    fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt, "completion_tokens": self.new, "total_tokens": self.prompt + self.new,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }
}

/// OpenAI's four lists.
fn logprobs(all: &[TokenLogprob], tokenizer: &Tokenizer) -> Value {
    let spelled = |id: u32| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned();
    let mut offset = 0;
    let mut offsets = Vec::with_capacity(all.len());
    for one in all {
        offsets.push(offset);
        offset += spelled(one.id).chars().count();
    }
    let top = |one: &TokenLogprob| match one.logprob {
        None => Value::Null,
        Some(_) => {
            Value::Object(one.top.iter().map(|&(id, logprob)| (spelled(id), json!(logprob))).collect::<Map<_, _>>())
        }
    };
    json!({
        "tokens": all.iter().map(|one| spelled(one.id)).collect::<Vec<_>>(),
        "token_logprobs": all.iter().map(|one| one.logprob).collect::<Vec<_>>(),
        "top_logprobs": all.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
