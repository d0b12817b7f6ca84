//! llama-server's own endpoints, for llama.vim, llama.vscode and whatever speaks to `/completion`.

use super::completion::{Answer, Document, End, Options, Text, Told};
use super::problem::Problem;
use super::reply::{self, Batch};
use super::request::{Fields, ids};
use super::state::{MAX_CANDIDATES, Model, Server, check_count};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use incoder::Timings;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Log probabilities beside a token's own.
pub const MAX_LOGPROBS: usize = 20;

/// `POST /infill`: the text around the cursor.
pub async fn infill(State(server): State<Arc<Server>>, fields: Fields) -> Result<Response, Problem> {
    let (prefix, suffix) = (fields.required_text("input_prefix")?, fields.required_text("input_suffix")?);
    check_extra(&fields)?;
    // As llama-server does: what the cursor's line has so far belongs to the text before it.
    let before = prefix + &fields.text("prompt")?.unwrap_or_default();
    let call = Call::new(&server, &fields)?;
    let documents = vec![Document::Hole { before, after: suffix }];
    call.run(&server, documents, false).await
}

/// `POST /completion`: a text to continue, or another model's template with a hole.
pub async fn completion(State(server): State<Arc<Server>>, fields: Fields) -> Result<Response, Problem> {
    let prompts = prompts(fields.get("prompt"))?;
    let call = Call::new(&server, &fields)?;
    let several = matches!(fields.get("prompt"), Some(Value::Array(all)) if prompts.len() > 1 || all.first().is_some_and(|first| !first.is_number()));
    call.run(&server, prompts, several).await
}

/// `POST /completions`, which is llama-server's own name for the same, and OpenAI's behind a base URL without `/v1`: what only
/// OpenAI's requests have tells them apart.
pub async fn completions(state: State<Arc<Server>>, fields: Fields) -> Result<Response, Problem> {
    if ["max_tokens", "suffix", "segments"].iter().any(|name| fields.has(name)) {
        super::openai::completions(state, fields).await
    } else {
        completion(state, fields).await
    }
}

/// Other files cannot fit into the context that InCoder has beside the one at hand; that they are what they should be is checked.
fn check_extra(fields: &Fields) -> Result<(), Problem> {
    let wrong = || Problem::request("Field 'input_extra': expected an array of objects with a string \"text\"");
    match fields.get("input_extra") {
        None => Ok(()),
        Some(Value::Array(chunks)) => {
            let is_chunk = |chunk: &Value| {
                chunk["text"].is_string()
                    && matches!(chunk.get("filename"), None | Some(Value::Null | Value::String(_)))
            };
            if chunks.iter().all(is_chunk) { Ok(()) } else { Err(wrong()) }
        }
        Some(_) => Err(wrong()),
    }
}

/// The prompts of a request: a text, token ids, or several of either.
pub fn prompts(prompt: Option<&Value>) -> Result<Vec<Document>, Problem> {
    let wrong = || Problem::request("Field 'prompt': expected a string, an array of token ids, or an array of these");
    match prompt {
        Some(Value::String(text)) => Ok(vec![Model::of_prompt(text.clone())]),
        Some(Value::Array(all)) if all.first().is_some_and(Value::is_number) => Ok(vec![Document::Ids(ids(all)?)]),
        Some(Value::Array(all)) if !all.is_empty() => {
            let document = |prompt: &Value| match prompt {
                Value::String(text) => Ok(Model::of_prompt(text.clone())),
                Value::Array(all) => Ok(Document::Ids(ids(all)?)),
                _ => Err(wrong()),
            };
            all.iter().map(document).collect()
        }
        None => Err(Problem::request("Field 'prompt' is required")),
        _ => Err(wrong()),
    }
}

/// A request as it was understood.
struct Call {
    options: Options,
    stream: bool,
    model: String,
    slot: i64,
    /// What of the answer is asked for, where not all of it is.
    response_fields: Option<Vec<String>>,
}

impl Call {
    fn new(server: &Server, fields: &Fields) -> Result<Self, Problem> {
        let mut options = server.options(fields, "stop")?;
        options.candidates = fields.within(&["n_cmpl", "n"], 1, MAX_CANDIDATES)?.unwrap_or(1);
        options.min_indentation = fields.whole(&["n_indent"])?.map_or(0, |n| usize::try_from(n).unwrap_or(0));
        let limit = fields.whole(&["t_max_predict_ms"])?.and_then(|ms| u64::try_from(ms).ok());
        options.time_limit = limit.filter(|&ms| ms > 0).map(Duration::from_millis);
        let probs = fields.whole(&["n_probs", "logprobs"])?.and_then(|n| usize::try_from(n).ok());
        options.logprobs = probs.filter(|&n| n > 0).map(|n| n.min(MAX_LOGPROBS));
        let response_fields = match fields.get("response_fields") {
            None => None,
            Some(Value::Array(names)) if names.is_empty() => None,
            Some(Value::Array(names)) => {
                Some(names.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect())
            }
            Some(_) => return Err(Problem::request("Field 'response_fields': expected an array of strings")),
        };
        Ok(Self {
            options,
            stream: fields.flag("stream")?.unwrap_or(false),
            model: server.name_for(fields)?,
            slot: 0,
            response_fields,
        })
    }

    async fn run(self, server: &Server, documents: Vec<Document>, several: bool) -> Result<Response, Problem> {
        check_count(documents.len(), self.options.candidates)?;
        let model = server.model.wait().await;
        if self.options.max_tokens == 0 {
            // To warm a cache up: there is nothing to compute for anybody, and the cache of the hole at hand stays.
            let nothing = Text { text: String::new(), ids: Vec::new(), end: End::Limit, logprobs: Vec::new() };
            let answer = Answer {
                texts: vec![nothing; self.options.candidates],
                prompt_tokens: 0,
                cached_tokens: 0,
                window: None,
                timings: Timings::default(),
            };
            return Ok(self.whole(model, &vec![answer; documents.len()], several));
        }
        let running = documents.into_iter().map(|document| server.submit(document, &self.options, None));
        let batch = Batch::new(running);
        if !self.stream {
            return Ok(self.whole(model, &batch.answers().await?, several));
        }
        let batch = batch.begun().await?;
        let (tokenizer, context) = (model.tokenizer.clone(), model.context);
        let candidates = self.options.candidates;
        let mut tokens = 0;
        let mut counts = vec![0; candidates];
        let render = move |prompt: usize, told: Told| match told {
            Told::Begun { prompt_tokens } => {
                tokens = prompt_tokens;
                counts.fill(0);
                Vec::new()
            }
            Told::Text { index, id, text } => {
                counts[index] += 1;
                let chunk = json!({
                    "index": prompt * candidates + index, "content": text, "tokens": [id], "stop": false,
                    "id_slot": self.slot, "tokens_predicted": counts[index], "tokens_evaluated": tokens,
                });
                vec![chunk.to_string()]
            }
            Told::Done(answer) => {
                let last = |i| {
                    let mut last = self.object(&tokenizer, context, &answer, prompt, i);
                    // The text has been sent.
                    last.insert("content".into(), json!(""));
                    Value::Object(last).to_string()
                };
                (0..answer.texts.len()).map(last).collect()
            }
            Told::Failed(problem) => vec![problem.body().to_string()],
        };
        Ok(reply::events(batch, render, None))
    }

    /// The answer in one piece: an array where several completions were asked for.
    fn whole(&self, model: &Model, answers: &[Answer], several: bool) -> Response {
        let objects = answers.iter().enumerate().flat_map(|(prompt, answer)| {
            (0..answer.texts.len()).map(move |i| self.object(&model.tokenizer, model.context, answer, prompt, i))
        });
        let mut objects: Vec<Value> = objects.map(|object| self.asked_for(object)).collect();
        match (several || self.options.candidates > 1, objects.pop()) {
            (false, Some(only)) => reply::json(&only).into_response(),
            (_, last) => {
                objects.extend(last);
                reply::json(&Value::Array(objects)).into_response()
            }
        }
    }

    /// The final object of completion `i` of a prompt.
    fn object(
        &self,
        tokenizer: &incoder::Tokenizer,
        context: usize,
        answer: &Answer,
        prompt: usize,
        i: usize,
    ) -> Map<String, Value> {
        let Text { text, ids, end, logprobs } = &answer.texts[i];
        let (stop_type, word) = match end {
            End::Model => ("eos", ""),
            End::Word(word) => ("word", word.as_str()),
            End::Limit => ("limit", ""),
        };
        let mut object = Map::new();
        let mut set = |name: &str, value: Value| object.insert(name.to_owned(), value);
        set("index", json!(prompt * self.options.candidates + i));
        set("content", json!(text));
        set("tokens", json!([]));
        set("id_slot", json!(self.slot));
        set("stop", json!(true));
        set("model", json!(self.model));
        set("tokens_predicted", json!(ids.len()));
        set("tokens_evaluated", json!(answer.prompt_tokens));
        set("generation_settings", self.settings(context));
        // What was sent is not sent back.
        set("prompt", json!(""));
        set("has_new_line", json!(text.contains('\n')));
        set("truncated", json!(answer.is_truncated()));
        set("stop_type", json!(stop_type));
        set("stopping_word", json!(word));
        set("tokens_cached", json!(answer.prompt_tokens + ids.len()));
        set("timings", timings(answer, ids.len()));
        if !logprobs.is_empty() {
            let token = |id: u32| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned();
            let probability = |id: u32, logprob: f64| {
                json!({
                    "id": id, "token": token(id), "bytes": tokenizer.token_bytes(id).unwrap_or_default(),
                    "logprob": logprob,
                })
            };
            let all = logprobs.iter().map(|one| {
                let mut of_token = probability(one.id, one.logprob.unwrap_or(0.0));
                of_token["top_logprobs"] = one.top.iter().map(|&(id, logprob)| probability(id, logprob)).collect();
                of_token
            });
            set("completion_probabilities", all.collect());
        }
        object
    }

    fn settings(&self, context: usize) -> Value {
        let Options { max_tokens, sampling, stop, candidates, ignore_eos, min_indentation, .. } = &self.options;
        json!({
            "n_ctx": context, "n_predict": max_tokens, "seed": sampling.seed, "temperature": sampling.temperature,
            "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty, "stop": stop, "n_cmpl": candidates,
            "ignore_eos": ignore_eos, "n_indent": min_indentation, "stream": self.stream,
        })
    }

    /// The fields that `response_fields` names, each at the root under its path.
    fn asked_for(&self, object: Map<String, Value>) -> Value {
        let Some(paths) = &self.response_fields else { return Value::Object(object) };
        let object = Value::Object(object);
        let field = |path: &String| Some((path.clone(), object.pointer(&format!("/{path}"))?.clone()));
        Value::Object(paths.iter().filter(|path| !path.is_empty()).filter_map(field).collect())
    }
}

/// llama-server's `timings`; every number is finite, as clients format them unasked.
pub fn timings(answer: &Answer, new_tokens: usize) -> Value {
    let Timings { prompt_ms, decode_ms, drafted_tokens, accepted_tokens, .. } = answer.timings;
    let each = |ms: f64, tokens: usize| if tokens > 0 { ms / tokens as f64 } else { 0.0 };
    let rate = |ms: f64, tokens: usize| if ms > 0.0 { tokens as f64 / ms * 1e3 } else { 0.0 };
    let prompt_tokens = answer.prompt_tokens - answer.cached_tokens;
    json!({
        "cache_n": answer.cached_tokens,
        "prompt_n": prompt_tokens, "prompt_ms": prompt_ms,
        "prompt_per_token_ms": each(prompt_ms, prompt_tokens), "prompt_per_second": rate(prompt_ms, prompt_tokens),
        "predicted_n": new_tokens, "predicted_ms": decode_ms,
        "predicted_per_token_ms": each(decode_ms, new_tokens), "predicted_per_second": rate(decode_ms, new_tokens),
        "draft_n": drafted_tokens, "draft_n_accepted": accepted_tokens,
    })
}
