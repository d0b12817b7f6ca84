//! text-generation-inference's `/generate`, which llm-ls can be set to.

use super::problem::Problem;
use super::reply;
use super::request::Fields;
use super::state::{Model, Server};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::Arc;

/// `POST /generate`.
pub async fn generate(State(server): State<Arc<Server>>, fields: Fields) -> Result<Response, Problem> {
    let inputs = fields.required_text("inputs")?;
    let parameters = fields.object("parameters")?;
    let options = server.options(&parameters, "stop")?;
    let before = match parameters.flag("return_full_text")? {
        Some(true) => inputs.clone(),
        _ => String::new(),
    };
    let mut text = String::new();
    if options.max_tokens > 0 {
        let answer = server.submit(Model::of_prompt(inputs), &options, None).answer().await?;
        text = answer.texts.into_iter().next().map(|text| text.text).unwrap_or_default();
    }
    Ok(reply::json(&json!({ "generated_text": before + &text })).into_response())
}
