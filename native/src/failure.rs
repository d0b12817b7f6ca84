//! What ends the program early: one line for the user and the exit code a script can act on.

use std::fmt;

/// Exit codes; docs/command-line.md and `--help` list them.
pub const RUNTIME: u8 = 1;
pub const USAGE: u8 = 2;
pub const NO_GPU: u8 = 3;
pub const MODEL: u8 = 4;
/// Filled, but the model did not end every hole.
pub const INCOMPLETE: u8 = 5;
/// What a shell reports for a program that Ctrl-C ended: a script must not take half a result for a whole one.
pub const INTERRUPTED: u8 = 130;

pub type Result<T> = std::result::Result<T, Failure>;

#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    /// Something went wrong while running.
    pub fn runtime(message: impl Into<String>) -> Self {
        Self { code: RUNTIME, message: message.into() }
    }

    /// The command or its input is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }

    /// Ctrl-C, and nothing (more) to print.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self { code: INTERRUPTED, message: message.into() }
    }

    /// Filled, but the model did not end every hole: said by the exit code and, where notes are wanted, by a note.
    pub fn incomplete() -> Self {
        Self { code: INCOMPLETE, message: String::new() }
    }

    /// The model folder cannot be used.
    pub fn model(message: impl Into<String>) -> Self {
        Self { code: MODEL, message: message.into() }
    }
}

impl fmt::Display for Failure {
    /// One line, whatever a library put into its message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.message.split_whitespace();
        f.write_str(words.next().unwrap_or("failed"))?;
        words.try_for_each(|word| write!(f, " {word}"))
    }
}

impl From<incoder::Error> for Failure {
    fn from(error: incoder::Error) -> Self {
        use incoder::Error as E;
        let code = match &error {
            E::NoAdapter { .. } | E::Limit { .. } | E::OutOfMemory { .. } => NO_GPU,
            E::Unsupported { .. } | E::Config { .. } | E::Tokenizer { .. } => MODEL,
            E::Checkpoint { .. } | E::Tensor { .. } | E::Source { .. } | E::KvOverflow { .. } => MODEL,
            E::Context { .. } | E::Argument { .. } => USAGE,
            E::Cancelled => return Self::interrupted("stopped before the first token"),
            _ => RUNTIME,
        };
        // The crate speaks of numbers and options; here they have flags.
        let message = match &error {
            E::Context { trained, .. } => format!(
                "{error}; -c makes it larger (the model was trained with {trained}), and --context window uses the part of a \
                 text that fits"
            ),
            E::KvOverflow { .. } => format!("{error} (--kv f32)"),
            E::NoAdapter { .. } => {
                format!("{error}; install a Vulkan, Metal or DX12 driver, or use the CPU with `--device cpu`")
            }
            _ => error.to_string().replace("have it taken as literal text", "give --sentinels literal"),
        };
        Self { code, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_always_one_line() {
        assert_eq!(Failure::usage("a\r\n  b\tc\n").to_string(), "a b c");
        assert_eq!(Failure::usage("").to_string(), "failed");
    }

    #[test]
    fn the_command_adds_its_own_flags() {
        let failure = Failure::from(incoder::Error::NoAdapter { reason: "none answered".to_owned() });
        assert!(failure.message.starts_with("no GPU adapter found (none answered); "), "{failure}");
        assert!(failure.message.ends_with("`--device cpu`"), "{failure}");
    }

    #[test]
    fn maps_errors_to_exit_codes() {
        let code = |e: incoder::Error| Failure::from(e).code;
        assert_eq!(code(incoder::Error::NoAdapter { reason: String::new() }), NO_GPU);
        assert_eq!(code(incoder::Error::Limit { what: String::new(), need: 2, have: 1 }), NO_GPU);
        assert_eq!(code(incoder::Error::Config { problem: String::new() }), MODEL);
        assert_eq!(code(incoder::Error::tensor("a", "b")), MODEL);
        assert_eq!(code(incoder::Error::Context { need: 2, have: 1, trained: 1 }), USAGE);
        assert_eq!(code(incoder::Error::DeviceLost { reason: String::new() }), RUNTIME);
    }
}
