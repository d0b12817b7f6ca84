//! Ollama's API, as far as it completes.

use super::completion::{Answer, Document, End, Options, Told};
use super::problem::Problem;
use super::reply::{self, Batch};
use super::request::Fields;
use super::state::{Model, Server};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What clients that ask for Ollama's version are told: one whose API has `suffix`, and every field that is answered here.
const VERSION: &str = "0.6.3";

/// `POST /api/generate`.
pub async fn generate(State(server): State<Arc<Server>>, fields: Fields) -> Result<Response, Problem> {
    let (prompt, suffix) = (fields.text("prompt")?.unwrap_or_default(), fields.text("suffix")?.unwrap_or_default());
    let settings = fields.object("options")?;
    let call = Call {
        options: server.options(&settings, "stop")?,
        model: server.name_for(&fields)?,
        stream: fields.flag("stream")?.unwrap_or(true),
    };
    // Ollama loads the model for an empty prompt even where there is a suffix, so that the top of a file is never completed.
    let document = match (prompt.is_empty(), suffix.is_empty()) {
        (true, true) => {
            let unloads = fields.get("keep_alive").and_then(Value::as_i64) == Some(0);
            return Ok(call.nothing(if unloads { "unload" } else { "load" }));
        }
        (_, false) => Document::Hole { before: prompt, after: suffix },
        _ => Model::of_prompt(prompt),
    };
    if call.options.max_tokens == 0 {
        return Ok(call.nothing("length"));
    }
    let batch = Batch::new([server.submit(document, &call.options, None)]);
    if !call.stream {
        let answers = batch.answers().await?;
        let answer = answers.first().ok_or_else(|| Problem::server("there is no answer"))?;
        let text = answer.texts.first().map_or("", |text| &text.text);
        return Ok(reply::json(&call.last(answer, text)).into_response());
    }
    let batch = batch.begun().await?;
    let render = move |_: usize, told: Told| match told {
        Told::Begun { .. } => Vec::new(),
        Told::Text { text, .. } => vec![call.object(&text, false).to_string()],
        Told::Done(answer) => vec![call.last(&answer, "").to_string()],
        Told::Failed(problem) => vec![problem.plain_body().to_string()],
    };
    Ok(reply::lines(batch, render))
}

/// A request as it was understood.
struct Call {
    options: Options,
    model: String,
    stream: bool,
}

impl Call {
    fn object(&self, text: &str, done: bool) -> Value {
        json!({ "model": self.model, "created_at": rfc3339(SystemTime::now()), "response": text, "done": done })
    }

    fn last(&self, answer: &Answer, text: &str) -> Value {
        let nanoseconds = |ms: f64| (ms * 1e6) as u64;
        let timings = &answer.timings;
        let (prompt, decode) = (nanoseconds(timings.prompt_ms), nanoseconds(timings.decode_ms));
        let is_long = answer.texts.iter().any(|text| text.end == End::Limit);
        let mut last = self.object(text, true);
        last["done_reason"] = json!(if is_long { "length" } else { "stop" });
        last["total_duration"] = json!(prompt + decode);
        last["load_duration"] = json!(0);
        last["prompt_eval_count"] = json!(answer.prompt_tokens);
        last["prompt_eval_duration"] = json!(prompt);
        last["eval_count"] = json!(answer.completion_tokens());
        last["eval_duration"] = json!(decode);
        last
    }

    /// The answer to a request that asks for no text.
    fn nothing(&self, reason: &str) -> Response {
        let mut last = self.object("", true);
        last["done_reason"] = json!(reason);
        reply::json(&last).into_response()
    }
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

/// What `/api/tags` and `/api/ps` say of the one model.
async fn described(server: &Server) -> Value {
    let Model { config, .. } = server.model.wait().await;
    let parameters = config.parameters();
    let started = UNIX_EPOCH + Duration::from_secs(server.started);
    json!({
        "name": server.name, "model": server.name, "modified_at": rfc3339(started), "size": parameters * 2,
        "digest": "", "details": details(parameters),
    })
}

fn details(parameters: u64) -> Value {
    json!({
        "parent_model": "", "format": "safetensors", "family": "incoder", "families": ["incoder"],
        "parameter_size": format!("{:.1}M", parameters as f64 / 1e6), "quantization_level": "F16",
    })
}

/// `GET /api/tags` and `/api/ps`.
pub async fn tags(State(server): State<Arc<Server>>) -> Response {
    reply::json(&json!({ "models": [described(&server).await] })).into_response()
}

/// `POST /api/show`. Continue finds out from the template's `.Suffix` that holes can be filled.
pub async fn show(State(server): State<Arc<Server>>, _fields: Fields) -> Response {
    let Model { config, context, .. } = server.model.wait().await;
    let started = UNIX_EPOCH + Duration::from_secs(server.started);
    let shown = json!({
        "template": "{{ if .Suffix }}{{ .Prompt }}<|mask:0|>{{ .Suffix }}<|mask:1|><|mask:0|>{{ else }}{{ .Prompt }}{{ end }}",
        "parameters": format!("num_ctx {context}"),
        "details": details(config.parameters()),
        "model_info": {
            "general.architecture": "incoder", "general.parameter_count": config.parameters(),
            "incoder.context_length": context, "incoder.embedding_length": config.d_model,
            "incoder.block_count": config.num_layers,
        },
        "capabilities": ["completion", "insert"],
        "modified_at": rfc3339(started),
    });
    reply::json(&shown).into_response()
}

/// `GET /api/version`.
pub async fn version() -> Response {
    reply::json(&json!({ "version": VERSION })).into_response()
}

/// `GET /`.
pub async fn is_running() -> &'static str {
    "incoder is running"
}
