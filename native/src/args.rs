//! Arguments in other programs' spelling.

use std::ffi::OsString;

/// llama.cpp's flags of one dash and several letters, which would be read as several flags of one letter.
const LONG_WITH_ONE_DASH: [(&str, &str); 4] =
    [("-ngl", "--n-gpu-layers"), ("-hf", "--hf-repo"), ("-hfr", "--hf-repo"), ("-dev", "--device")];

/// The arguments as clap takes them.
pub fn understood(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut flags = true;
    let understood = arguments.into_iter().map(|argument| {
        flags &= argument != "--";
        let known = LONG_WITH_ONE_DASH.iter().find(|(short, _)| flags && argument == *short);
        known.map_or(argument, |(_, long)| OsString::from(long))
    });
    understood.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flags_are_rewritten() {
        let of = |arguments: &[&str]| understood(arguments.iter().map(Into::into).collect());
        assert_eq!(of(&["x", "-ngl", "9", "-n", "gl"]), ["x", "--n-gpu-layers", "9", "-n", "gl"]);
        assert_eq!(of(&["x", "-hf", "a/b", "--", "-hf"]), ["x", "--hf-repo", "a/b", "--", "-hf"]);
    }
}
