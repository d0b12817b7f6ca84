//! How the values of options are read.

/// Token ids given as one argument. (A type of its own: clap would read a plain `Vec` as one value each.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids(pub Vec<u32>);

/// Token ids with commas or blanks between them.
pub fn parse_ids(text: &str) -> Result<Ids, String> {
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let read = |word: &str| word.parse::<u32>().map_err(|_| format!("{word:?} is not a token id"));
    words.map(read).collect::<Result<_, _>>().map(Ids)
}

/// A seed; none for a new one every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seed(pub Option<u64>);

pub(super) fn seed(text: &str) -> Result<Seed, String> {
    match text {
        "-1" => Ok(Seed(None)),
        _ => text.parse().map(|seed| Seed(Some(seed))).map_err(|_| "not a whole number of 0 or more, or -1".into()),
    }
}

/// New tokens: as many as said, or for a negative number as many as there is room for.
pub(super) fn new_tokens(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Ok(n @ 1..=0xffff_ffff) => Ok(n as usize),
        Ok(-2 | -1) => Ok(UNTIL_THE_END),
        _ => Err("not a number of tokens of 1 or more, or -1 for as many as there is room for".into()),
    }
}

/// More tokens than any context holds.
pub const UNTIL_THE_END: usize = u32::MAX as usize;

/// As many tokens as said, or for a negative number all of them.
pub(super) fn last_tokens(text: &str) -> Result<usize, String> {
    let number = text.parse::<i64>().map_err(|_| "not a whole number".to_owned())?;
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

pub(super) fn at_most_all(text: &str) -> Result<usize, String> {
    let number = text.parse::<i64>().map_err(|_| "not a whole number".to_owned())?;
    Ok(usize::try_from(number).unwrap_or(0))
}

/// llama.cpp's number of layers on the GPU: whether there are any.
pub(super) fn layers(text: &str) -> Result<bool, String> {
    match text {
        "all" | "auto" => Ok(true),
        _ => text.parse::<i64>().map(|layers| layers != 0).map_err(|_| "not a number of layers, all or auto".into()),
    }
}

pub(super) fn stop_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("an empty text stands everywhere: nothing would be generated".into())
    } else {
        Ok(text.into())
    }
}

/// `\n` and its like as what they stand for; others stay as they are.
pub fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let known = match rest.clone().next().filter(|_| c == '\\') {
            Some('n') => Some('\n'),
            Some('t') => Some('\t'),
            Some('r') => Some('\r'),
            Some(quoted @ ('\\' | '"' | '\'')) => Some(quoted),
            _ => None,
        };
        if known.is_some() {
            rest.next();
        }
        out.push(known.unwrap_or(c));
    }
    out
}

pub(super) fn positive() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::builder::RangedU64ValueParser::<u64>::new().range(1..=u64::from(u32::MAX)).map(|n: u64| n as usize)
}

/// A number of tokens, 0 included.
pub(super) fn tokens(text: &str) -> Result<usize, String> {
    let number = text.trim().parse::<u32>().ok().and_then(|n| usize::try_from(n).ok());
    number.ok_or_else(|| "not a number of tokens".into())
}

pub(super) fn prompts(text: &str) -> Result<usize, String> {
    tokens(text).map_err(|problem| match text {
        // As llama-bench spells it: one dash, two letters.
        "g" => format!("{problem}; a prompt and new tokens in one time are --pg"),
        _ => problem,
    })
}

pub(super) fn depths(text: &str) -> Result<usize, String> {
    tokens(text).map_err(|problem| format!("{problem}; -d is the depth here, a GPU is --device"))
}

pub(super) fn pair(text: &str) -> Result<(usize, usize), String> {
    let both = text.split_once(',').map(|(prompt, new)| (tokens(prompt), tokens(new)));
    match both {
        Some((Ok(prompt), Ok(new))) if prompt > 0 && new > 0 => Ok((prompt, new)),
        _ => Err("not two numbers of tokens, such as 128,32".into()),
    }
}

/// `1GB`, `500 MB`, `1000000`: decimal units, as disks and downloads have them.
pub(super) fn byte_count(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err("not a size; 1GB and 500MB are".into()),
    };
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(factor));
    count.filter(|&bytes| bytes > 0).ok_or_else(|| "not a size; 1GB and 500MB are".into())
}

pub(super) fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("not a number".into()),
    }
}

pub(super) fn at_least_zero(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if v >= 0.0 { Ok(v) } else { Err("must be 0 or more".into()) })
}

pub(super) fn above_zero(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if v > 0.0 { Ok(v) } else { Err("must be more than 0".into()) })
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if (0.0..=1.0).contains(&v) { Ok(v) } else { Err("must be 0 to 1".into()) })
}

pub(super) fn probability(text: &str) -> Result<f64, String> {
    number(text).and_then(|v| if v > 0.0 && v <= 1.0 { Ok(v) } else { Err("must be more than 0 and at most 1".into()) })
}
