//! The report for people: short enough for an issue.

use super::Verdict;
use super::endurance::Endurance;
use super::greedy::Compared;
use super::kernels::Checked;
use super::speed::Speed;
use crate::commands::devices::size;
use incoder::AdapterReport;
use incoder::gpu::AdapterSpeed;
use std::fmt::Write;

pub fn adapter(report: &AdapterReport, disabled: &str) -> String {
    let AdapterReport { name, backend, kind, driver, .. } = report;
    let [smallest, largest] = report.subgroup_sizes;
    let subgroups =
        if report.subgroups { format!("subgroups of {smallest} to {largest}") } else { "no subgroups".into() };
    let yes = |has: bool| if has { "yes" } else { "no" };
    let mut text = format!(
        "incoder {}, {}, {}\n{name} ({backend}, {kind}; {driver})\nbuffers {}, bindings {}, workgroups {} bytes and {} \
         threads; {subgroups}, f16 {}, timestamps {}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        size(report.max_buffer_bytes),
        size(report.max_binding_bytes),
        report.max_workgroup_bytes,
        report.max_workgroup_invocations,
        yes(report.shader_f16),
        yes(report.timestamps),
    );
    if !disabled.is_empty() {
        let _ = writeln!(text, "INCODER_DISABLE switches off: {disabled}");
    }
    text
}

pub fn limit(limit: &AdapterSpeed) -> String {
    let AdapterSpeed { dispatch_us, round_trip_us, .. } = limit;
    let read = limit.read_gb_per_second();
    format!("reads {read:.1} GB/s; a dispatch {dispatch_us:.1} µs, submit and readback {round_trip_us:.0} µs\n")
}

pub fn kernels(model: &str, checked: &[Checked]) -> String {
    let mut text = format!("\nKernels in the sizes of {model}, against the CPU\n");
    if let Some(first) = checked.first() {
        let width = first.kernels.iter().map(|check| check.kernel.len()).max().unwrap_or_default();
        for check in &first.kernels {
            let (kernel, error, tolerance) = (check.kernel, check.error, check.tolerance);
            let said = match (check.is_right(), error > 0.0) {
                (true, false) => "right, to the last bit".to_owned(),
                (true, true) => format!("right, off by {error:.1e} at most ({tolerance:.0e} is rounding)"),
                (false, _) => format!("WRONG, off by {error:.1e} ({tolerance:.0e} is rounding)"),
            };
            let _ = writeln!(text, "  {kernel:width$}  {said}");
        }
    }
    for one in checked {
        let wrong = one.wrong();
        let said = match (wrong.is_empty(), one.farthest()) {
            (false, _) => "WRONG".to_owned(),
            (true, Some(check)) => format!("right; farthest off: {check}"),
            (true, None) => "right".to_owned(),
        };
        let _ = writeln!(text, "{}, {} cache: {said}", one.way, one.kv);
        wrong.iter().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
    }
    text
}

pub fn greedy(compared: &[Compared]) -> String {
    let mut text = "\nGreedy tokens of the demo model, against the recorded ones\n".to_owned();
    for Compared { way, kv, right, of } in compared {
        let verdict = if right == of { "right" } else { "WRONG" };
        let _ = writeln!(text, "{way}, {kv} cache: {verdict}, {right} of {of}");
    }
    text
}

pub fn speed(speeds: &[Speed]) -> String {
    let mut text = "\nSpeed, tokens/s\n".to_owned();
    for speed in speeds {
        let Speed { model, prompt_tokens, new_tokens, .. } = speed;
        let (prefill, decode) = (speed.prefill_tokens_per_second, speed.decode_tokens_per_second);
        let _ = writeln!(
            text,
            "{model}: prefill {prefill:.0} ({prompt_tokens} tokens), decoding {decode:.1} ({new_tokens})"
        );
    }
    text
}

pub fn endurance(endurance: &Endurance) -> String {
    let Endurance { seconds, rounds, .. } = endurance;
    match endurance.wrong() {
        None => format!("\n{seconds:.0} s at full load: {rounds} rounds gave the same bits\n"),
        Some(wrong) => format!("\nWRONG {wrong}\n"),
    }
}

pub fn verdict(verdict: &Verdict) -> String {
    if verdict.right {
        return "\nThis GPU computes right.\n".to_owned();
    }
    let mut text = "\nThis GPU computes wrong values:\n".to_owned();
    verdict.wrong.iter().for_each(|line| {
        let _ = writeln!(text, "  {line}");
    });
    match &verdict.avoided_by {
        Some(switch) => text += &format!("INCODER_DISABLE={switch} avoids that.\n"),
        None => text += "No switch avoids that: use the CPU (-d cpu).\n",
    }
    text
}
