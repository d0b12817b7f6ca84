//! `incoder tokenize` and `incoder detokenize`.

use crate::failure::{Failure, Result};
use crate::terminal::Output;
use crate::{Global, cli, engine, input, report};
use incoder::{Cancel, Sentinels};
use serde::Serialize;
use std::path::Path;

pub fn tokenize(args: &cli::Tokenize, global: &Global) -> Result<()> {
    #[derive(Serialize)]
    struct Tokens<'a> {
        ids: &'a [u32],
        /// As the vocabulary spells them; null for an id that it does not name.
        pieces: Vec<Option<String>>,
    }
    let tokenizer = engine::open_tokenizer(&args.model, global)?;
    let text = super::given_text(args.prompt.as_deref(), args.file.as_deref())?;
    // Special tokens in the text are what they are: this command shows what a text is to the model.
    let ids = tokenizer.encode_with(&text, Sentinels::Parse, !args.no_bos)?;
    let mut output = Output::new(&Cancel::default());
    if global.json {
        let pieces = ids.iter().map(|id| tokenizer.piece(*id)).collect();
        output.exact(&report::line(&Tokens { ids: &ids, pieces })?);
    } else {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        output.exact(&(ids.join(",") + "\n"));
    }
    output.finish()
}

pub fn detokenize(args: &cli::Detokenize, global: &Global) -> Result<()> {
    #[derive(Serialize)]
    struct Text {
        text: String,
    }
    let tokenizer = engine::open_tokenizer(&args.model, global)?;
    let ids = match &args.ids {
        Some(ids) => ids.0.clone(),
        None => cli::parse_ids(&input::read_text(Path::new("-"))?).map_err(Failure::usage)?.0,
    };
    let text = tokenizer.decode(&ids, args.skip_special)?;
    let mut output = Output::new(&Cancel::default());
    if global.json {
        output.exact(&report::line(&Text { text })?);
    } else {
        output.given(&text);
        output.end_line();
    }
    output.finish()
}
