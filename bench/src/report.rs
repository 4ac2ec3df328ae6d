//! Runs into tables: medians, ratios, text and Markdown. It never hides a failure: a side that failed says so where its
//! numbers would be.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::figures::{Figure, Row};

/// The server everything is compared with, and the one that is compared; both first in `Report::sides`.
const BASE: usize = 0;
const SUBJECT: usize = 1;

/// What all runs of one case gave.
pub struct Report {
    /// Names of the servers: etcd, Kvorum, perhaps the floor.
    pub sides: Vec<String>,
    /// For each side its runs; empty where the case does not apply.
    pub runs: Vec<Vec<Result<Vec<Row>, String>>>,
    pub about: String,
}

/// Medians of one label.
struct Line {
    label: String,
    /// For each side; empty when it has none.
    figures: Vec<BTreeMap<Figure, f64>>,
}

impl Report {
    fn lines(&self) -> Vec<Line> {
        let mut labels: Vec<String> = Vec::new();
        for row in self.runs.iter().flatten().flatten().flatten() {
            if !labels.contains(&row.label) {
                labels.push(row.label.clone());
            }
        }
        let side = |label: &str, runs: &[Result<Vec<Row>, String>]| {
            let rows: Vec<&Row> = runs.iter().flatten().flatten().filter(|row| row.label == label).collect();
            medians(&rows)
        };
        let line = |label: String| Line { figures: self.runs.iter().map(|runs| side(&label, runs)).collect(), label };
        labels.into_iter().map(line).collect()
    }

    /// The first error of each side that failed, with how many of its runs did.
    fn failures(&self) -> Vec<String> {
        let failed = |(side, runs): (&String, &Vec<Result<Vec<Row>, String>>)| {
            let errors: Vec<&String> = runs.iter().filter_map(|run| run.as_ref().err()).collect();
            let first = errors.first()?;
            Some(format!("{side} FAILED in {} of {} runs: {first}", errors.len(), runs.len()))
        };
        self.sides.iter().zip(&self.runs).filter_map(failed).collect()
    }

    /// A block of aligned columns, a line for each server.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in self.lines() {
            let columns = line.columns();
            let mut cells: Vec<Vec<String>> = vec![
                std::iter::once(String::new()).chain(columns.iter().map(|figure| figure.title().to_owned())).collect(),
            ];
            for (number, (side, figures)) in self.sides.iter().zip(&line.figures).enumerate() {
                if figures.is_empty() {
                    continue;
                }
                let values = columns
                    .iter()
                    .map(|figure| figures.get(figure).map_or(String::new(), |value| figure.format(*value)));
                cells.push(std::iter::once(side.clone()).chain(values).collect());
                if number == SUBJECT && !line.figures[BASE].is_empty() {
                    let ratios = columns.iter().map(|figure| line.ratio(*figure).unwrap_or_default());
                    cells.push(std::iter::once("ratio".to_owned()).chain(ratios).collect());
                }
            }
            writeln!(text, "{}\n{}", line.label, aligned(&cells)).expect("writing to a string");
        }
        let failures = self.failures();
        if !failures.is_empty() {
            writeln!(text, "{}\n  {}\n", self.about, failures.join("\n  ")).expect("writing to a string");
        }
        text
    }

    /// Rows of the Markdown table that `MARKDOWN_HEAD` begins.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for line in self.lines() {
            let mut cells = vec![line.label.clone()];
            for figure in MARKDOWN_FIGURES {
                cells.push(line.pair(figure));
            }
            let further = |figure: &Figure| !MARKDOWN_FIGURES.contains(figure) && !TEXT_ONLY_FIGURES.contains(figure);
            let more = line.columns().into_iter().filter(further);
            let more: Vec<String> = more.map(|figure| format!("{}: {}", figure.title(), line.pair(figure))).collect();
            cells.push(more.join("; "));
            let floor = line.figures.get(SUBJECT + 1);
            let floor = floor.map(|figures| {
                let values = [Figure::PerSecond, Figure::ServerCpu].into_iter();
                let values = values.filter_map(|figure| Some(figure.format(*figures.get(&figure)?)));
                values.collect::<Vec<String>>().join("; ")
            });
            cells.push(floor.unwrap_or_default());
            writeln!(text, "| {} |", cells.join(" | ")).expect("writing to a string");
        }
        for failure in self.failures() {
            let escaped = failure.replace('|', "\\|");
            writeln!(text, "| {} | {escaped} | | | | | | | |", self.about).expect("writing to a string");
        }
        text
    }
}

const MARKDOWN_FIGURES: [Figure; 6] =
    [Figure::PerSecond, Figure::P50, Figure::P99, Figure::P999, Figure::ServerCpu, Figure::PeakMemory];

/// What tells whether a measurement was sound, and nothing about the servers.
const TEXT_ONLY_FIGURES: [Figure; 2] = [Figure::ClientCpu, Figure::ForeignCpu];

/// Head of the Markdown table. A cell is "etcd → Kvorum (ratio)".
pub const MARKDOWN_HEAD: &str = "\
| case | per second | p50 ms | p99 ms | p999 ms | CPU s/100k | peak MB | more | floor: per second; CPU s/100k |
|---|---|---|---|---|---|---|---|---|
";

impl Line {
    fn columns(&self) -> Vec<Figure> {
        let mut columns: Vec<Figure> = self.figures.iter().flat_map(|figures| figures.keys().copied()).collect();
        columns.sort();
        columns.dedup();
        columns
    }

    fn ratio(&self, figure: Figure) -> Option<String> {
        let base = self.figures.get(BASE)?.get(&figure)?;
        let subject = self.figures.get(SUBJECT)?.get(&figure)?;
        (*base > 0.0 && !TEXT_ONLY_FIGURES.contains(&figure)).then(|| format!("{:.2}x", subject / base))
    }

    fn pair(&self, figure: Figure) -> String {
        let cell = |side: usize| {
            let value = self.figures.get(side).and_then(|figures| figures.get(&figure));
            value.map_or("–".to_owned(), |value| figure.format(*value))
        };
        match self.ratio(figure) {
            Some(ratio) => format!("{} → {} ({ratio})", cell(BASE), cell(SUBJECT)),
            None if cell(BASE) == "–" && cell(SUBJECT) == "–" => String::new(),
            None => format!("{} → {}", cell(BASE), cell(SUBJECT)),
        }
    }
}

fn medians(rows: &[&Row]) -> BTreeMap<Figure, f64> {
    let mut values: BTreeMap<Figure, Vec<f64>> = BTreeMap::new();
    for row in rows {
        for (figure, value) in &row.figures {
            values.entry(*figure).or_default().push(*value);
        }
    }
    values.into_iter().map(|(figure, values)| (figure, median(values))).collect()
}

/// The middle value, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// The first column to the left, all others to the right.
fn aligned(cells: &[Vec<String>]) -> String {
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for row in cells {
        let mut line = format!("  {:<1$}", row[0], width(0));
        for (column, cell) in row.iter().enumerate().skip(1) {
            write!(line, "  {:>1$}", cell, width(column)).expect("writing to a string");
        }
        writeln!(text, "{}", line.trim_end()).expect("writing to a string");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(per_second: f64) -> Result<Vec<Row>, String> {
        Ok(vec![Row::new("put").with(Figure::PerSecond, per_second).with(Figure::P99, 0.002)])
    }

    fn report() -> Report {
        Report {
            sides: vec!["etcd".to_owned(), "kvorum".to_owned(), "floor".to_owned()],
            runs: vec![vec![row(900.0), row(1000.0), row(5000.0)], vec![row(4000.0), row(5000.0)], vec![row(90000.0)]],
            about: "put".to_owned(),
        }
    }

    #[test]
    fn text_has_medians_ratio_and_floor() {
        let expected = "put
          per second  p99 ms
  etcd         1,000    2.00
  kvorum       4,500    2.00
  ratio        4.50x   1.00x
  floor       90,000    2.00

";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn markdown_pairs_etcd_with_kvorum() {
        let expected = "| put | 1,000 → 4,500 (4.50x) |  | 2.00 → 2.00 (1.00x) |  |  |  |  | 90,000 |\n";
        assert_eq!(report().markdown(), expected);
    }

    #[test]
    fn a_failed_side_is_named_and_the_other_is_shown() {
        let mut report = report();
        report.runs[SUBJECT] = vec![Err("grpc-status 12: no such method".to_owned()), Err("other".to_owned())];
        let text = report.text();
        assert!(text.contains("kvorum FAILED in 2 of 2 runs: grpc-status 12: no such method"), "{text}");
        assert!(text.contains("etcd") && !text.contains("ratio"), "{text}");
        assert!(report.markdown().contains("| 1,000 → – |"), "{}", report.markdown());
    }
}
