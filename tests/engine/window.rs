//! What of a document is shown where it does not fit, and holes that begin some lines before the cursor.

use crate::support::{cpu_and_gpu, folder, load, tiny, tokenizer};
use incoder::{
    Error, Event, GenerateOptions, HoleEnd, InfillOptions, Infilling, Kv, Overflow, Prompt, Sampling, Sentinels,
    Session, Tokenizer, Window, generate, infill, score,
};
use pollster::block_on;
use proptest::prelude::*;

/// The CPU reference: what is shown does not depend on the device.
fn small(context: usize) -> Session {
    let (_, device) = cpu_and_gpu().into_iter().next().unwrap();
    load(&folder("tiny-a", "model.fp16.safetensors"), &device, Kv::F32, Some(context))
}

fn options(max_new_tokens: usize) -> InfillOptions {
    InfillOptions { max_new_tokens, sampling: Sampling::greedy(), ..InfillOptions::default() }
}

/// Runs, and gives the windows, the prompt's tokens and how many of them were computed.
fn run(session: &mut Session, tokenizer: &Tokenizer, parts: &[String], options: &InfillOptions) -> (Infilling, usize) {
    let mut computed = 0;
    let mut on_event = |event: Event<'_>| {
        if let Event::Prefilled { prefill, .. } = event {
            computed += prefill.computed;
        }
    };
    let made = block_on(infill(session, tokenizer, parts, options, &mut on_event)).unwrap();
    (made, computed)
}

/// A program of `lines` lines.
fn program(lines: usize) -> String {
    (0..lines).map(|i| format!("{}value_{} = other[{}]\n", " ".repeat(i % 3 * 4), i % 17, i * 7 % 91)).collect()
}

/// The text split before line `line`, from 1.
fn split_at_line(text: &str, line: usize) -> Vec<String> {
    let at: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    vec![text[..at].to_owned(), text[at..].to_owned()]
}

#[test]
fn what_fits_is_shown_whole_and_what_does_not_in_part() {
    let tokenizer = tokenizer("tok-512");
    let text = program(60);
    let parts = split_at_line(&text, 30);
    let tokens: usize = parts.iter().map(|p| tokenizer.encode_with(p, Sentinels::Literal, false).unwrap().len()).sum();
    for look_back in [0, 4] {
        let options = InfillOptions { look_back: Some(look_back), ..options(8) };
        // The first token, two sentinels in the text, the one after it, and the new tokens.
        let needed = tokens + 1 + 3 + 8;
        let whole = run(&mut small(needed), &tokenizer, &parts, &options).0;
        assert_eq!(
            whole.windows,
            [Window { first_line: 1, last_line: 61, tokens, left_out_tokens: 0 }],
            "look-back {look_back}"
        );
        let error = InfillOptions { overflow: Overflow::Error, ..options.clone() };
        let same = run(&mut small(needed), &tokenizer, &parts, &error).0;
        assert_eq!((same.infills, same.prompt_tokens), (whole.infills, whole.prompt_tokens));

        let cut = run(&mut small(needed - 1), &tokenizer, &parts, &options).0;
        let [window] = cut.windows[..] else { panic!("{:?}", cut.windows) };
        assert!(window.first_line > 1 || window.last_line < 61, "{window:?}");
        assert!(window.left_out_tokens > 0 && cut.prompt_tokens + 8 < needed, "{window:?} {}", cut.prompt_tokens);
        let refused = block_on(infill(&mut small(needed - 20), &tokenizer, &parts, &error, &mut |_| ())).unwrap_err();
        assert!(
            matches!(refused, Error::Context { need, have, trained: 2048 } if need == needed - 8 && have == needed - 20),
            "{refused}"
        );
    }
}

/// The tokens of the prompt that are shown, as text: from the context that the session holds.
fn shown(session: &Session, tokenizer: &Tokenizer) -> String {
    tokenizer.decode(session.tokens(), false).unwrap()
}

#[test]
fn a_hole_begins_some_lines_early() {
    let tokenizer = tokenizer("tok-512");
    // Cursor, look-back, the first line in the hole: a multiple of the look-back, at least that many lines before the cursor.
    for (line, look_back, first) in
        [(30, 1, 29), (30, 2, 28), (30, 8, 16), (25, 8, 16), (24, 8, 16), (23, 8, 8), (30, 100, 0)]
    {
        let text = program(60);
        let parts = split_at_line(&text, line + 1);
        let mut session = small(4096);
        let options = InfillOptions { look_back: Some(look_back), ..options(1) };
        let (made, _) = run(&mut session, &tokenizer, &parts, &options);
        let begun: String = text.split_inclusive('\n').skip(first).take(line - first).collect();
        let shown = shown(&session, &tokenizer);
        let prompt = format!("<|mask:1|><|mask:0|>{begun}");
        assert!(shown.contains(&prompt) || look_back == 100, "look-back {look_back}: {shown}");
        assert_eq!(made.text(&parts, "").len(), text.len() + made.infills[0].text.len());
    }
}

#[test]
fn several_holes_share_what_lies_between_them() {
    let tokenizer = tokenizer("tok-512");
    let parts: Vec<String> =
        ["a = 1\nb = 2\n", "c = 3\nd = 4\ne = 5\nf = 6\n", "g = 7; h", " = 8\ni = 9\n"].map(String::from).into();
    let mut session = small(2048);
    let options = InfillOptions { look_back: Some(4), heal: false, ..options(1) };
    let mut prompts = Vec::new();
    // Every prompt, as it was just before the first token of its hole.
    for holes in 1..=3 {
        let (_, _) = run(&mut session, &tokenizer, &parts, &InfillOptions { max_new_tokens: 0, ..options.clone() });
        prompts.push(shown(&session, &tokenizer));
        let _ = holes;
    }
    let prompt = &prompts[0];
    // The first hole takes both lines before it, the second half of the four lines before it, the third none of its line.
    assert!(
        prompt.starts_with("<|endoftext|><|mask:0|>c = 3\nd = 4\n<|mask:1|>g = 7; h<|mask:2|> = 8\ni = 9\n<|mask:3|>")
    );
    assert!(prompt.contains("<|mask:0|>a = 1\nb = 2\n<|endofmask|><|mask:1|>e = 5\nf = 6\n<|endofmask|><|mask:2|>"));
}

#[test]
fn far_holes_get_a_window_each_and_see_what_was_filled() {
    let tokenizer = tokenizer("tok-512");
    let text = program(400);
    let at = |line: usize| text.split_inclusive('\n').take(line).map(str::len).sum::<usize>();
    let parts =
        [&text[..at(50)], &text[at(50)..at(52)], &text[at(52)..at(300)], &text[at(300)..]].map(str::to_owned).to_vec();
    let mut session = small(256);
    let (made, _) = run(&mut session, &tokenizer, &parts, &options(8));
    let [a, b, c] = made.windows[..] else { panic!("{:?}", made.windows) };
    // The first two are near each other: one prompt shows both.
    assert_eq!(a, b);
    assert!(a.first_line <= 50 && a.last_line >= 53 && a.last_line < 200, "{a:?}");
    assert!(c.first_line > 200 && c.first_line <= 301 && c.last_line >= 301, "{c:?}");
    assert_eq!(made.infills.len(), 3);
    assert!(made.infills.iter().all(|infill| !infill.ids.is_empty()));
    // Three holes side by side, and room for the text of one: the next ones see it as text.
    let parts = split_at_line(&text, 200);
    let parts = [&parts[0], "x\n", "y\n", &parts[1]].map(str::to_owned).to_vec();
    let options = InfillOptions { look_back: Some(0), heal: false, ..options(60) };
    let (made, _) = run(&mut session, &tokenizer, &parts, &options);
    assert!(
        made.infills
            .iter()
            .all(|infill| infill.ids.len() == 60 || infill.finish_reason != incoder::FinishReason::Context)
    );
    let before = shown(&session, &tokenizer);
    let second = &made.infills[1].text;
    assert!(before.contains(second.as_str()), "{second:?} is not in {before:?}");
}

#[test]
fn typing_moves_the_window_in_steps() {
    let tokenizer = tokenizer("tok-512");
    let typed = "    result = compute(value, other) + offset\n    if result > limit:\n        return result\n";
    let typed: String = typed.chars().cycle().take(200).collect();
    let mut computed = Vec::new();
    for (lines, line) in [(100, 50), (5000, 40), (5000, 2500), (5000, 4990)] {
        let text = program(lines);
        let parts = split_at_line(&text, line);
        let mut session = tiny(Some(1024));
        let (mut tokens, mut most, mut moved) = (0, 0, 0);
        let mut window = None;
        for (i, _) in typed.char_indices() {
            let parts = [format!("{}{}", parts[0], &typed[..i]), parts[1].clone()];
            let (made, new) = run(&mut session, &tokenizer, &parts, &options(1));
            if i > 0 {
                tokens += new;
                most = most.max(new);
            }
            moved += usize::from(window.replace(made.windows[0].first_line) != Some(made.windows[0].first_line));
        }
        println!(
            "{lines} lines, line {line}: {tokens} tokens computed for 199 keystrokes, at most {most} for one, {moved} windows"
        );
        computed.push((tokens, moved));
    }
    let (short, _) = computed[0];
    for &(tokens, moved) in &computed[1..] {
        // Beside the steps, in which the whole window is read again.
        assert!(tokens <= short + short / 4 + moved * 1024, "{computed:?}");
        assert!(moved <= 4, "{computed:?}");
    }
}

#[test]
fn generating_keeps_the_end_of_a_text() {
    let tokenizer = tokenizer("tok-512");
    let text = program(300);
    let mut session = small(256);
    let options =
        GenerateOptions { max_new_tokens: 16, sampling: Sampling::greedy(), heal: false, ..GenerateOptions::default() };
    let made = block_on(generate(&mut session, &tokenizer, Prompt::Text(&text), &options, &mut |_| ())).unwrap();
    let window = made.window.unwrap();
    assert!(made.prompt_tokens <= 240 && made.prompt_tokens > 120, "{}", made.prompt_tokens);
    assert_eq!(window.last_line, 301);
    let kept: String = text.split_inclusive('\n').skip(window.first_line - 1).collect();
    let ids = tokenizer.encode(&kept, Sentinels::Literal).unwrap();
    assert_eq!((ids.len(), &session.tokens()[..ids.len()]), (made.prompt_tokens, &ids[..]));
    let short = program(5);
    let made = block_on(generate(&mut session, &tokenizer, Prompt::Text(&short), &options, &mut |_| ())).unwrap();
    assert_eq!(
        made.window.map(|window| (window.first_line, window.last_line, window.left_out_tokens)),
        Some((1, 6, 0))
    );
    let refused = GenerateOptions { overflow: Overflow::Error, ..options };
    let error = block_on(generate(&mut session, &tokenizer, Prompt::Text(&text), &refused, &mut |_| ())).unwrap_err();
    assert!(matches!(error, Error::Context { have: 256, .. }), "{error}");
}

#[test]
fn scores_every_token_once_with_half_a_window_before_it() {
    let tokenizer = tokenizer("tok-512");
    let ids = tokenizer.encode(&program(30), Sentinels::Literal).unwrap()[..150].to_vec();
    let cancel = incoder::Cancel::default();
    let whole = block_on(score(&mut small(150), &ids, 2, &cancel)).unwrap();
    assert_eq!(whole.windows, 1);
    let mut session = small(64);
    let windowed = block_on(score(&mut session, &ids, 2, &cancel)).unwrap();
    // 0..64, 32..96, 64..128, 96..150: token t is scored in the first window that holds it or the one before it.
    assert_eq!(windowed.windows, 4);
    assert_eq!(windowed.logprobs[..=64], whole.logprobs[..=64]);
    for t in 65..150 {
        let start = (t - 65) / 32 * 32 + 32;
        let single = block_on(score(&mut session, &ids[start..=t.min(start + 63)], 2, &cancel)).unwrap();
        let expected = if t < start + 64 { *single.logprobs.last().unwrap() } else { None };
        if let Some(expected) = expected {
            assert!((windowed.logprobs[t].unwrap() - expected).abs() < 1e-4, "token {t}");
        }
    }
    assert!(windowed.logprobs[1..].iter().all(Option::is_some) && windowed.top.iter().all(|top| top.len() == 2));
}

/// Texts that are hard to cut: no line breaks, many of them, long tokens, wide characters.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("    return x\n".to_owned()),
        Just("\n\n\n".to_owned()),
        Just("\r\n".to_owned()),
        Just(" ".repeat(90)),
        Just("日本語テキスト".to_owned()),
        Just("😀".to_owned()),
        Just("<|mask:0|>".to_owned()),
        "[a-z(). ]{1,30}",
    ];
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_document_is_filled_within_the_context(
        parts in proptest::collection::vec(any_text(), 2..4),
        context in 40usize..200,
        new in 1usize..12,
        look_back in 0usize..9,
        line_end: bool,
    ) {
        let tokenizer = tokenizer("tok-512");
        let mut session = small(context);
        let end = if line_end { HoleEnd::Line } else { HoleEnd::Mask };
        let options = InfillOptions { look_back: Some(look_back), end, ..options(new) };
        let (made, _) = run(&mut session, &tokenizer, &parts, &options);
        prop_assert!(made.prompt_tokens <= context);
        prop_assert_eq!(made.infills.len(), parts.len() - 1);
        for (infill, window) in made.infills.iter().zip(&made.windows) {
            // There was room for all tokens that were asked for.
            prop_assert!(infill.finish_reason != incoder::FinishReason::Context, "{:?}", infill);
            prop_assert!(window.first_line <= window.last_line);
        }
        let lines = 1 + incoder::window::breaks(&parts.concat()) + parts.len();
        prop_assert!(made.windows.iter().all(|window| window.last_line <= lines), "{:?} of {}", made.windows, lines);
        // The same text gives the same windows.
        let again = run(&mut small(context), &tokenizer, &parts, &options).0;
        prop_assert_eq!((again.windows, again.infills), (made.windows, made.infills));
    }

    #[test]
    fn a_window_is_a_piece_of_the_document_cut_at_lines_where_there_are_any(
        before in any_text(),
        after in any_text(),
        context in 60usize..200,
    ) {
        let tokenizer = tokenizer("tok-512");
        let mut session = small(context);
        let options = InfillOptions { look_back: Some(0), heal: false, ..options(0) };
        let parts = [before.clone(), after.clone()];
        let (made, _) = run(&mut session, &tokenizer, &parts, &options);
        let ids = session.tokens();
        let masks: Vec<usize> = (0..ids.len()).filter(|&i| tokenizer.is_mask(ids[i])).collect();
        let left = tokenizer.decode(&ids[1..masks[0]], false).unwrap();
        let right = tokenizer.decode(&ids[masks[0] + 1..masks[1]], false).unwrap();
        prop_assert!(before.ends_with(&left) && after.starts_with(&right));
        let (start, end) = (before.len() - left.len(), right.len());
        let whole = start == 0 && end == after.len();
        prop_assert_eq!(whole, made.windows[0].left_out_tokens == 0);
        // A long line is cut within; otherwise a cut lies behind a line break.
        let (front, back) = (left.floor_char_boundary(left.len() / 4), right.ceil_char_boundary(right.len() / 2));
        prop_assert!(start == 0 || before[..start].ends_with('\n') || !left[..front].contains('\n'), "{left:?}");
        prop_assert!(end == after.len() || right.ends_with('\n') || !right[back..].contains('\n'), "{right:?}");
    }
}
