//! Rows of figures, and the forms in which they are printed.

use super::Setting;
use crate::cli;
use serde::Serialize;

/// Median, least and most of some repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one value; of none it is all zeros.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |i: usize| values.get(i).copied().unwrap_or_default();
        let last = values.len().saturating_sub(1);
        Self { median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), min: at(0), max: at(last) }
    }

    /// `count` a second, of times in milliseconds.
    fn rate(self, count: usize) -> Self {
        let a_second = |ms: f64| count as f64 * 1e3 / ms;
        Self { median: a_second(self.median), min: a_second(self.max), max: a_second(self.min) }
    }
}

/// One measurement. A figure that makes no sense for it is `None`.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// prefill, first_token, decode, prefill_decode, infill, infill_typed or infill_begun; step, and after it its kernels.
    pub test: &'static str,
    /// What stands in the table for people.
    pub label: String,
    /// Tokens prefilled.
    pub prompt_tokens: usize,
    /// Tokens in the KV cache before.
    pub depth_tokens: usize,
    /// Tokens decoded.
    pub new_tokens: usize,
    /// All of it.
    pub ms: Spread,
    /// Time to the first new token.
    pub ttft_ms: Option<Spread>,
    pub tokens_per_second: Option<Spread>,
    /// The median's.
    pub ms_per_token: Option<f64>,
    /// Weights, keys and values that had to be read.
    pub gb_per_second: Option<f64>,
    /// Of the rate at which the GPU reads.
    pub limit_percent: Option<f64>,
    pub gflop_per_second: Option<f64>,
    /// Of the step that it is a part of.
    pub share_percent: Option<f64>,
}

impl Row {
    pub fn new(test: &'static str, label: String, ms: Spread) -> Self {
        Self {
            test,
            label,
            prompt_tokens: 0,
            depth_tokens: 0,
            new_tokens: 0,
            ms,
            ttft_ms: None,
            tokens_per_second: None,
            ms_per_token: None,
            gb_per_second: None,
            limit_percent: None,
            gflop_per_second: None,
            share_percent: None,
        }
    }

    /// The row for `count` tokens, the first `prompt` of them prefilled.
    pub fn tokens(self, prompt: usize, count: usize) -> Self {
        let tokens_per_second = Some(self.ms.rate(count));
        Self { prompt_tokens: prompt, new_tokens: count - prompt, tokens_per_second, ..self }
    }
}

/// A column of the table for people: its name and width.
const COLUMNS: [(&str, usize); 10] = [
    ("test", 25),
    ("ms", 7),
    ("min .. max", 16),
    ("tokens/s", 8),
    ("ms/token", 8),
    ("TTFT ms", 7),
    ("GB/s", 6),
    ("of limit", 8),
    ("GFLOP/s", 7),
    ("of step", 7),
];

const CSV_NAMES: &str = "model,device,test,prompt_tokens,depth_tokens,new_tokens,repetitions,ms,ms_min,ms_max,\
    tokens_per_second,tokens_per_second_min,tokens_per_second_max,ms_per_token,ttft_ms,ttft_ms_min,ttft_ms_max,\
    gb_per_second,limit_percent,gflop_per_second,limit_gb_per_second,label,share_percent\n";

/// How rows are printed, one after the other as they are measured; as JSON nothing is printed before the end.
pub struct Table {
    form: cli::Table,
    /// What every line of CSV begins with.
    on: String,
    repetitions: usize,
    limit: Option<f64>,
    /// Whether rows are shares of a step: what its last column is for.
    shares: bool,
}

impl Table {
    pub fn new(form: cli::Table, setting: &Setting, shares: bool) -> Self {
        Self {
            form,
            shares,
            on: format!("{},{}", quoted(&setting.model), quoted(&setting.device.name)),
            repetitions: setting.repetitions,
            limit: setting.limit.as_ref().map(|limit| limit.read_gb_per_second),
        }
    }

    /// What stands above the rows.
    pub fn head(&self, setting: &Setting) -> String {
        match self.form {
            cli::Table::Json => String::new(),
            cli::Table::Csv => CSV_NAMES.to_owned(),
            cli::Table::Md => {
                let rules = COLUMNS.map(|(name, width)| if name == "test" { "-".repeat(width) } else { rule(width) });
                let names = COLUMNS.map(|column| column.0.to_owned());
                setting.for_people() + &line(&names, self.shares) + &line(&rules, self.shares)
            }
        }
    }

    pub fn row(&self, row: &Row) -> String {
        match self.form {
            cli::Table::Json => String::new(),
            cli::Table::Csv => self.csv(row),
            cli::Table::Md => markdown(row, self.shares),
        }
    }

    fn csv(&self, row: &Row) -> String {
        let spread = |spread: Option<Spread>| match spread {
            Some(Spread { median, min, max }) => format!("{median},{min},{max}"),
            None => ",,".to_owned(),
        };
        let one = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        let cells = [
            self.on.clone(),
            row.test.to_owned(),
            row.prompt_tokens.to_string(),
            row.depth_tokens.to_string(),
            row.new_tokens.to_string(),
            self.repetitions.to_string(),
            spread(Some(row.ms)),
            spread(row.tokens_per_second),
            one(row.ms_per_token),
            spread(row.ttft_ms),
            one(row.gb_per_second),
            one(row.limit_percent),
            one(row.gflop_per_second),
            one(self.limit),
            quoted(&row.label),
            one(row.share_percent),
        ];
        cells.join(",") + "\n"
    }
}

fn markdown(row: &Row, shares: bool) -> String {
    let one = |value: Option<f64>| value.map(figure).unwrap_or_default();
    let cells = [
        row.label.clone(),
        figure(row.ms.median),
        format!("{} .. {}", figure(row.ms.min), figure(row.ms.max)),
        one(row.tokens_per_second.map(|rate| rate.median)),
        one(row.ms_per_token),
        one(row.ttft_ms.map(|ttft| ttft.median)),
        one(row.gb_per_second),
        row.limit_percent.map(|percent| format!("{percent:.1} %")).unwrap_or_default(),
        one(row.gflop_per_second),
        row.share_percent.map(|percent| format!("{percent:.1} %")).unwrap_or_default(),
    ];
    line(&cells, shares)
}

/// Figures to the right, so that they can be compared.
fn line(cells: &[String; COLUMNS.len()], shares: bool) -> String {
    let shown = COLUMNS.len() - usize::from(!shares);
    let cells = cells.iter().zip(COLUMNS).take(shown).map(|(cell, (name, width))| match name {
        "test" => format!("{cell:width$}"),
        _ => format!("{cell:>width$}"),
    });
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

fn rule(width: usize) -> String {
    "-".repeat(width - 1) + ":"
}

/// Three digits or more.
fn figure(value: f64) -> String {
    let digits = match value {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// A cell of CSV: names have commas, and paths may have anything.
fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[3.0, 1.0, 8.0]), Spread { median: 3.0, min: 1.0, max: 8.0 });
        assert_eq!(spread(&[4.0, 1.0, 2.0, 8.0]), Spread { median: 3.0, min: 1.0, max: 8.0 });
        assert_eq!(spread(&[5.0]).rate(2), Spread { median: 400.0, min: 400.0, max: 400.0 });
        assert_eq!(spread(&[10.0, 20.0, 40.0]).rate(10), Spread { median: 500.0, min: 250.0, max: 1000.0 });
    }

    #[test]
    fn lines_have_as_many_cells_as_the_head() {
        let row = Row::new("decode", "decode 32 at 0".into(), Spread { median: 1.0, min: 0.5, max: 2.0 }).tokens(0, 32);
        let table =
            |form| Table { form, on: quoted("a,b") + ",\"c\"\"\"", repetitions: 5, limit: Some(5.5), shares: true };
        let csv = table(cli::Table::Csv).row(&row);
        assert_eq!(
            csv.trim_start_matches("\"a,b\",\"c\"\"\"").matches(',').count(),
            CSV_NAMES.matches(',').count() - 1
        );
        for shares in [false, true] {
            let names = line(&COLUMNS.map(|c| c.0.to_owned()), shares);
            let row = markdown(&row, shares);
            assert_eq!(row.matches('|').count(), COLUMNS.len() + usize::from(shares));
            assert_eq!((row.chars().count(), names.contains("of step")), (names.chars().count(), shares));
            assert!(shares || row.trim_end().chars().count() <= 120);
        }
    }

    #[test]
    fn figures_have_three_digits() {
        let figures = [1234.5, 99.94, 5.432, 0.0521].map(figure);
        assert_eq!(figures, ["1234", "99.9", "5.43", "0.052"]);
    }
}
