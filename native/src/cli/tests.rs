use super::values::{UNTIL_THE_END, byte_count};
use super::*;
use clap::CommandFactory;

#[test]
fn definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn sizes_have_units() {
    for (text, bytes) in [("1GB", 1_000_000_000), ("500 mb", 500_000_000), ("7", 7), ("2kB", 2000)] {
        assert_eq!(byte_count(text), Ok(bytes), "{text}");
    }
    for text in ["", "GB", "0", "1.5GB", "-1", "1TB", "99999999999GB"] {
        assert!(byte_count(text).is_err(), "{text}");
    }
}

#[test]
fn short_and_long_n_are_two_things() {
    let cli = Cli::parse_from(["incoder", "generate", "--ids", "2,17, 99", "-n", "24", "--n", "4"]);
    let Some(Command::Generate(generate)) = cli.command else { panic!("not generate") };
    assert_eq!((generate.max_tokens, generate.candidates), (24, 4));
    assert_eq!(generate.prompt.ids, Some(Ids(vec![2, 17, 99])));
}

/// What people who come from llama.cpp type.
#[test]
fn llama_cpp_habits_are_understood() {
    let generate = |args: &[&str]| {
        let all = [&["incoder", "generate", "-p", "x"], args].concat();
        match Cli::parse_from(crate::args::understood(all.iter().map(Into::into).collect())).command {
            Some(Command::Generate(generate)) => generate,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(generate(&["-n", "-1"]).max_tokens, UNTIL_THE_END);
    assert_eq!(generate(&["--n-predict", "-2"]).max_tokens, UNTIL_THE_END);
    assert_eq!((generate(&["-s", "-1"]).decoding.seed(), generate(&["-s", "7"]).decoding.seed()), (None, Some(7)));
    assert_eq!((generate(&["-c", "0"]).device.context(), generate(&["-c", "64"]).device.context()), (None, Some(64)));
    for all in ["-1", "0"] {
        assert_eq!(generate(&["--top-k", all]).decoding.top_k, 0);
    }
    assert_eq!(generate(&["--repeat-last-n", "64"]).decoding.repeat_last_n, Some(64));
    assert_eq!(generate(&["--repeat-last-n", "-1"]).decoding.repeat_last_n, Some(usize::MAX));
    assert_eq!(generate(&["--min-p", "0.05"]).decoding.min_p, 0.05);
    assert_eq!(generate(&["-r", "a", "--stop", "b", "--reverse-prompt", "c"]).stop, ["a", "b", "c"]);
    assert_eq!(generate(&["-ngl", "0", "-t", "8"]).device.select().as_deref(), Some("cpu"));
    assert!(generate(&["-ngl", "99"]).device.select().is_none());
    assert_eq!(generate(&["-hf", "org/name"]).model.name(), Some("org/name".into()));
    assert_eq!(generate(&["-n", "3", "-n", "5", "--temp", "1", "--temp", "0.5"]).max_tokens, 5);
    assert!(generate(&["-e"]).escape);
    assert_eq!(unescaped(r#"a\n\\n\t\q\"\"#), "a\n\\n\t\\q\"\\");
}

#[test]
fn bench_takes_lists_and_a_pair() {
    let bench = |more: &[&str]| match Cli::parse_from(["incoder", "bench"].iter().chain(more)).command {
        Some(Command::Bench(bench)) => bench,
        other => panic!("{other:?}"),
    };
    let lists = bench(&["-p", "128,512", "-n", "0", "-d", "0,512,1900", "--pg", "-r", "3"]);
    assert_eq!((lists.n_prompt, lists.n_gen, lists.n_depth), (vec![128, 512], vec![0], vec![0, 512, 1900]));
    assert_eq!((lists.pg, lists.repetitions), (Some(None), 3));
    assert_eq!(bench(&["--pg", "64,8", "--shape", "1b"]).pg, Some(Some((64, 8))));
    assert_eq!(bench(&[]).pg, None);
}

#[test]
fn refuses_values_out_of_range() {
    for args in [
        ["generate", "--temp", "-1"],
        ["generate", "--temp", "nan"],
        ["generate", "--top-p", "0"],
        ["generate", "--top-p", "1.5"],
        ["generate", "--repeat-penalty", "0"],
        ["generate", "-n", "0"],
        ["generate", "--n", "0"],
        ["generate", "--ids", "2,x"],
        ["generate", "--ids", "-5"],
        ["generate", "-n", "-3"],
        ["generate", "-s", "-2"],
        ["generate", "--min-p", "1.5"],
        ["infill", "--stop", ""],
        ["infill", "--at", "0:1"],
        ["plan", "--candidates", "0"],
        ["bench", "-p", "many"],
        ["bench", "-d", "-1"],
        ["bench", "-r", "0"],
        ["bench", "--pg", "128"],
        ["bench", "--pg", "0,32"],
        ["bench", "--shape", "2B"],
        ["bench", "-o", "xml"],
    ] {
        assert!(Cli::try_parse_from(["incoder"].iter().chain(&args)).is_err(), "{args:?}");
    }
}

#[test]
fn ids_take_commas_and_blanks() {
    assert_eq!(parse_ids("2,17,99"), Ok(Ids(vec![2, 17, 99])));
    assert_eq!(parse_ids(" 2, 17\n99,\n"), Ok(Ids(vec![2, 17, 99])));
    assert_eq!(parse_ids(""), Ok(Ids(vec![])));
    assert_eq!(parse_ids("2,-1"), Err("\"-1\" is not a token id".into()));
    assert!(parse_ids("4294967296").is_err());
}
