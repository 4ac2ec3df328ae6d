//! README.md and its Chinese twin must say the same: as many headings of each level, the same code, the same links, the same
//! figures in every row of every table. What their sentences say is for readers to judge.

use std::fs;

use crate::codegen::workspace_root;

const ENGLISH: &str = "README.md";
const CHINESE: &str = "README.zh-CN.md";

/// The program in the README, which is built with the others.
const PROGRAM: &str = "client/examples/readme.rs";

/// Fails with the first difference.
pub fn check() -> Result<(), String> {
    let read = |name: &str| fs::read_to_string(workspace_root().join(name)).map_err(|error| format!("{name}: {error}"));
    let english = read(ENGLISH)?;
    compare(&english, &read(CHINESE)?)?;
    // Behind the line that says what it is.
    let program = read(PROGRAM)?;
    let program = program.split_once("\n\n").map_or("", |(_, program)| program);
    if english.contains(&format!("```rust\n{program}```")) {
        Ok(())
    } else {
        Err(format!("{PROGRAM} is not the program in {ENGLISH}"))
    }
}

fn compare(english: &str, chinese: &str) -> Result<(), String> {
    let (english, chinese) = (Page::read(english), Page::read(chinese));
    same("the levels of headings", &english.headings, &chinese.headings)?;
    same("blocks of code", &english.blocks, &chinese.blocks)?;
    same("rows of tables, by their figures", &english.rows, &chinese.rows)?;
    same("words in code", &english.words, &chinese.words)?;
    // Each names the other.
    let others = |page: &Page| -> Vec<String> {
        page.links.iter().filter(|link| ![ENGLISH, CHINESE].contains(&link.as_str())).cloned().collect()
    };
    same("links", &others(&english), &others(&chinese))?;
    let linked = english.links.iter().any(|link| link == CHINESE) && chinese.links.iter().any(|link| link == ENGLISH);
    if linked { Ok(()) } else { Err(format!("{ENGLISH} and {CHINESE} do not name each other")) }
}

fn same(what: &str, english: &[String], chinese: &[String]) -> Result<(), String> {
    for place in 0..english.len().max(chinese.len()) {
        let (one, other) = (english.get(place), chinese.get(place));
        if one != other {
            let shown = |text: Option<&String>| text.map_or("nothing".to_owned(), |text| format!("{text:?}"));
            let number = place + 1;
            return Err(format!(
                "{what}: number {number} is {} in {ENGLISH}, {} in {CHINESE}",
                shown(one),
                shown(other)
            ));
        }
    }
    Ok(())
}

/// What of a page does not depend on its language.
#[derive(Default)]
struct Page {
    headings: Vec<String>,
    blocks: Vec<String>,
    /// The figures of each row, sorted: another language may put them in another order.
    rows: Vec<String>,
    /// What stands in backticks, sorted.
    words: Vec<String>,
    /// Where links lead, sorted.
    links: Vec<String>,
}

impl Page {
    fn read(text: &str) -> Page {
        let mut page = Page::default();
        let mut block: Option<String> = None;
        let mut prose = String::new();
        for line in text.lines() {
            if line.starts_with("```") {
                match block.take() {
                    Some(block) => page.blocks.push(block),
                    None => block = Some(format!("{line}\n")),
                }
                continue;
            }
            if let Some(block) = &mut block {
                block.push_str(line);
                block.push('\n');
                continue;
            }
            if line.starts_with('#') {
                page.headings.push(line.chars().take_while(|&letter| letter == '#').collect());
            }
            if line.starts_with('|') {
                page.rows.push(figures(line));
            }
            prose.push_str(line);
            prose.push('\n');
        }
        page.words = prose.split('`').skip(1).step_by(2).map(|word| word.replace('\n', " ")).collect();
        page.links =
            prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to.to_owned()).collect();
        page.words.sort();
        page.links.sort();
        page
    }
}

/// The numbers of a line, sorted.
fn figures(line: &str) -> String {
    let is_part = |letter: char| letter.is_ascii_digit() || letter == ',' || letter == '.';
    let numbers = line.split(|letter: char| !is_part(letter)).map(|number| number.trim_matches([',', '.']));
    let mut numbers: Vec<&str> = numbers.filter(|number| !number.is_empty()).collect();
    numbers.sort_unstable();
    numbers.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH_PAGE: &str = "# A [twin](README.zh-CN.md)\n`x` and `y`\n```\ncode\n```\n| 10 x 50 | 1,000 → 2.5 |\n";
    const CHINESE_PAGE: &str = "# 甲 [twin](README.md)\n`y`、`x`\n```\ncode\n```\n| 50 × 10 | 1,000 → 2.5 |\n";

    #[test]
    fn what_differs_is_named() {
        assert_eq!(compare(ENGLISH_PAGE, CHINESE_PAGE), Ok(()));
        for (from, to) in [("# 甲", "## 甲"), ("code", "koda"), ("2.5", "2.6"), ("`x`", "`z`"), ("README.md", "x.md")]
        {
            assert!(compare(ENGLISH_PAGE, &CHINESE_PAGE.replace(from, to)).is_err(), "{from}");
        }
        assert!(compare(ENGLISH_PAGE, &format!("{CHINESE_PAGE}| 1 |\n")).is_err());
    }
}
