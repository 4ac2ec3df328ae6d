//! What the clients did, beside each other: a row for each figure, a column for each client. It never hides a failure.

use std::fmt::Write;

use super::cases::Case;
use super::program::Counted;
use crate::server::Program;

/// One figure of a case.
struct Row {
    label: String,
    /// For each client; Err when a run failed.
    cells: Vec<Result<f64, String>>,
    decimals: usize,
    is_better_above: bool,
}

pub struct Table {
    clients: Vec<String>,
    rows: Vec<Row>,
}

type Runs = Vec<Vec<Result<Counted, String>>>;

impl Table {
    pub fn new(clients: Vec<String>) -> Self {
        Self { clients, rows: Vec::new() }
    }

    /// The medians of one case on one server.
    pub fn add(&mut self, server: &Program, case: &Case, runs: Runs) {
        let label = |figure: &str| format!("{}: {}, {figure}", server.name, case.about);
        let mut row = |label: String, decimals, is_better_above, value: &dyn Fn(&Counted) -> f64| {
            let cells = runs.iter().map(|runs| median(runs, value)).collect();
            self.rows.push(Row { label, cells, decimals, is_better_above });
        };
        let other = |name: &'static str| move |counted: &Counted| counted.others.get(name).copied().unwrap_or(f64::NAN);
        if case.is_failover() {
            row(label("longest ms without success"), 0, false, &|counted| other("longest_us")(counted) / 1e3);
            row(label("requests that failed"), 0, false, &other("failed"));
            return;
        }
        row(label("per second"), 0, true, &|counted| counted.count / counted.seconds);
        row(label("client CPU µs each"), 2, false, &|counted| counted.cpu_seconds * 1e6 / counted.count.max(1.0));
        if runs.iter().flatten().flatten().any(|counted| counted.others.contains_key("p50_us")) {
            row(label("p50 µs"), 0, false, &other("p50_us"));
            row(label("p99 µs"), 0, false, &other("p99_us"));
        }
    }

    /// For a page: the last column is the last client beside the best of the others.
    pub fn markdown(&self) -> String {
        let mut text = format!("| | {} | beside the best other |\n", self.clients.join(" | "));
        writeln!(text, "|---{}|---|", "|---:".repeat(self.clients.len())).expect("writing to a string");
        for row in &self.rows {
            let cells: Vec<String> = row.cells.iter().map(|cell| row.format(cell)).collect();
            writeln!(text, "| {} | {} | {} |", row.label, cells.join(" | "), row.ratio()).expect("writing to a string");
        }
        text
    }

    /// The same for a terminal.
    pub fn text(&self) -> String {
        let width = self.rows.iter().map(|row| row.label.chars().count()).max().unwrap_or_default();
        let mut text = format!("{:width$}", "");
        for client in self.clients.iter().map(String::as_str).chain(["ratio"]) {
            write!(text, "  {client:>16}").expect("writing to a string");
        }
        text.push('\n');
        for row in &self.rows {
            write!(text, "{:width$}", row.label).expect("writing to a string");
            for cell in row.cells.iter().map(|cell| row.format(cell)).chain([row.ratio()]) {
                write!(text, "  {cell:>16}").expect("writing to a string");
            }
            text.push('\n');
        }
        text
    }
}

impl Row {
    fn format(&self, cell: &Result<f64, String>) -> String {
        match cell {
            Ok(value) if self.decimals == 0 => thousands(*value),
            Ok(value) => format!("{value:.*}", self.decimals),
            Err(error) => format!("failed: {}", error.replace('|', "/")),
        }
    }

    /// The last client's figure over the best of the others.
    fn ratio(&self) -> String {
        let Some((Ok(last), others)) = self.cells.split_last() else { return String::new() };
        let others = others.iter().flatten().copied();
        let best = if self.is_better_above { others.reduce(f64::max) } else { others.reduce(f64::min) };
        best.filter(|best| *best > 0.0).map_or_else(String::new, |best| format!("{:.2}x", last / best))
    }
}

fn median(runs: &[Result<Counted, String>], value: &dyn Fn(&Counted) -> f64) -> Result<f64, String> {
    let mut values = Vec::new();
    for run in runs {
        values.push(value(run.as_ref().map_err(Clone::clone)?));
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    Ok(if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] })
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_last_client_stands_beside_the_best_other() {
        let counted = |count| {
            let others = BTreeMap::from([("p50_us".to_owned(), 5.0), ("p99_us".to_owned(), 9.0)]);
            vec![Ok(Counted { count, seconds: 2.0, cpu_seconds: 1.0, others })]
        };
        let mut table = Table::new(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]);
        let server = Program { name: "etcd".to_owned(), path: "etcd".into(), floor: false };
        table.add(&server, &super::super::cases::ALL[0], vec![counted(1e4), counted(2e4), counted(8e4)]);
        let text = table.markdown();
        assert!(text.contains("per second | 5,000 | 10,000 | 40,000 | 4.00x |"), "{text}");
        assert!(text.contains("client CPU µs each | 100.00 | 50.00 | 12.50 | 0.25x |"), "{text}");
        let mut table = Table::new(vec!["a".to_owned(), "b".to_owned()]);
        table.add(&server, &super::super::cases::ALL[0], vec![counted(1e4), vec![Err("it ended".to_owned())]]);
        assert!(table.text().contains("failed: it ended"), "{}", table.text());
    }
}
