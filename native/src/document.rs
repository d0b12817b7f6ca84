//! What `incoder infill` is to fill: the texts around the holes, and the file that they come from.

use crate::cli;
use crate::failure::{Failure, Result};
use crate::split::{self, Position};
use crate::text::{Text, place};
use crate::write_back::{self, Target};
use crate::{input, report};
use incoder::{FoundSentinel, Infilling, LineEnds, Tokenizer};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The texts around the holes, and what to do with the line ends of the result.
pub struct Document {
    /// What to call it in a message.
    pub name: String,
    /// What to call each of its parts, where they come from files of their own.
    part_names: Vec<String>,
    pub parts: Vec<String>,
    pub ends: LineEnds,
    /// The file, and its text as it was read, for --diff and --in-place.
    pub file: Option<(PathBuf, Text)>,
    /// The file, where it is to be written.
    target: Option<Target>,
    /// What stood between the parts.
    marker: Option<String>,
}

/// Every document that the arguments name. What is wrong with any of them is said before any is filled.
pub fn read_all(args: &cli::Infill) -> Result<Vec<Document>> {
    if let Some(path) = &args.parts {
        let (name, parts) = (input::name_of(path), input::read_parts(path)?);
        return Ok(vec![Document::of_parts(name, Vec::new(), parts, LineEnds::AsTheyAre)]);
    }
    if let (Some(prefix), Some(suffix)) = (&args.prefix_file, &args.suffix_file) {
        if input::is_stdin(prefix) && input::is_stdin(suffix) {
            return Err(Failure::usage("--prefix-file and --suffix-file cannot both be stdin"));
        }
        let (left, right) = (input::read_text(prefix)?, input::read_text(suffix)?);
        let ends = LineEnds::of([left.as_str(), &right]);
        let parts = vec![ends.to_model(&left).into_owned(), ends.to_model(&right).into_owned()];
        let names = [prefix, suffix].map(|path| input::name_of(path));
        return Ok(vec![Document::of_parts(names.join(" and "), names.to_vec(), parts, ends)]);
    }
    let files: Vec<&Path> = args.files().collect();
    match &files[..] {
        [] => Err(Failure::usage("nothing to fill: name a FILE (- for stdin), or give --parts")),
        [file] => Ok(vec![Document::open(file, args)?]),
        _ if !args.at.is_empty() => Err(Failure::usage("--at is for one file: name each of several as FILE:LINE:COL")),
        files => files.iter().map(|file| Document::open(file, args)).collect(),
    }
}

impl Document {
    fn of_parts(name: String, part_names: Vec<String>, parts: Vec<String>, ends: LineEnds) -> Self {
        Self { name, part_names, parts, ends, file: None, target: None, marker: None }
    }

    fn open(argument: &Path, args: &cli::Infill) -> Result<Self> {
        let (path, place) = split::file_and_place(argument);
        if place.is_some() && !args.at.is_empty() {
            return Err(Failure::usage(format!("{} and --at say both where the hole is", argument.display())));
        }
        if args.in_place && input::is_stdin(&path) {
            return Err(Failure::usage("--in-place needs a file, not stdin"));
        }
        // A FIFO that cannot be written back is not waited for.
        let target = if args.in_place { Some(Target::new(&path)?) } else { None };
        let (text, name) = (input::read(&path)?, input::name_of(&path));
        let ends = LineEnds::of([text.body.as_str()]);
        let body = ends.to_model(&text.body);
        let marker = ends.to_model(&args.marker).into_owned();
        let positions: Vec<Position> = args.at.iter().copied().chain(place).collect();
        let (parts, marker) = match &positions[..] {
            [] => (split::at_markers(&body, &marker, &name)?, Some(marker)),
            positions => (split::at_positions(&body, positions, &name)?, None),
        };
        Ok(Self { name, part_names: Vec::new(), parts, ends, file: Some((path, text)), target, marker })
    }

    /// Where a byte of a part is in the file: line and column, from 1.
    fn place(&self, part: usize, byte: usize) -> (usize, usize) {
        let marker = self.marker.as_deref().unwrap_or_default();
        place(
            &(self.parts[..part].iter().map(|part| format!("{part}{marker}")).collect::<String>()
                + &self.parts[part][..byte]),
        )
    }

    /// Fails with USAGE where a part spells a sentinel, and says where it does in the user's file.
    pub fn refuse_sentinels(&self, tokenizer: &Tokenizer) -> Result<()> {
        for (i, part) in self.parts.iter().enumerate() {
            let Some(FoundSentinel { id, at, .. }) = tokenizer.find_sentinel(part) else { continue };
            let sentinel = String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned();
            let advice = "take it out, or give --sentinels literal";
            let where_it_is = if self.file.is_some() {
                let (line, column) = self.place(i, at);
                format!("{}:{line}:{column}:", self.name)
            } else {
                let (line, column) = place(&part[..at]);
                match self.part_names.get(i) {
                    Some(name) => format!("{name}:{line}:{column}:"),
                    None => {
                        let count = self.parts.len();
                        format!("{}: part {} of {count}, line {line}, column {column}:", self.name, i + 1)
                    }
                }
            };
            return Err(Failure::usage(format!("{where_it_is} the text spells the sentinel {sentinel}: {advice}")));
        }
        Ok(())
    }

    /// `2 holes, at lines 3 and 7`, where markers said so.
    pub fn holes(&self) -> Option<String> {
        const MOST: usize = 10;
        self.marker.as_ref()?;
        let holes = self.parts.len() - 1;
        let more = holes.saturating_sub(MOST);
        let line = |i: usize| self.place(i, self.parts[i].len()).0.to_string();
        let mut lines: Vec<String> = (0..holes.min(MOST)).map(line).collect();
        let last = if more > 0 {
            Some(format!("{more} more"))
        } else if holes > 1 {
            lines.pop()
        } else {
            None
        };
        let word = if holes == 1 { "line" } else { "lines" };
        let and = last.map_or(String::new(), |last| format!(" and {last}"));
        Some(format!("{}: {}, at {word} {}{and}", self.name, report::count(holes, "hole"), lines.join(", ")))
    }

    /// Lines of the text, with the one after the last line break.
    pub fn lines(&self) -> usize {
        1 + self.parts.iter().map(|part| incoder::window::breaks(part)).sum::<usize>()
    }

    /// Gives the parts and the results the form that the file has: with its line ends and its byte-order mark. The `published` results
    /// stay as they are.
    pub fn put_in_file_form(&mut self, made: &mut [Infilling], published: bool) {
        let (mark, ends) = (self.mark(), self.ends);
        for infill in made.iter_mut().flat_map(|made| made.infills.iter_mut().chain(&mut made.alternatives)) {
            let text = if published { Cow::Borrowed(infill.text.as_str()) } else { whole_characters(&infill.text) };
            infill.text = ends.to_document(&text).into_owned();
        }
        for part in &mut self.parts {
            if let Cow::Owned(changed) = ends.to_document(part) {
                *part = changed;
            }
        }
        if let Some(first) = self.parts.first_mut() {
            first.insert_str(0, mark);
        }
    }

    /// What stands before the text in the file.
    pub fn mark(&self) -> &'static str {
        if self.file.as_ref().is_some_and(|(_, text)| text.has_mark) { "\u{feff}" } else { "" }
    }

    /// A unified diff from the file to the result.
    pub fn diff(&self, filled: &Infilling) -> String {
        match &self.file {
            Some((path, text)) => write_back::diff(path, &text.with_mark(&text.body), &filled.text(&self.parts, "")),
            None => String::new(),
        }
    }

    /// Writes the result to the file, where it is to be written.
    pub fn write(&self, filled: &Infilling) -> Result<()> {
        match (&self.target, &self.file) {
            (Some(target), Some((_, text))) => {
                target.replace(text.with_mark(&text.body).as_bytes(), filled.text(&self.parts, "").as_bytes())
            }
            _ => Ok(()),
        }
    }
}

/// Text of the model without U+FFFD, which stands for bytes that make no character: nobody wants them in a file.
pub fn whole_characters(text: &str) -> Cow<'_, str> {
    if text.contains(char::REPLACEMENT_CHARACTER) {
        Cow::Owned(text.replace(char::REPLACEMENT_CHARACTER, ""))
    } else {
        Cow::Borrowed(text)
    }
}
