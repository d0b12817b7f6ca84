//! Token healing: the last tokens before a cursor are taken back and generation is held to tokens that spell them.
//!
//! InCoder's tokens span blanks (`import numpy as np` is one), so a text that ends anywhere but at the end of a token
//! ends in tokens that the model never saw before what should follow.

use crate::text::tokenizer::Tokenizer;

/// Finds tokens by the bytes they begin with. Special tokens are never among them.
#[derive(Debug, Clone, Copy)]
pub struct Healer<'t> {
    tokenizer: &'t Tokenizer,
    /// Ascending by bytes: the tokens with one prefix stand together, the prefix itself first.
    sorted: &'t [u32],
    longest: usize,
}

impl<'t> Healer<'t> {
    /// A healer for this vocabulary.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        let (sorted, longest) = tokenizer.sorted_by_bytes();
        Self { tokenizer, sorted, longest }
    }

    /// How many of `ids` (the last ones before the cursor) to keep, and the bytes of those taken back.
    ///
    /// As many are taken as together still begin a longer token; never a special one, never half a character, and never
    /// a line break: text after one begins a token of its own anyway.
    pub fn take_back(&self, ids: &[u32]) -> (usize, Vec<u8>) {
        let (mut keep, mut taken) = (ids.len(), Vec::new());
        let mut bytes: Vec<u8> = Vec::new();
        for (i, &id) in ids.iter().enumerate().rev() {
            let token = self.tokenizer.token_bytes(id).unwrap_or_default();
            let breaks_line = token.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
            if self.tokenizer.is_special(id) || breaks_line || bytes.len() + token.len() >= self.longest {
                break;
            }
            bytes.splice(0..0, token.iter().copied());
            let longer = self.starting_with(&bytes).last().is_some_and(|&id| self.bytes(id).len() > bytes.len());
            let starts_character = bytes.first().is_some_and(|byte| byte & 0xC0 != 0x80);
            if longer && starts_character {
                (keep, taken) = (i, bytes.clone());
            }
        }
        (keep, taken)
    }

    /// The tokens that may come first when `remaining` has to be spelled: those that begin with it, and those that it
    /// begins with, where the rest can be spelled too. Empty when it cannot be spelled at all.
    pub fn allowed(&self, remaining: &[u8]) -> Vec<u32> {
        let n = remaining.len();
        let mut spellable = vec![false; n + 1];
        spellable[n] = true;
        for i in (1..n).rev() {
            let rest = &remaining[i..];
            spellable[i] = !self.starting_with(rest).is_empty()
                || (1..rest.len()).any(|len| spellable[i + len] && !self.spelling(&rest[..len]).is_empty());
        }
        let mut ids = self.starting_with(remaining).to_vec();
        for len in (1..n).filter(|&len| spellable[len]) {
            ids.extend_from_slice(self.spelling(&remaining[..len]));
        }
        ids
    }

    /// What of `remaining` is still to be spelled after `id`.
    pub fn advance(&self, remaining: &mut Vec<u8>, id: u32) {
        let spelled = self.tokenizer.token_bytes(id).unwrap_or_default().len();
        remaining.drain(..spelled.min(remaining.len()));
    }

    fn bytes(&self, id: u32) -> &'t [u8] {
        self.tokenizer.token_bytes(id).unwrap_or_default()
    }

    fn starting_with(&self, prefix: &[u8]) -> &'t [u32] {
        let from = &self.sorted[self.sorted.partition_point(|&id| self.bytes(id) < prefix)..];
        &from[..from.partition_point(|&id| self.bytes(id).starts_with(prefix))]
    }

    fn spelling(&self, bytes: &[u8]) -> &'t [u32] {
        let from = self.starting_with(bytes);
        &from[..from.partition_point(|&id| self.bytes(id).len() == bytes.len())]
    }
}
