//! README's picture: the program's real output, in its real colours, as SVG.

use crate::{demo, run};
use std::process::Command;

const FILE: &str = "examples/infill/registry.svg";
const FONT_SIZE: usize = 14;
/// Height of a line, and width of a character of most monospaced fonts at this size, in tenths of a pixel.
const LINE: usize = 190;
const CHARACTER: usize = 85;
const MARGIN: usize = 180;

pub fn picture() -> Result<(), String> {
    let binary = demo::build()?;
    let mut command = Command::new(&binary);
    command.args(["infill", demo::FILE]).args(demo::FLAGS).env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR");
    let output = run::output(&mut command).ok_or_else(|| format!("{} failed", run::shown(&command)))?;
    let shown = format!("$ incoder infill {} {}\n{output}", demo::FILE, demo::FLAGS.join(" "));
    std::fs::write(FILE, svg(&shown)).map_err(|e| format!("{FILE}: {e}"))?;
    println!("{FILE} is made anew");
    Ok(())
}

/// Text with the escapes of bold and green in it, the only ones that the program prints, as a picture.
fn svg(text: &str) -> String {
    let mut lines = String::new();
    let (mut count, mut widest, mut coloured) = (0, 0, false);
    for line in text.lines() {
        count += 1;
        let mut width = 0;
        let mut spans = String::new();
        for (i, piece) in line.split('\u{1b}').enumerate() {
            let mut piece = piece;
            if i > 0 {
                let (code, rest) = piece.split_once('m').unwrap_or(("", piece));
                coloured = code != "[0";
                piece = rest;
            }
            width += piece.chars().count();
            let class = if coloured { " class=\"new\"" } else { "" };
            if !piece.is_empty() {
                spans += &format!("<tspan{class}>{}</tspan>", escaped(piece));
            }
        }
        widest = widest.max(width);
        let y = (MARGIN + count * LINE) / 10;
        lines += &format!("<text x=\"{}\" y=\"{y}\" xml:space=\"preserve\">{spans}</text>\n", MARGIN / 10);
    }
    let width = (2 * MARGIN + widest * CHARACTER) / 10;
    let height = (2 * MARGIN + count * LINE + LINE / 2) / 10;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <style>text {{ font: {FONT_SIZE}px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #d4d7dd }} \
         .new {{ fill: #5fd75f; font-weight: bold }}</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1b1e24\"/>\n{lines}</svg>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_escapes() {
        let svg = svg("a < \u{1b}[32m\u{1b}[1mb & c\u{1b}[0m d\n\ne");
        assert!(svg.contains("<tspan>a &lt; </tspan><tspan class=\"new\">b &amp; c</tspan><tspan> d</tspan>"), "{svg}");
        assert_eq!(svg.matches("<text ").count(), 3);
    }
}
