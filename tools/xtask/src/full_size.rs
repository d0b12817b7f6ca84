//! A full-size model of random weights, written in the published formats, loaded, and held against the CPU reference.

use crate::run;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const FOLDER: &str = "target/full-size";
/// A lead of the likeliest token smaller than this is decided by rounding.
const MARGIN: f64 = 0.1;

/// One run of examples/full-size.
struct Run {
    what: String,
    report: serde_json::Value,
}

/// `size` is 1B or 6B; `quantize`, where it is not empty, q8 or q4. The checkpoints are removed one by one, so that the disk holds one
/// at a time.
pub fn measure(size: &str, quantize: &str) -> Result<(), String> {
    run::show(Command::new("cargo").args([
        "build",
        "--release",
        "--locked",
        "-p",
        "incoder",
        "--example",
        "full_size",
    ]))?;
    run::show(Command::new("cargo").args(["build", "--release", "--locked", "-p", "incoder-synthetic"]))?;
    // 6B is published in fp16, too; its fp32 file has 26 GB.
    let formats: &[(&str, &str)] = match size {
        "1B" => &[("bin", "f32"), ("safetensors", "f16")],
        "6B" => &[("bin", "f16"), ("safetensors", "f16")],
        _ => return Err(format!("{size} is neither 1B nor 6B")),
    };
    // Whatever the format, the same weights are quantized: one is enough, the largest that is published.
    let formats = if quantize.is_empty() { formats } else { &formats[..1] };
    let flags = if quantize.is_empty() { vec![] } else { vec!["--quantize", quantize] };
    let mut runs = Vec::new();
    for (index, (format, dtype)) in formats.iter().enumerate() {
        let folder = PathBuf::from(FOLDER).join(format!("{size}-{format}-{dtype}"));
        if !folder.exists() {
            fs::create_dir_all(FOLDER).map_err(|e| format!("{FOLDER}: {e}"))?;
            let mut write = Command::new(program("synthetic"));
            run::show(write.args([size]).arg(&folder).args(["--format", format, "--dtype", dtype]))?;
        }
        let what = [format, dtype, quantize].join(" ");
        runs.push(example(&folder, format!("{}, GPU", what.trim()), &flags)?);
        // The reference of 6B in fp32 takes 27 GB.
        if index + 1 == formats.len() && (size == "1B" || !quantize.is_empty()) {
            runs.push(example(&folder, "CPU reference".to_owned(), &[&["--cpu"], &flags[..]].concat())?);
        }
        fs::remove_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    print(&runs);
    agree(&runs)
}

fn program(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    target.join("release").join(name)
}

fn example(folder: &PathBuf, what: String, flags: &[&str]) -> Result<Run, String> {
    let mut command = Command::new(program("examples/full_size"));
    command.arg(folder).args(flags);
    println!("$ {}", run::shown(&command));
    let printed = command.output().map_err(|e| format!("full_size: {e}"))?;
    if !printed.status.success() {
        return Err(format!("full_size failed: {}", String::from_utf8_lossy(&printed.stderr)));
    }
    let report = serde_json::from_slice(&printed.stdout).map_err(|e| format!("full_size printed no JSON: {e}"))?;
    Ok(Run { what, report })
}

fn print(runs: &[Run]) {
    println!(
        "\n| | load | of it upload | copying the same bytes | copying the file | load to first token | a token | peak memory | of it GPU buffers | planned |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for Run { what, report } in runs {
        let seconds = |name: &str| report[name].as_f64().map_or("–".to_owned(), |s| format!("{s:.2} s"));
        let bytes =
            |name: &str| report[name].as_f64().map_or("–".to_owned(), |bytes| format!("{:.2} GB", bytes / 1e9));
        let times =
            ["load_s", "upload_s", "copy_s", "copy_file_s", "first_token_s", "token_s"].map(seconds).join(" | ");
        let memory = ["peak_bytes", "gpu_bytes", "planned_bytes"].map(bytes).join(" | ");
        println!("| {what} | {times} | {memory} |");
    }
    for Run { what, report } in runs {
        println!(
            "{what}: tokens {}",
            tokens(report).iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(" ")
        );
    }
}

/// (id, lead over the second likeliest) of every greedy token.
fn tokens(report: &serde_json::Value) -> Vec<(u64, f64)> {
    let tokens = report["tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    tokens.iter().filter_map(|token| Some((token["id"].as_u64()?, token["margin"].as_f64()?))).collect()
}

/// Every run has to give the tokens of the last one, up to the first that rounding decides.
fn agree(runs: &[Run]) -> Result<(), String> {
    let Some((last, others)) = runs.split_last() else { return Ok(()) };
    let wanted = tokens(&last.report);
    for Run { what, report } in others {
        let decided = wanted.iter().take_while(|(_, margin)| *margin >= MARGIN).count();
        let same = tokens(report).iter().zip(&wanted).take_while(|(a, b)| a.0 == b.0).count();
        if same < decided.min(wanted.len()) || wanted.is_empty() {
            return Err(format!("{what}: {same} tokens are those of {}, {decided} have to be", last.what));
        }
        println!("{what}: {same} of {} tokens are those of {}", wanted.len(), last.what);
    }
    Ok(())
}
