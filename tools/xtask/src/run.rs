//! Running other programs: each command is shown, then its output as it comes, then how long it took.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The command as a person would type it, with the environment it adds.
pub fn shown(command: &Command) -> String {
    let mut words = String::new();
    for (name, value) in command.get_envs() {
        words += &format!("{}={} ", name.to_string_lossy(), quoted(&value.unwrap_or_default().to_string_lossy()));
    }
    words + &without_environment(command)
}

/// The program and its arguments.
pub fn without_environment(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| quoted(&arg.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

/// Shows and runs a command with the terminal as it is.
pub fn show(command: &mut Command) -> Result<(), String> {
    show_allowing(command, &[])
}

/// The same; the exit codes `allowed` are no failures either.
pub fn show_allowing(command: &mut Command, allowed: &[i32]) -> Result<(), String> {
    println!("$ {}", shown(command));
    let status = command.status().map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
    let fine = status.success() || status.code().is_some_and(|code| allowed.contains(&code));
    if fine { Ok(()) } else { Err(format!("{} failed: {status}", shown(command))) }
}

/// A command's stdout, or `None` when it is not there or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

pub struct Outcome {
    pub ok: bool,
    /// What it printed, stdout and stderr mixed as they came.
    pub text: String,
    pub seconds: f64,
}

/// Shows and runs a command; its output is passed on line by line and kept.
pub fn tee(command: &mut Command) -> Outcome {
    println!("$ {}", shown(command));
    let started = Instant::now();
    let kept = Arc::new(Mutex::new(String::new()));
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let ok = match spawned {
        Err(error) => {
            println!("{}: {error}", command.get_program().to_string_lossy());
            false
        }
        Ok(mut child) => {
            let pipes: [Option<Box<dyn Read + Send>>; 2] =
                [child.stdout.take().map(|p| Box::new(p) as _), child.stderr.take().map(|p| Box::new(p) as _)];
            let readers = pipes.into_iter().flatten().map(|pipe| {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || pass_on(pipe, &kept))
            });
            let readers: Vec<_> = readers.collect();
            let status = child.wait();
            for reader in readers {
                let _ = reader.join();
            }
            status.is_ok_and(|status| status.success())
        }
    };
    let text = std::mem::take(&mut *kept.lock().unwrap_or_else(|e| e.into_inner()));
    Outcome { ok, text, seconds: started.elapsed().as_secs_f64() }
}

/// Runs several commands, at most `at_once` of them at a time. What one printed is shown whole when it has ended, then `ended` is
/// told of it, by its number.
pub fn together(commands: &mut [Command], at_once: usize, ended: impl Fn(usize, Outcome) + Sync) {
    let waiting = Mutex::new(commands.iter_mut().enumerate());
    let next = || waiting.lock().unwrap_or_else(|e| e.into_inner()).next();
    let showing = Mutex::new(());
    let work = || {
        while let Some((number, command)) = next() {
            let outcome = quiet(command);
            let _showing = showing.lock().unwrap_or_else(|e| e.into_inner());
            println!("$ {}\n{}", shown(command), outcome.text);
            ended(number, outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
}

/// Runs a command and shows nothing of it.
fn quiet(command: &mut Command) -> Outcome {
    let started = Instant::now();
    let (ok, text) = match command.stdin(Stdio::null()).output() {
        Ok(output) => {
            let text =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            (output.status.success(), text)
        }
        Err(error) => (false, format!("{}: {error}", command.get_program().to_string_lossy())),
    };
    Outcome { ok, text, seconds: started.elapsed().as_secs_f64() }
}

fn pass_on(pipe: impl Read, kept: &Mutex<String>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.push_str(&String::from_utf8_lossy(&line));
        // A closed stdout must not stop the child: its pipe still wants reading.
        let _ = std::io::stdout().write_all(&line);
        line.clear();
    }
    let _ = std::io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_a_person_would_type() {
        let mut command = Command::new("cargo");
        command.args(["nextest", "run", "-E", "test(a) or b"]).env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(shown(&command), "RUSTDOCFLAGS='-D warnings' cargo nextest run -E 'test(a) or b'");
    }

    #[test]
    fn every_one_of_several_commands_is_told_of() {
        let command = |text: &str| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", text]);
            command
        };
        let mut commands = ["a", "b", "c"].map(command);
        commands[1] = Command::new("no-such-program-anywhere");
        let told = Mutex::new(Vec::new());
        together(&mut commands, 2, |number, outcome| told.lock().unwrap().push((number, outcome.ok)));
        let mut told = told.into_inner().unwrap();
        told.sort_unstable();
        assert_eq!(told, [(0, true), (1, false), (2, true)]);
    }

    #[test]
    fn a_missing_program_is_a_failure() {
        assert!(!tee(&mut Command::new("no-such-program-anywhere")).ok);
        assert!(output(&mut Command::new("no-such-program-anywhere")).is_none());
    }
}
