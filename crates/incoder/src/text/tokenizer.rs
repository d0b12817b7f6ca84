//! tokenizer.json → token ids and back, every byte kept: InCoder's byte-level BPE and its sentinels.

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::text::fim::FillInTheMiddle;
use std::sync::OnceLock;
use tokenizers::DecoderWrapper;

const END_OF_TEXT: &str = "<|endoftext|>";
const END_OF_MASK: &str = "<|endofmask|>";
/// Of a long text, what is tokenized at a time.
const PIECE_BYTES: usize = 1 << 18;
/// Ids above this are a damaged file, not a vocabulary (as in config.json).
const MAX_VOCABULARY: u32 = 1 << 24;

/// What to do with text that spells one of the tokenizer's added tokens: a sentinel such as `<|mask:0|>`, or a control
/// token such as `<|endoftext|>` or `<s>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sentinels {
    /// It is text like any other: it is spelled with ordinary tokens and comes back exactly, and no special token is
    /// generated except the ones that end a text.
    #[default]
    Literal,
    /// It is an error that says where it stands.
    Refuse,
    /// It becomes the added token, as in the published code. The model may generate special tokens, too.
    Parse,
}

/// A sentinel or control token that a text spells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSentinel {
    /// Its token.
    pub id: u32,
    /// Where it starts, in bytes.
    pub at: usize,
    /// Where it starts: the line, from 1.
    pub line: usize,
    /// Where it starts: the character of the line, from 1.
    pub column: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The file has no such id.
    Absent,
    Ordinary,
    Special,
}

/// The vocabulary of a model folder.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The bytes of all tokens, one after the other; token `id` has `bytes[ends[id]..ends[id + 1]]`.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    prefix: Vec<u32>,
    masks: Vec<u32>,
    end_of_mask: Option<u32>,
    fim: Option<FillInTheMiddle>,
    eos: Option<u32>,
    /// The added tokens by the bytes that spell them, longer ones first where one begins with another.
    added: Vec<(Vec<u8>, u32)>,
    /// The tokenizer without added tokens. Made when a text first spells one of them that is to be taken literally.
    literal: OnceLock<tokenizers::Tokenizer>,
    /// Made when healing first asks, see `sorted_by_bytes`.
    sorted: OnceLock<(Vec<u32>, usize)>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).field("masks", &self.masks.len()).finish()
    }
}

impl Tokenizer {
    /// Reads tokenizer.json's text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for wrong JSON, or a tokenizer that does not decode byte-level tokens.
    pub fn from_json(json: &str) -> Result<Self> {
        let json = json.strip_prefix('\u{feff}').unwrap_or(json);
        check_file(json)?;
        let mut inner: tokenizers::Tokenizer = json.parse().map_err(failed)?;
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(failed("the decoder is not ByteLevel: only byte-level tokens are read"));
        }
        // A limit or padding left in the file by a training run would silently change prompts.
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);

        let added = inner.get_added_tokens_decoder();
        let vocab = inner.get_vocab(false);
        let ids = vocab.values().chain(added.keys());
        let Some(&last) = ids.max() else { return Err(failed("the vocabulary is empty")) };
        if last >= MAX_VOCABULARY {
            return Err(failed(format!("token id {last}, expected less than {MAX_VOCABULARY}")));
        }
        let mut tokens: Vec<Option<(&str, Kind)>> = vec![None; last as usize + 1];
        for (token, &id) in &vocab {
            tokens[id as usize] = Some((token, Kind::Ordinary));
        }
        for (&id, token) in &added {
            let kind = if token.special { Kind::Special } else { Kind::Ordinary };
            tokens[id as usize] = Some((&token.content, kind));
        }
        let (mut bytes, mut ends, mut kinds) = (Vec::new(), vec![0], Vec::new());
        let map = byte_map();
        for token in &tokens {
            if let Some((token, _)) = token {
                unmap(token, &map, &mut bytes);
            }
            ends.push(bytes.len());
            kinds.push(token.map_or(Kind::Absent, |t| t.1));
        }
        let special = |name: &str| added.iter().find(|(_, token)| token.content == name).map(|(&id, _)| id);
        let masks = (0..).map_while(|i| special(&format!("<|mask:{i}|>"))).collect();
        let (end_of_mask, eos) = (special(END_OF_MASK), special(END_OF_TEXT));
        let fim = FillInTheMiddle::find(special);
        let prefix = inner.encode_fast("", true).map_err(failed)?.get_ids().to_vec();
        let spelled = added.iter().filter(|(_, token)| !token.content.is_empty());
        let mut added: Vec<(Vec<u8>, u32)> =
            spelled.map(|(&id, token)| (token.content.clone().into_bytes(), id)).collect();
        added.sort_unstable_by(|a, b| b.cmp(a));
        let (literal, sorted) = (OnceLock::new(), OnceLock::new());
        Ok(Self { inner, bytes, ends, kinds, prefix, masks, end_of_mask, fim, eos, added, literal, sorted })
    }

    /// Ids in the file: the largest id and one.
    pub fn vocab_size(&self) -> usize {
        self.kinds.len()
    }

    /// The sentinel `<|mask:i|>`.
    pub fn mask(&self, i: usize) -> Option<u32> {
        self.masks.get(i).copied()
    }

    /// How many sentinels `<|mask:0|>`, `<|mask:1|>`, … there are.
    pub fn mask_count(&self) -> usize {
        self.masks.len()
    }

    /// Whether `id` is a sentinel `<|mask:i|>`.
    pub fn is_mask(&self, id: u32) -> bool {
        self.masks.contains(&id)
    }

    /// `<|endofmask|>`, which ends an infill.
    pub fn end_of_mask(&self) -> Option<u32> {
        self.end_of_mask
    }

    /// The sentinels of a model that was trained to fill in the middle, in the place of masks.
    pub(crate) fn fim(&self) -> Option<&FillInTheMiddle> {
        self.fim.as_ref()
    }

    /// Whether a model with this vocabulary can fill holes.
    pub fn can_infill(&self) -> bool {
        self.fim.is_some() || self.end_of_mask.is_some() && !self.masks.is_empty()
    }

    /// `<|endoftext|>`, which ends a document.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The tokens that the file puts before every text.
    pub(crate) fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The token that the file puts before every text (`<|endoftext|>` in InCoder's).
    pub fn bos(&self) -> Option<u32> {
        self.prefix.first().copied()
    }

    /// Whether `id` is in the file.
    pub fn contains(&self, id: u32) -> bool {
        self.kind(id) != Kind::Absent
    }

    /// Whether `id` is one of the file's special tokens.
    pub fn is_special(&self, id: u32) -> bool {
        self.kind(id) == Kind::Special
    }

    /// The added tokens: special ones, and others that are looked for in a text before anything else.
    pub(crate) fn added(&self) -> impl Iterator<Item = u32> {
        self.added.iter().map(|&(_, id)| id)
    }

    fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Absent)
    }

    /// The token as the vocabulary spells it (`Ġ` for a blank).
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The bytes that a token stands for; a special token stands for its own name. None for an id that is not in the file.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let i = id as usize;
        self.contains(id).then(|| &self.bytes[self.ends[i]..self.ends[i + 1]])
    }

    /// Ordinary (not special, not empty) tokens, ascending by their bytes, and the bytes of the longest.
    pub(crate) fn sorted_by_bytes(&self) -> (&[u32], usize) {
        let (sorted, longest) = self.sorted.get_or_init(|| {
            let ids = (0..self.vocab_size() as u32).filter(|&id| self.kind(id) == Kind::Ordinary);
            let mut tokens: Vec<(&[u8], u32)> =
                ids.filter_map(|id| Some((self.token_bytes(id).filter(|bytes| !bytes.is_empty())?, id))).collect();
            tokens.sort_unstable();
            let longest = tokens.iter().map(|token| token.0.len()).max().unwrap_or(0);
            (tokens.into_iter().map(|token| token.1).collect(), longest)
        });
        (sorted, *longest)
    }

    /// The ids of a text, after the token that the file puts first.
    ///
    /// # Errors
    /// [`Error::Argument`] for text that spells an added token, with [`Sentinels::Refuse`].
    pub fn encode(&self, text: &str, sentinels: Sentinels) -> Result<Vec<u32>> {
        self.encode_with(text, sentinels, true)
    }

    /// The ids of a text, with or without the token that the file puts first.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with(&self, text: &str, sentinels: Sentinels, bos: bool) -> Result<Vec<u32>> {
        let spells = sentinels != Sentinels::Parse && self.added_at(text).is_some();
        match sentinels {
            Sentinels::Refuse if spells => Err(self.refusal(text, "the text")),
            Sentinels::Literal if spells => {
                let mut ids = if bos { self.prefix.clone() } else { Vec::new() };
                ids.extend_from_slice(self.literal()?.encode_fast(text, false).map_err(failed)?.get_ids());
                Ok(ids)
            }
            _ => Ok(self.inner.encode_fast(text, bos).map_err(failed)?.get_ids().to_vec()),
        }
    }

    /// [`Tokenizer::encode`] for texts of any size: in pieces that end at line breaks, which no token spans in InCoder's
    /// vocabulary, so that memory does not grow with the text and `cancel` takes effect between two of them.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], and [`Error::Cancelled`].
    pub fn encode_long(&self, text: &str, sentinels: Sentinels, cancel: &Cancel) -> Result<Vec<u32>> {
        if sentinels == Sentinels::Refuse {
            self.refuse_sentinels(text, "the text")?;
        }
        let mut ids = self.prefix.clone();
        let mut rest = text;
        while !rest.is_empty() {
            cancel.check()?;
            let near = rest.ceil_char_boundary(PIECE_BYTES.min(rest.len()));
            // A run of line breaks is tokenized as one.
            let is_cut = |&at: &usize| !rest[at..].starts_with(['\r', '\n']);
            let cut = rest[near..].match_indices('\n').map(|(i, _)| near + i + 1).find(is_cut).unwrap_or(rest.len());
            ids.extend(self.encode_with(&rest[..cut], sentinels, false)?);
            rest = &rest[cut..];
        }
        Ok(ids)
    }

    /// The same model and rules without the added tokens, which are taken out of a text before anything else.
    fn literal(&self) -> Result<&tokenizers::Tokenizer> {
        if let Some(literal) = self.literal.get() {
            return Ok(literal);
        }
        let mut literal = tokenizers::Tokenizer::new(self.inner.get_model().clone());
        literal.with_normalizer(self.inner.get_normalizer().cloned()).map_err(failed)?;
        literal.with_pre_tokenizer(self.inner.get_pre_tokenizer().cloned());
        Ok(self.literal.get_or_init(|| literal))
    }

    /// The first added token that `text` spells: where, and its id.
    fn added_at(&self, text: &str) -> Option<(usize, u32)> {
        let bytes = text.as_bytes();
        let mut first = [false; 256];
        self.added.iter().for_each(|(name, _)| first[name[0] as usize] = true);
        let mut starts = (0..bytes.len()).filter(|&at| first[bytes[at] as usize]);
        let named = |at: usize| self.added.iter().find(|(name, _)| bytes[at..].starts_with(name));
        starts.find_map(|at| named(at).map(|&(_, id)| (at, id)))
    }

    /// The first sentinel or control token that `text` spells out.
    pub fn find_sentinel(&self, text: &str) -> Option<FoundSentinel> {
        let (at, id) = self.added_at(text)?;
        let line_start = text[..at].rfind('\n').map_or(0, |i| i + 1);
        let line = text[..at].matches('\n').count() + 1;
        Some(FoundSentinel { id, at, line, column: text[line_start..at].chars().count() + 1 })
    }

    /// Refuses a text that spells an added token; the error says which one, where, and in `whose` text.
    pub(crate) fn refuse_sentinels(&self, text: &str, whose: &str) -> Result<()> {
        if self.added_at(text).is_some() { Err(self.refusal(text, whose)) } else { Ok(()) }
    }

    fn refusal(&self, text: &str, whose: &str) -> Error {
        let Some(found) = self.find_sentinel(text) else {
            return Error::argument(format!("{whose} spells a sentinel"));
        };
        let name = String::from_utf8_lossy(self.token_bytes(found.id).unwrap_or_default()).into_owned();
        Error::argument(format!(
            "{whose} spells the special token {name} at line {}, column {} (byte {}): take it out, or have it taken as \
             literal text",
            found.line, found.column, found.at
        ))
    }

    /// The text of `ids`, nothing cleaned up; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id that is not in the file.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let mut stream = self.stream(skip_special);
        let mut text = String::new();
        for &id in ids {
            text += &stream.push(id)?;
        }
        text += &stream.finish();
        Ok(text)
    }

    /// A decoder that takes one id at a time.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder { tokenizer: self, skip_special, drop: 0, pending: Vec::new() }
    }
}

/// Ids in, text out, as soon as it is certain: never half a character, and never one lost.
///
/// What the pushes and [`StreamDecoder::finish`] return is together exactly what [`Tokenizer::decode`] returns.
#[derive(Debug, Clone)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    drop: usize,
    /// Bytes that may yet become a character: at most 3 between calls.
    pending: Vec<u8>,
}

impl StreamDecoder<'_> {
    /// The decoder that leaves out the first `n` bytes: those that a healed prompt already shows.
    #[must_use]
    pub fn dropping(mut self, n: usize) -> Self {
        self.drop = n;
        self
    }

    /// Takes the next id and returns the text that is now complete.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id that is not in the file.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let Some(bytes) = self.tokenizer.token_bytes(id) else {
            let n = self.tokenizer.vocab_size();
            return Err(Error::argument(format!(
                "token id {id} is not in the tokenizer, whose {n} ids are 0 to {}",
                n - 1
            )));
        };
        if self.skip_special && self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        let dropped = bytes.len().min(self.drop);
        self.drop -= dropped;
        self.pending.extend_from_slice(&bytes[dropped..]);
        Ok(take_complete(&mut self.pending))
    }

    /// What is left: the start of a character that never came becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// Takes out everything but an unfinished character at the end; broken bytes become U+FFFD as in `from_utf8_lossy`.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest: &[u8] = bytes;
    while let Some(chunk) = rest.utf8_chunks().next() {
        text += chunk.valid();
        rest = &rest[chunk.valid().len()..];
        let unfinished = std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_none() && e.valid_up_to() == 0);
        if unfinished || chunk.invalid().is_empty() {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        rest = &rest[chunk.invalid().len()..];
    }
    let left = rest.to_vec();
    *bytes = left;
    text
}

/// Refuses what the tokenizers crate would panic on: wrong JSON inside a decoder, and merges that make no token.
fn check_file(json: &str) -> Result<()> {
    let file = crate::checkpoint::json::parse(json).map_err(failed)?;
    let model = &file["model"];
    let prefix = &model["continuing_subword_prefix"];
    if !prefix.is_null() && prefix != "" {
        return Err(failed(format!("continuing_subword_prefix is {prefix}, InCoder's tokenizer has none")));
    }
    for merge in model["merges"].as_array().into_iter().flatten() {
        let (a, b) = match merge {
            serde_json::Value::String(pair) => pair.split_once(' ').unwrap_or_default(),
            pair => (pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default()),
        };
        if model["vocab"].get(format!("{a}{b}")).is_none() {
            return Err(failed(format!("the merge {merge} makes a token that the vocabulary lacks")));
        }
    }
    Ok(())
}

fn failed(problem: impl ToString) -> Error {
    Error::Tokenizer { problem: problem.to_string() }
}

/// The 256 characters that byte-level BPE writes bytes as, by code point below 512.
///
/// Source: `bytes_to_unicode` of GPT-2's encoder.py.
fn byte_map() -> [Option<u8>; 512] {
    let mut map = [None; 512];
    let mut next = 256;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let at = if printable { byte as usize } else { next };
        next += usize::from(!printable);
        map[at] = Some(byte);
    }
    map
}

/// Appends the bytes that a token spells; one with a character outside the map stands for itself.
fn unmap(token: &str, map: &[Option<u8>; 512], out: &mut Vec<u8>) {
    let start = out.len();
    for c in token.chars() {
        match map.get(c as usize).copied().flatten() {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_of_bytes_decode_like_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..40), cut in 1usize..5) {
            let (mut pending, mut text) = (Vec::new(), String::new());
            for piece in bytes.chunks(cut) {
                pending.extend_from_slice(piece);
                text += &take_complete(&mut pending);
                prop_assert!(pending.len() < 4);
            }
            text += &String::from_utf8_lossy(&pending);
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn maps_every_byte_once() {
        let mut bytes: Vec<u8> = byte_map().into_iter().flatten().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        let mut out = Vec::new();
        unmap("aĠ", &byte_map(), &mut out);
        unmap("Ġ✓", &byte_map(), &mut out);
        assert_eq!(out, "a Ġ✓".as_bytes());
    }
}
