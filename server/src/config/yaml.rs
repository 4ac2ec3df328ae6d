//! The part of YAML that configuration files are written in: mappings and lists by indentation, lists in brackets, plain and
//! quoted scalars, comments. What is beyond it (anchors, tags, text in several lines) is refused by line, never guessed.
//!
//! It knows nothing of flags.

/// A value, and the line it begins in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Without quotes: what it is depends on who asks.
    Plain(String),
    Quoted(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Levels of brackets and of indentation; nothing in a configuration needs more.
const DEPTH_MAX: usize = 8;

struct Line<'a> {
    number: usize,
    indent: usize,
    text: &'a str,
}

/// Reads a file: a mapping, or nothing. The error is a sentence with its line.
pub fn parse(text: &str) -> Result<Vec<(String, Node)>, String> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let body = without_comment(line).trim_end();
        let content = body.trim_start_matches(' ');
        if content.is_empty() || (lines.is_empty() && content == "---") {
            continue;
        }
        if content.starts_with('\t') {
            return Err(format!("line {number}: a tab cannot indent"));
        }
        lines.push(Line { number, indent: body.len() - content.len(), text: content });
    }
    let mut reader = Reader { lines, at: 0 };
    let Some(first) = reader.lines.first() else { return Ok(Vec::new()) };
    let node = if first.text.starts_with('{') {
        let line = first.number;
        let all = reader.bracketed(0)?;
        node(line, &all, 0)?
    } else {
        let indent = first.indent;
        reader.block(indent, 0)?
    };
    match (node.value, reader.lines.get(reader.at)) {
        (_, Some(line)) => Err(format!("line {}: this does not belong to what is above it", line.number)),
        (Value::Map(entries), None) => Ok(entries),
        _ => Err(format!("line {}: a mapping of names is expected", node.line)),
    }
}

/// Cuts off `# ...`, which begins a line or follows a blank, outside of quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    let mut escaped = false;
    for (index, c) in line.char_indices() {
        match (quote, c) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), _) if c == open && !escaped => quote = None,
            (None, '"' | '\'') if " [{,:".contains(before) => quote = Some(c),
            (None, '#') if before.is_whitespace() => return &line[..index],
            _ => {}
        }
        (before, escaped) = (c, false);
    }
    line
}

struct Reader<'a> {
    lines: Vec<Line<'a>>,
    at: usize,
}

impl Reader<'_> {
    /// The lines of this indentation, and what is below them.
    fn block(&mut self, indent: usize, depth: usize) -> Result<Node, String> {
        let first = &self.lines[self.at];
        let line = first.number;
        if depth > DEPTH_MAX {
            return Err(format!("line {line}: too deep"));
        }
        if is_item(first.text) { self.list(indent, line) } else { self.map(indent, line, depth) }
    }

    fn list(&mut self, indent: usize, line: usize) -> Result<Node, String> {
        let mut items = Vec::new();
        while let Some(next) = self.lines.get(self.at).filter(|next| next.indent == indent && is_item(next.text)) {
            items.push(node(next.number, next.text[1..].trim(), 0)?);
            self.at += 1;
        }
        Ok(Node { line, value: Value::List(items) })
    }

    fn map(&mut self, indent: usize, line: usize, depth: usize) -> Result<Node, String> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        while let Some(next) = self.lines.get(self.at).filter(|next| next.indent == indent && !is_item(next.text)) {
            let number = next.number;
            let (name, rest) = split_name(next.text).ok_or_else(|| format!("line {number}: no `name: value`"))?;
            if entries.iter().any(|(other, _)| *other == name) {
                return Err(format!("line {number}: {name} is there twice"));
            }
            let value = if rest.starts_with(['[', '{']) {
                let from = next.text.len() - rest.len();
                let all = self.bracketed(from)?;
                node(number, &all, 0)?
            } else {
                let rest = rest.to_owned();
                self.at += 1;
                self.value_of(number, &rest, indent, depth)?
            };
            entries.push((name, value));
        }
        Ok(Node { line, value: Value::Map(entries) })
    }

    /// What stands behind a name: on its line, or below it.
    fn value_of(&mut self, number: usize, rest: &str, indent: usize, depth: usize) -> Result<Node, String> {
        let below = self.lines.get(self.at).filter(|next| next.indent > indent || is_item(next.text));
        match below.map(|next| next.indent).filter(|below| *below >= indent) {
            Some(below) if rest.is_empty() => self.block(below, depth + 1),
            Some(below) if below > indent => Err(format!("line {number}: text in several lines is not read here")),
            _ => node(number, rest, 0),
        }
    }

    /// What stands in brackets from a place of the present line on, with the lines it needs.
    fn bracketed(&mut self, from: usize) -> Result<String, String> {
        let number = self.lines[self.at].number;
        let mut all = String::new();
        while let Some(line) = self.lines.get(self.at) {
            let part = if all.is_empty() { &line.text[from..] } else { line.text };
            all.push_str(part);
            all.push(' ');
            self.at += 1;
            if brackets_open(&all) == 0 {
                return Ok(all.trim().to_owned());
            }
        }
        Err(format!("line {number}: a bracket is not closed"))
    }
}

fn is_item(text: &str) -> bool {
    text == "-" || text.starts_with("- ")
}

fn brackets_open(text: &str) -> i32 {
    let mut depth = 0;
    outside_quotes(text, |_, c| match c {
        '[' | '{' => depth += 1,
        ']' | '}' => depth -= 1,
        _ => {}
    });
    depth
}

/// Shows every character that is not inside quotes, with its place.
fn outside_quotes(text: &str, mut show: impl FnMut(usize, char)) {
    let mut quote = None;
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match quote {
            Some('"') if c == '\\' && !escaped => {
                escaped = true;
                continue;
            }
            Some(open) if c == open && !escaped => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None => show(index, c),
        }
        escaped = false;
    }
}

/// `name: value` or `name:`; the name may be quoted.
fn split_name(text: &str) -> Option<(String, &str)> {
    let mut colon = None;
    outside_quotes(text, |index, c| {
        let ends = text[index..].len() == 1 || text[index + c.len_utf8()..].starts_with(' ');
        if c == ':' && ends && colon.is_none() {
            colon = Some(index);
        }
    });
    let (name, rest) = text.split_at(colon?);
    let name = match scalar(name.trim()).ok()? {
        Value::Plain(name) | Value::Quoted(name) => name,
        _ => return None,
    };
    Some((name, rest[1..].trim()))
}

/// What stands on one line, or in brackets.
fn node(line: usize, text: &str, depth: usize) -> Result<Node, String> {
    let failed = |reason: &str| format!("line {line}: {reason}");
    let inside = |open, close| text.strip_prefix(open).map(|rest: &str| rest.strip_suffix(close));
    let value = if let Some(inside) = inside('[', ']') {
        let parts = split_parts(inside.ok_or_else(|| failed("a bracket is not closed"))?);
        let items = parts.into_iter().map(|part| nested(line, part, depth));
        Value::List(items.collect::<Result<_, _>>()?)
    } else if let Some(inside) = inside('{', '}') {
        let mut entries: Vec<(String, Node)> = Vec::new();
        for part in split_parts(inside.ok_or_else(|| failed("a bracket is not closed"))?) {
            let (name, rest) = split_name(part).ok_or_else(|| failed("no `name: value` in brackets"))?;
            if entries.iter().any(|(other, _)| *other == name) {
                return Err(failed(&format!("{name} is there twice")));
            }
            entries.push((name, nested(line, rest, depth)?));
        }
        Value::Map(entries)
    } else {
        scalar(text).map_err(|reason| failed(&reason))?
    };
    Ok(Node { line, value })
}

fn nested(line: usize, text: &str, depth: usize) -> Result<Node, String> {
    if depth > DEPTH_MAX { Err(format!("line {line}: too deep")) } else { node(line, text, depth + 1) }
}

/// The parts between commas, of which the last may be empty.
fn split_parts(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    outside_quotes(text, |index, c| match c {
        '[' | '{' => depth += 1,
        ']' | '}' => depth -= 1,
        ',' if depth == 0 => {
            parts.push(text[from..index].trim());
            from = index + 1;
        }
        _ => {}
    });
    parts.push(text[from..].trim());
    if parts.last().is_some_and(|part| part.is_empty()) {
        parts.pop();
    }
    parts
}

fn scalar(text: &str) -> Result<Value, String> {
    match text.chars().next() {
        None => Ok(Value::Null),
        Some('"') => double_quoted(text).map(Value::Quoted),
        Some('\'') => {
            let inside = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).filter(|_| text.len() > 1);
            let inside = inside.ok_or("a quote is not closed")?;
            if inside.replace("''", "").contains('\'') {
                return Err("something follows a closing quote".to_owned());
            }
            Ok(Value::Quoted(inside.replace("''", "'")))
        }
        Some('&' | '*' | '!' | '|' | '>' | '%' | '@' | '`') => Err(format!("{text:?} is beyond what is read here")),
        Some(_) if matches!(text, "~" | "null" | "Null" | "NULL") => Ok(Value::Null),
        Some(_) => Ok(Value::Plain(text.to_owned())),
    }
}

fn double_quoted(text: &str) -> Result<String, String> {
    let inside = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|_| text.len() > 1);
    let mut rest = inside.ok_or("a quote is not closed")?.chars();
    let mut value = String::new();
    while let Some(c) = rest.next() {
        let escape = match c {
            '"' => return Err("something follows a closing quote".to_owned()),
            '\\' => rest.next().ok_or("a quote is not closed")?,
            plain => {
                value.push(plain);
                continue;
            }
        };
        value.push(match escape {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            '0' => '\0',
            '"' | '\\' | '/' | ' ' => escape,
            'x' | 'u' | 'U' => {
                let length = match escape {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let digits: String = rest.by_ref().take(length).collect();
                let number = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == length);
                number.and_then(char::from_u32).ok_or_else(|| format!("\\{escape}{digits} is no character"))?
            }
            other => return Err(format!("\\{other} is no escape")),
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file as one line: `name=value` in order, with `[...]` and `{...}`.
    fn read(text: &str) -> String {
        fn shown(node: &Node) -> String {
            match &node.value {
                Value::Null => "null".to_owned(),
                Value::Plain(text) => text.clone(),
                Value::Quoted(text) => format!("{text:?}"),
                Value::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(",")),
                Value::Map(entries) => format!("{{{}}}", map(entries)),
            }
        }
        fn map(entries: &[(String, Node)]) -> String {
            entries.iter().map(|(name, node)| format!("{name}={}", shown(node))).collect::<Vec<_>>().join(" ")
        }
        match parse(text) {
            Ok(entries) => map(&entries),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn files_are_read() {
        for (text, expected) in [
            ("", ""),
            ("# nothing\n---\n\n", ""),
            (
                "a: 1\nb: 'x # y''z'   # comment\nc:\nd: \"\\u0041\\n\"\ne: ~\n",
                "a=1 b=\"x # y'z\" c=null d=\"A\\n\" e=null",
            ),
            ("urls: http://a:1,http://b:2#c\n", "urls=http://a:1,http://b:2#c"),
            ("s:\n  k: v\n  l: [a, 'b,c']\nt: x", r#"s={k=v l=[a,"b,c"]} t=x"#),
            ("l:\n- a\n- b\nm:\n  - 'c'\n", r#"l=[a,b] m=["c"]"#),
            ("l: [\n  a,\n  b\n]\nm: []", "l=[a,b] m=[]"),
            ("{\"a\": true, \"s\": {\"b\": [\"c\"],\n \"d\": null}}", r#"a=true s={b=["c"] d=null}"#),
            ("'quoted name': 1", "quoted name=1"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_read_is_refused_by_line() {
        for (text, expected) in [
            ("a", "line 1: no `name: value`"),
            ("a: 1\na: 2", "line 2: a is there twice"),
            ("a: 1\n\tb: 2", "line 2: a tab cannot indent"),
            ("a: 1\n  b: 2", "line 1: text in several lines is not read here"),
            ("a:\n  b: 1\n c: 2", "line 3: this does not belong to what is above it"),
            ("a: [b", "line 1: a bracket is not closed"),
            ("a: 'b", "line 1: a quote is not closed"),
            ("a: 'b' c", "line 1: a quote is not closed"),
            ("a: \"b\" \"", "line 1: something follows a closing quote"),
            ("a: \"\\q\"", "line 1: \\q is no escape"),
            ("a: |\n  b", "line 1: text in several lines is not read here"),
            ("a: &x b", "line 1: \"&x b\" is beyond what is read here"),
            ("- a", "line 1: a mapping of names is expected"),
        ] {
            assert_eq!(read(text), format!("error: {expected}"), "{text}");
        }
        assert!(read(&format!("a: {}", "[".repeat(10_000) + &"]".repeat(10_000))).contains("too deep"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[a-c:\\-\\[\\]{},'\"#&\\\\ \n\t~é]{0,60}") {
            drop(parse(&text));
        }
    }
}
