//! What several commands print: tables and sizes, in the shapes of etcd's tools.

/// A table as `-w table` shows it: the head in capitals, without underscores, and centred, rows to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let lines: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", lines.join(middle))
    };
    let head: Vec<String> = head
        .iter()
        .zip(&widths)
        .map(|(cell, width)| format!(" {:^width$} ", cell.to_uppercase().replace('_', " ")))
        .collect();
    let mut text = rule("┌", "┬", "┐") + &format!("│{}│\n", head.join("│"));
    if !rows.is_empty() {
        text += &rule("├", "┼", "┤");
    }
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:>width$} ")).collect();
        text += &format!("│{}│\n", cells.join("│"));
    }
    text + &rule("└", "┴", "┘")
}

/// A size in powers of thousand, with one digit behind the point below ten.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut scale: u64 = 1;
    while unit + 1 < UNITS.len() && bytes / scale >= 1000 {
        unit += 1;
        scale *= 1000;
    }
    let value = (bytes as f64 / scale as f64 * 10.0 + 0.5).floor() / 10.0;
    let unit = UNITS[unit];
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_as_etcd_rounds_them() {
        let cases = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (20_480, "20 kB"),
            (999_999, "1000 kB"),
            (82_854_982, "83 MB"),
            (u64::MAX, "18 EB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let text = table(&["a", "long head"], &[vec!["1234".to_owned(), "x".to_owned()]]);
        let expected = "\
┌──────┬───────────┐
│  A   │ LONG HEAD │
├──────┼───────────┤
│ 1234 │         x │
└──────┴───────────┘
";
        assert_eq!(text, expected);
    }
}
