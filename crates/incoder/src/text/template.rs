//! Prompts in which other models are asked to fill a hole: many editors know no other way to say where the cursor is.

/// A hole that a prompt describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole<'a> {
    /// What stands before the template: other files, or instructions. It is no part of the document.
    pub context: &'a str,
    /// The text before the hole.
    pub before: &'a str,
    /// The text after it.
    pub after: &'a str,
}

/// Markers before the prefix, between prefix and suffix, and behind the suffix.
const TEMPLATES: [[&str; 3]; 7] = [
    // StarCoder, StableCode
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    // SantaCoder
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    // Qwen, CodeGemma, Granite
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    // Code Llama
    ["<PRE> ", " <SUF>", " <MID>"],
    // DeepSeek
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    // GLM
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
    // Seed-Coder
    ["<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"],
];
/// Codestral's markers: its prompt begins with the suffix, and ends where the new text follows.
const CODESTRAL: [&str; 2] = ["[SUFFIX]", "[PREFIX]"];
/// InCoder's own, at the hole and behind the document.
const INCODER: [&str; 2] = ["<|mask:0|>", "<|mask:1|><|mask:0|>"];

/// The hole of a prompt that is one of the known templates, exactly: its markers in their order, none of them twice, the last
/// one at the end. Any other prompt is a text to continue.
pub fn hole(prompt: &str) -> Option<Hole<'_>> {
    codestral(prompt).or_else(|| incoder(prompt)).or_else(|| TEMPLATES.iter().find_map(|markers| of(prompt, markers)))
}

fn of<'a>(prompt: &'a str, [first, second, last]: &[&str; 3]) -> Option<Hole<'a>> {
    let rest = prompt.strip_suffix(last)?;
    let (context, rest) = rest.split_once(first)?;
    let (before, after) = rest.split_once(second)?;
    let is_once = |marker: &str| prompt.matches(marker.trim()).count() == 1;
    [first, second, last].iter().all(|marker| is_once(marker)).then_some(Hole { context, before, after })
}

fn codestral(prompt: &str) -> Option<Hole<'_>> {
    let (after, before) = prompt.strip_prefix(CODESTRAL[0])?.split_once(CODESTRAL[1])?;
    let is_once = |marker: &str| prompt.matches(marker).count() == 1;
    CODESTRAL.iter().all(|marker| is_once(marker)).then_some(Hole { context: "", before, after })
}

fn incoder(prompt: &str) -> Option<Hole<'_>> {
    let document = prompt.strip_suffix(INCODER[1])?;
    let (before, after) = document.split_once(INCODER[0])?;
    (!after.contains("<|mask:") && !before.contains("<|mask:")).then_some(Hole { context: "", before, after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How each template is written around a prefix and a suffix.
    const WRITTEN: [&str; 9] = [
        "<fim_prefix>P<fim_suffix>S<fim_middle>",
        "<fim-prefix>P<fim-suffix>S<fim-middle>",
        "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
        "<PRE> P <SUF>S <MID>",
        "<｜fim▁begin｜>P<｜fim▁hole｜>S<｜fim▁end｜>",
        "<|code_prefix|>P<|code_suffix|>S<|code_middle|>",
        "<[fim-prefix]>P<[fim-suffix]>S<[fim-middle]>",
        "[SUFFIX]S[PREFIX]P",
        "P<|mask:0|>S<|mask:1|><|mask:0|>",
    ];

    fn write(template: &str, before: &str, after: &str) -> String {
        // Markers have these letters, too: those that stand alone are meant.
        let alone = |letter: char| {
            let is_alone = |&(at, c): &(usize, char)| {
                let around = [template[..at].chars().next_back(), template[at + c.len_utf8()..].chars().next()];
                c == letter && around.iter().all(|c| c.is_none_or(|c| !c.is_ascii_uppercase()))
            };
            template.char_indices().find(is_alone).unwrap().0
        };
        let mut places = [(alone('P'), before), (alone('S'), after)];
        places.sort_unstable_by_key(|place| place.0);
        let [(first, a), (second, b)] = places;
        [&template[..first], a, &template[first + 1..second], b, &template[second + 1..]].concat()
    }

    #[test]
    fn every_template_is_recognised() {
        for template in WRITTEN {
            let prompt = write(template, "def f(x):\n    ", "\n\nprint(f(1))\n");
            let hole = hole(&prompt).unwrap_or_else(|| panic!("{template}"));
            assert_eq!(
                (hole.context, hole.before, hole.after),
                ("", "def f(x):\n    ", "\n\nprint(f(1))\n"),
                "{template}"
            );
        }
    }

    #[test]
    fn what_stands_before_a_template_is_no_part_of_the_document() {
        let prompt = "<|repo_name|>r\n<|file_sep|>a.py\nx = 1\n<|fim_prefix|>p<|fim_suffix|>s<|fim_middle|>";
        let hole = hole(prompt).unwrap();
        assert_eq!((hole.context, hole.before, hole.after), ("<|repo_name|>r\n<|file_sep|>a.py\nx = 1\n", "p", "s"));
    }

    #[test]
    fn anything_else_is_text() {
        for prompt in [
            "",
            "def f():",
            "<fim_prefix>p<fim_suffix>s<fim_middle>x",
            "<fim_prefix>p<fim_suffix>s<fim_middle>\n",
            "<fim_suffix>s<fim_prefix>p<fim_middle>",
            "<fim_prefix>p<fim_prefix>q<fim_suffix>s<fim_middle>",
            "<fim_prefix>p<fim_suffix>s<fim_suffix>t<fim_middle>",
            "<fim_prefix>p<fim_middle><fim_suffix>s<fim_middle>",
            "<fim_prefix>p<|fim_suffix|>s<fim_middle>",
            "<PRE> p <SUF>s<MID>",
            "x[SUFFIX]s[PREFIX]p",
            "[PREFIX]p[SUFFIX]s",
            "[SUFFIX]s[PREFIX]p[PREFIX]q",
            "p<|mask:0|>s<|mask:1|>",
            "p<|mask:0|>s<|mask:0|>t<|mask:1|><|mask:0|>",
        ] {
            assert_eq!(hole(prompt), None, "{prompt:?}");
        }
    }

    proptest! {
        #[test]
        fn the_texts_come_back(which in 0usize..9, before in "[a-z \\n<]{0,12}", after in "[a-z \\n>]{0,12}") {
            let prompt = write(WRITTEN[which], &before, &after);
            let hole = hole(&prompt).unwrap();
            prop_assert_eq!((hole.before, hole.after), (before.as_str(), after.as_str()));
        }

        #[test]
        fn context_and_sides_are_parts_of_the_prompt(
            prompt in "(<fim_prefix>|<fim_suffix>|<fim_middle>|<PRE> | <SUF>| <MID>|\\[SUFFIX\\]|\\[PREFIX\\]|<\\|mask:[01]\\|>|a| |\n){0,8}",
        ) {
            if let Some(hole) = hole(&prompt) {
                let is_there = |text: &str| prompt.contains(text);
                prop_assert!(is_there(hole.context) && is_there(hole.before) && is_there(hole.after));
                prop_assert!(hole.context.len() + hole.before.len() + hole.after.len() < prompt.len());
            }
        }
    }
}
