//! What the server says of itself, and the tokenizer.

use super::problem::Problem;
use super::reply;
use super::request::{Fields, ids};
use super::state::{Model, Server};
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use incoder::Sentinels;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// `GET /health`: 503 while the model is loaded.
pub async fn health(State(server): State<Arc<Server>>) -> Result<Response, Problem> {
    match server.model.get() {
        Some(_) => Ok(reply::json(&json!({ "status": "ok" })).into_response()),
        None => Err(Problem::loading()),
    }
}

/// `GET /v1/health`, which is llama-server's and Tabby's: one object for both.
pub async fn tabby_health(State(server): State<Arc<Server>>) -> Result<Response, Problem> {
    let Some(model) = server.model.get() else { return Err(Problem::loading()) };
    let version = env!("CARGO_PKG_VERSION");
    let health = json!({
        "status": "ok", "model": server.name, "device": model.device, "arch": std::env::consts::ARCH, "cpu_info": "",
        "cpu_count": std::thread::available_parallelism().map_or(1, usize::from), "cuda_devices": [],
        "version": {
            "build_date": "", "build_timestamp": "", "git_sha": "", "git_describe": format!("v{version}"),
        },
    });
    Ok(reply::json(&health).into_response())
}

/// `GET /props`: 503 while the model is loaded, as with llama-server. `incoder lsp` asks for it to learn whose server this is, and
/// must not wait until the model is there.
pub async fn props(State(server): State<Arc<Server>>) -> Result<Response, Problem> {
    let Some(model) = server.model.get() else { return Err(Problem::loading()) };
    let sampling = server.defaults.sampling;
    let props = json!({
        "default_generation_settings": {
            "n_ctx": model.context,
            "params": {
                "n_predict": server.defaults.max_tokens, "temperature": sampling.temperature,
                "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p,
                "repeat_penalty": sampling.repetition_penalty,
            },
        },
        "total_slots": model.slots, "model_path": server.name, "model_alias": server.name, "chat_template": "",
        "modalities": { "vision": false, "audio": false },
        "build_info": concat!("incoder ", env!("CARGO_PKG_VERSION")), "is_sleeping": false,
    });
    Ok(reply::json(&props).into_response())
}

/// `GET /slots`: the contexts that are kept. One request is served at a time, so that the first stands for the one at work; what it
/// computes is nobody else's business.
pub async fn slots(
    State(server): State<Arc<Server>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Problem> {
    let model = server.model.wait().await;
    let is_busy = server.metrics.is_busy();
    if is_busy && query.get("fail_on_no_slot").is_some_and(|value| value == "1") {
        return Err(Problem::no_slot());
    }
    let slot = |id: usize| {
        json!({
            "id": id, "n_ctx": model.context, "speculative": true, "is_processing": is_busy && id == 0,
            "requests_deferred": server.queue.waiting(),
        })
    };
    Ok(reply::json(&(0..model.slots).map(slot).collect()).into_response())
}

/// `GET /metrics`.
pub async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let text = server.metrics.text(server.queue.waiting());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// `GET /v1/models`.
pub async fn models(State(server): State<Arc<Server>>) -> Response {
    let Model { config, context, .. } = server.model.wait().await;
    let model = json!({
        "id": server.name, "object": "model", "created": server.started, "owned_by": "incoder",
        "meta": {
            "n_vocab": config.vocab_size, "n_ctx": context, "n_ctx_train": config.max_position_embeddings,
            "n_embd": config.d_model, "n_params": config.parameters(), "size": config.parameters() * 2,
        },
    });
    reply::json(&json!({ "object": "list", "data": [model] })).into_response()
}

/// `POST /tokenize`. Text that spells a special token is that token only where `parse_special` is true, as in llama-server by default.
pub async fn tokenize(State(server): State<Arc<Server>>, fields: Fields) -> Result<Response, Problem> {
    let tokenizer = server.model.wait().await.tokenizer.clone();
    let content = fields.text("content")?.unwrap_or_default();
    let sentinels = match fields.flag("parse_special")?.unwrap_or(true) {
        true => Sentinels::Parse,
        false => Sentinels::Literal,
    };
    let bos = fields.flag("add_special")?.unwrap_or(false);
    let with_pieces = fields.flag("with_pieces")?.unwrap_or(false);
    // A long text takes its time, and others are not to wait for it.
    let tokenized = tokio::task::spawn_blocking(move || -> incoder::Result<Value> {
        let tokens = tokenizer.encode_with(&content, sentinels, bos)?;
        Ok(match with_pieces {
            false => json!(tokens),
            true => tokens.iter().map(|&id| json!({ "id": id, "piece": piece(tokenizer.token_bytes(id)) })).collect(),
        })
    });
    let tokens = tokenized.await.map_err(|_| Problem::server("tokenizing failed"))??;
    Ok(reply::json(&json!({ "tokens": tokens })).into_response())
}

/// A token's text, or its bytes where they are none.
fn piece(bytes: Option<&[u8]>) -> Value {
    let bytes = bytes.unwrap_or_default();
    std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text))
}

/// `POST /detokenize`.
pub async fn detokenize(State(server): State<Arc<Server>>, fields: Fields) -> Result<Response, Problem> {
    let tokenizer = &server.model.wait().await.tokenizer;
    let tokens = match fields.get("tokens") {
        Some(Value::Array(tokens)) => ids(tokens)?,
        _ => return Err(Problem::request("Field 'tokens': expected an array of token ids")),
    };
    Ok(reply::json(&json!({ "content": tokenizer.decode(&tokens, false)? })).into_response())
}

/// Chat endpoints.
pub async fn no_chat() -> Problem {
    Problem::not_supported("InCoder completes, it does not chat: use /v1/completions with \"suffix\", or /infill")
}
