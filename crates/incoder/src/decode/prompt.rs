//! What of a document one prompt shows, and that prompt: `A <|mask:0|> C <|mask:1|> E <|mask:2|>`, then for each hole
//! `<|mask:i|>` and what the model writes up to `<|endofmask|>`. A model that was trained to fill in the middle sees one hole at a
//! time: `<|fim_prefix|> A <|fim_suffix|> C <|fim_middle|>`, and what it writes.

use crate::decode::infill::InfillOptions;
use crate::error::{Error, Result};
use crate::text::fim::FillInTheMiddle;
use crate::text::healing::Healer;
use crate::text::tokenizer::{Sentinels, Tokenizer};
use crate::text::window::{self, BYTES_A_TOKEN, Counter, Fitted, Overflow, Side, Window, breaks, estimate};

/// Most tokens of the look-back, and the share of the context window that they may take is one in so many.
const LOOK_BACK_TOKENS: usize = 256;
const LOOK_BACK_SHARE: usize = 4;
/// How often a window is made smaller that turned out a few tokens too large.
const ATTEMPTS: usize = 4;

/// The parts of a document and what was filled in between them so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Document<'a> {
    pub parts: &'a [String],
    pub fills: &'a [String],
}

impl<'a> Document<'a> {
    /// The texts before hole `index`, and whether each is one of the parts.
    fn texts_before(&self, index: usize) -> impl DoubleEndedIterator<Item = (&'a str, bool)> + use<'a> {
        let (parts, fills) = (self.parts, self.fills);
        (0..=index).flat_map(move |i| {
            let fill = fills.get(i).filter(|_| i < index).map_or("", String::as_str);
            [(parts[i].as_str(), true), (fill, false)]
        })
    }

    /// The end of the text before hole `index`: at most about `most` bytes, and how many are left out.
    pub fn before(&self, index: usize, most: usize) -> (String, usize) {
        let (mut near, mut bytes, mut all) = (Vec::new(), 0, 0);
        for (text, _) in self.texts_before(index).rev() {
            all += text.len();
            let piece = &text[text.ceil_char_boundary(text.len().saturating_sub(most - bytes.min(most)))..];
            // What comes before a text that was cut is not wanted either.
            if bytes < most {
                near.push(piece);
                bytes = if piece.len() < text.len() { most } else { bytes + piece.len() };
            }
        }
        let near: String = near.into_iter().rev().collect();
        let beyond = all - near.len();
        (near, beyond)
    }

    /// The start of the text after hole `index`: at most about `most` bytes, how many are left out, and the bytes at which the
    /// holes after this one lie.
    fn after(&self, index: usize, most: usize) -> (String, usize, Vec<usize>) {
        let (mut near, mut holes, mut beyond) = (String::new(), Vec::new(), 0);
        for (i, part) in self.parts[index + 1..].iter().enumerate() {
            if i > 0 && beyond == 0 {
                holes.push(near.len());
            }
            let room = if beyond == 0 { most - near.len().min(most) } else { 0 };
            let piece = &part[..part.floor_char_boundary(room)];
            near += piece;
            beyond += part.len() - piece.len();
        }
        (near, beyond, holes)
    }

    /// Line breaks before hole `index`, those of the parts alone or also those that were filled in.
    fn breaks_before(&self, index: usize, filled: bool) -> usize {
        self.texts_before(index).filter(|(_, part)| *part || filled).map(|(text, _)| breaks(text)).sum()
    }

    /// The number of the line, from 1 and in the document as it was given, in which byte `at` of the text before hole `index` lies.
    fn line_before(&self, index: usize, at: usize) -> usize {
        let (mut line, mut passed) = (1, 0);
        for (text, part) in self.texts_before(index) {
            let end = at.saturating_sub(passed).min(text.len());
            if part {
                line += breaks(&text[..end]);
            }
            passed += text.len();
            if passed >= at {
                break;
            }
        }
        line
    }
}

/// What one prompt shows.
#[derive(Debug)]
pub(crate) struct View {
    /// The document's hole that is at the first sentinel.
    first: usize,
    /// The texts around the holes.
    heads: Vec<String>,
    /// What each hole begins with.
    begun: Vec<String>,
    /// The regions that are filled, as they stand behind the document.
    tail: Vec<u32>,
    /// The hole that the last prompt was for, and what the prompt had of its region.
    region: (usize, String),
    /// Which part of the document it is.
    pub window: Window,
}

/// The tokens of a prompt.
#[derive(Debug)]
pub(crate) struct Ids {
    pub all: Vec<u32>,
    /// Those after which the new text will stand in the document: what is before the hole, and what the hole begins with.
    pub before: Vec<u32>,
}

/// Makes views and prompts: what they have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Viewer<'a> {
    pub tokenizer: &'a Tokenizer,
    pub options: &'a InfillOptions,
    /// Tokens that the context window holds.
    pub capacity: usize,
    /// Holes of the whole document.
    pub holes: usize,
    /// Tokens that the model's positions were trained for, for the message when there is too little room.
    pub trained: usize,
}

impl Viewer<'_> {
    /// The prompt for hole `index`, and the text that healing took back: from `last`, the view of the hole before, as long as
    /// that shows the hole and has room for the new text, otherwise from a new view, which comes with it.
    pub fn prompt(
        &self,
        document: &Document<'_>,
        index: usize,
        last: Option<View>,
    ) -> Result<(View, String, Ids, bool)> {
        let whole = self.options.overflow == Overflow::Error;
        if let Some(mut view) = last.filter(|view| view.shows(index)) {
            let (taken, ids) = self.prompt_in(&mut view, index)?;
            if whole || ids.all.len() + self.reserve() <= self.capacity {
                return Ok((view, taken, ids, false));
            }
        }
        let mut cut = 0;
        for attempt in 1.. {
            let mut view = self.view(document, index, cut)?;
            let (taken, ids) = self.prompt_in(&mut view, index)?;
            let excess = (ids.all.len() + self.reserve()).saturating_sub(self.capacity);
            if whole || excess == 0 || attempt == ATTEMPTS {
                return Ok((view, taken, ids, true));
            }
            cut += excess;
        }
        unreachable!("the last attempt returns")
    }

    /// Tokens kept for the text of one hole.
    fn reserve(&self) -> usize {
        window::reserve(self.capacity, self.options.max_new_tokens)
    }

    /// What was to be refused was refused before: what the model writes may spell anything.
    fn sentinels(&self) -> Sentinels {
        if self.options.sentinels == Sentinels::Literal { Sentinels::Literal } else { Sentinels::Parse }
    }

    fn counter(&self) -> Counter<'_> {
        Counter { tokenizer: self.tokenizer, sentinels: self.sentinels() }
    }

    /// What to show for hole `index`, in `cut` tokens less than there is room for.
    fn view(&self, document: &Document<'_>, index: usize, cut: usize) -> Result<View> {
        let counter = self.counter();
        let most = self.capacity.saturating_mul(BYTES_A_TOKEN);
        let (before, before_beyond) = document.before(index, most);
        let (after, after_beyond, mut holes) = document.after(index, most);
        if self.tokenizer.fim().is_some() {
            holes.clear();
        }
        let sides = (Side { text: &before, beyond: before_beyond }, Side { text: &after, beyond: after_beyond });
        let begun = if index == 0 { self.encode(&self.options.begun)?.len() } else { 0 };
        let budget = |shown: usize, reserve: usize| {
            let sentinels = match self.tokenizer.fim() {
                Some(_) => FillInTheMiddle::SENTINELS,
                None => shown + usize::from(self.options.extra_sentinel) + 1,
            };
            let sentinels = self.tokenizer.prefix().len() + sentinels;
            let need = sentinels + begun + reserve + cut;
            let have = self.capacity;
            let left = have.checked_sub(need).filter(|&left| left > 0 || before.is_empty() && after.is_empty());
            left.ok_or(Error::Context { need: need + 1, have, trained: self.trained })
        };
        let fit = |budget| counter.fit(sides.0, sides.1, budget);
        let mut fitted = if self.options.overflow == Overflow::Error {
            self.all_of(sides)?
        } else {
            fit(budget(1 + holes.len(), self.reserve())?)?
        };
        if !fitted.whole && !holes.is_empty() {
            fitted = fit(budget(1, self.reserve())?)?;
            let shown = 1 + holes.iter().filter(|&&at| at < fitted.end).count();
            if shown > 1 {
                let reserve = (shown * (self.reserve() + 2)).min(self.capacity / 2).max(self.reserve());
                fitted = fit(budget(shown, reserve)?)?;
            }
        }
        let mut heads = vec![before[fitted.start..].to_owned()];
        let mut from = 0;
        for &at in holes.iter().filter(|&&at| fitted.whole || at < fitted.end) {
            heads.push(after[from..at].to_owned());
            from = at;
        }
        heads.push(after[from..fitted.end].to_owned());
        let shown = fitted.end + before.len() - fitted.start;
        let left_out = before_beyond + fitted.start + after_beyond + after.len() - fitted.end;
        let cut_at_break =
            left_out > 0 && fitted.end < after.len() + after_beyond && after[..fitted.end].ends_with('\n');
        let window = Window {
            first_line: document.line_before(index, before_beyond + fitted.start),
            last_line: 1 + document.breaks_before(index, false) + breaks(&after[..fitted.end])
                - usize::from(cut_at_break),
            tokens: fitted.tokens,
            left_out_tokens: if left_out == 0 { 0 } else { estimate(left_out, fitted.tokens, shown) },
        };
        let begun = self.look_back(document, index, &mut heads, before_beyond + fitted.start)?;
        Ok(View { first: index, heads, begun, tail: Vec::new(), region: (index, String::new()), window })
    }

    /// Everything, or the error that says how much too large that is.
    fn all_of(&self, (before, after): (Side<'_>, Side<'_>)) -> Result<Fitted> {
        let (start, end) = (0, after.text.len());
        let tokens = self.encode(before.text)?.len() + self.encode(after.text)?.len();
        let beyond = before.beyond + after.beyond;
        if beyond > 0 {
            let need = tokens + estimate(beyond, tokens, before.text.len() + after.text.len());
            return Err(Error::Context {
                need: need.max(self.capacity + 1),
                have: self.capacity,
                trained: self.trained,
            });
        }
        Ok(Fitted { start, end, tokens, whole: true })
    }

    /// Moves the last lines of each head into the hole after it; `beyond` bytes stand before the first head.
    fn look_back(
        &self,
        document: &Document<'_>,
        index: usize,
        heads: &mut [String],
        beyond: usize,
    ) -> Result<Vec<String>> {
        let lines = self.options.look_back_lines(self.holes);
        let limit = LOOK_BACK_TOKENS.min(self.capacity / LOOK_BACK_SHARE);
        let mut begun = vec![String::new(); heads.len() - 1];
        if lines > 0 {
            let mut line = document.breaks_before(index, true);
            for (i, begun) in begun.iter_mut().enumerate() {
                let head = &mut heads[i];
                // Of the text between two holes one half stays behind the first, as what follows it.
                let inside = breaks(head);
                line += if i > 0 { inside } else { 0 };
                let most_lines = if i > 0 { inside / 2 } else { usize::MAX };
                if i == 0 || inside > 0 {
                    let at = self.counter().look_back(
                        head,
                        if i > 0 { 0 } else { beyond },
                        line,
                        lines,
                        most_lines,
                        limit,
                    )?;
                    *begun = head.split_off(at);
                }
            }
        }
        if let (0, Some(first)) = (index, begun.first_mut()) {
            *first += &self.options.begun;
        }
        Ok(begun)
    }

    /// The prompt for hole `index` of the document, which `view` shows.
    fn prompt_in(&self, view: &mut View, index: usize) -> Result<(String, Ids)> {
        let i = index - view.first;
        let mut taken = self.take_back(&mut view.heads[i])?;
        // What the prompt has of the region itself.
        let mut region = String::new();
        if !view.begun[i].is_empty() {
            region = taken + &view.begun[i];
            taken = self.take_back(&mut region)?;
        }
        let shown = view.heads.len() - 1;
        if let (Some(fim), [head, after]) = (self.tokenizer.fim(), &view.heads[..]) {
            let (begin, head, begun) = (self.tokenizer.prefix(), self.encode(head)?, self.encode(&region)?);
            let all = fim.prompt(begin, &head, &self.encode(after)?, &begun);
            view.region = (i, region);
            return Ok((taken, Ids { all, before: [begin, &head, &begun].concat() }));
        }
        let mut all = self.tokenizer.prefix().to_vec();
        let mut before = Vec::new();
        for (k, head) in view.heads.iter().enumerate() {
            all.extend(self.encode(head)?);
            if k == i {
                before.clone_from(&all);
            }
            if k < shown || self.options.extra_sentinel {
                all.push(self.mask(k)?);
            }
        }
        all.extend_from_slice(&view.tail);
        all.push(self.mask(i)?);
        let begun = self.encode(&region)?;
        all.extend_from_slice(&begun);
        before.extend(begun);
        view.region = (i, region);
        Ok((taken, Ids { all, before }))
    }

    /// Puts the text of the hole that the last prompt was for behind the document, for the holes after it; `eos` is the token
    /// that ended it, where it was not the end of the hole.
    pub fn filled(&self, view: &mut View, text: &str, eos: Option<u32>) -> Result<()> {
        let (i, region) = &mut view.region;
        *region += text;
        if self.tokenizer.fim().is_some() {
            // The next hole gets a prompt of its own, in which this one is text.
            return Ok(());
        }
        view.tail.push(self.mask(*i)?);
        view.tail.extend(self.encode(region)?);
        view.tail.extend(eos);
        view.tail.extend(self.tokenizer.end_of_mask());
        Ok(())
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode_with(text, self.sentinels(), false)
    }

    fn mask(&self, i: usize) -> Result<u32> {
        self.tokenizer.mask(i).ok_or_else(|| Error::argument(format!("this tokenizer has no <|mask:{i}|>")))
    }

    /// Shortens the text before a cursor by what healing takes back of it.
    fn take_back(&self, head: &mut String) -> Result<String> {
        if !self.options.heal {
            return Ok(String::new());
        }
        let ids = self.encode(head)?;
        let (_, taken) = Healer::new(self.tokenizer).take_back(&ids);
        Ok(head.split_off(head.len() - taken.len()))
    }
}

impl View {
    fn shows(&self, index: usize) -> bool {
        index - self.first < self.begun.len()
    }
}
