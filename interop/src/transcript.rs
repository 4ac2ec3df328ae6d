//! Runs a list of command lines with one program after another, each against a member that begins anew on the same
//! address, and compares what the programs print and how they end, byte for byte. Only what no two runs share is taken
//! out first: ids that a server makes up, times, sizes of files. It must not know what a command means.
//!
//! A script has one command line on each line, without the program's name:
//!
//! ```text
//! # comment
//! put a '1 2'
//! ETCDCTL_WRITE_OUT=json get a --rev=$revision
//! put b <'from standard input\n'
//! txn <<END
//! ...
//! END
//! @lines 2            what follows runs until it printed two lines, and gets an interrupt then
//! watch a --rev=1
//! @help               of what follows, only the exit code and lines with `Error:` are compared: help is in own words
//! put --no-such-flag
//! @differs reason     what follows must print or end with something else
//! version
//! ```
//!
//! Words are split at spaces; `'…'` and `"…"` hold spaces, `\n`, `\t`, `\\`, `\xNN` stand for bytes inside of both.
//! `$url` and `$address` are the member's, `$other` is an address that nobody listens at; `$lease1`, `$member1` the first ids
//! that were printed for a granted lease or an added member, `$self` the id of the member.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ports::free_port;
use crate::process::let_children_be_interrupted;

/// How long one command may take.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(30);

/// The least id below 2^63 that is as long as all in hexadecimal and as a varint.
const SHORTEST_ID: u64 = 1 << 60;

/// What is compared of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    Exact,
    /// Exit code and lines with `Error:`.
    Help,
    /// Nothing, but something must differ.
    Differs,
}

/// One command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it stands in the script, from 1.
    pub line: usize,
    pub text: String,
    environment: Vec<(String, String)>,
    words: Vec<String>,
    input: Vec<u8>,
    /// After so many lines it gets an interrupt.
    lines: Option<usize>,
    pub rule: Rule,
}

impl Step {
    /// Whether it goes on until it is interrupted.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.lines.is_some()
    }
}

/// Reads a script.
///
/// # Errors
/// Says which line is not one.
pub fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut numbered = text.lines().enumerate();
    let (mut rule, mut lines) = (Rule::Exact, None);
    while let Some((index, line)) = numbered.next() {
        let wrong = |what: &str| format!("line {}: {what}: {line}", index + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(directive) = line.strip_prefix('@') {
            let (name, rest) = directive.split_once(' ').unwrap_or((directive, ""));
            match name {
                "help" => rule = Rule::Help,
                "differs" if !rest.is_empty() => rule = Rule::Differs,
                "lines" => lines = Some(rest.trim().parse().map_err(|_| wrong("no number"))?),
                _ => return Err(wrong("unknown directive")),
            }
            continue;
        }
        let mut words = split(line).map_err(|what| wrong(&what))?;
        let mut input = Vec::new();
        if let Some(end) = words.last().and_then(|word| word.strip_prefix("<<")).map(str::to_owned) {
            words.pop();
            loop {
                let (_, line) = numbered.next().ok_or_else(|| wrong("no end of the input"))?;
                if line == end {
                    break;
                }
                input.extend_from_slice(line.as_bytes());
                input.push(b'\n');
            }
        } else if let Some(given) = words.last().and_then(|word| word.strip_prefix('<')).map(str::to_owned) {
            words.pop();
            input = bytes_of(&given);
        }
        let is_variable = |word: &&String| word.starts_with("ETCDCTL_") && word.contains('=');
        let variables = words.iter().take_while(is_variable).count();
        let words = words.split_off(variables).into_iter().collect();
        let environment = split(line).expect("it was split above").into_iter().take(variables);
        let environment = environment
            .filter_map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
            .collect();
        let rule = std::mem::replace(&mut rule, Rule::Exact);
        let text = line.to_owned();
        steps.push(Step { line: index + 1, text, environment, words, input, lines: lines.take(), rule });
    }
    Ok(steps)
}

/// The words of a line. Bytes beyond ASCII that an escape names are kept as characters up to U+00FF (see [`bytes_of`]).
fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, ' ') => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), close) if open == close => quote = None,
            (Some(_), '\\') => {
                let escaped = match characters.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('x') => {
                        let digits: String = characters.by_ref().take(2).collect();
                        u8::from_str_radix(&digits, 16).map_err(|_| "not a byte".to_owned())?.into()
                    }
                    Some(other) => other,
                    None => return Err("ends in a backslash".to_owned()),
                };
                word.get_or_insert_default().push(escaped);
            }
            (_, character) => word.get_or_insert_default().push(character),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// Characters up to U+00FF are bytes of that value, others stand for themselves.
fn bytes_of(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for character in word.chars() {
        match u8::try_from(u32::from(character)) {
            Ok(byte) => bytes.push(byte),
            Err(_) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// How a command ended and what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// None: by a signal.
    pub exit_code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// One program at work on a script. Its commands run in a folder of their own.
#[derive(Debug)]
pub struct Session {
    program: PathBuf,
    folder: TempDir,
    variables: BTreeMap<String, String>,
    /// Ids the server made up, and what stands for them.
    ids: Vec<(u64, String)>,
}

impl Session {
    /// Begins a script against the member at an address, `http://host:port` or `https://host:port`.
    ///
    /// # Panics
    /// When there is no temporary folder.
    pub fn new(program: &Path, url: &str) -> Self {
        let address = url.split_once("://").map_or(url, |(_, address)| address);
        let other = format!("127.0.0.1:{}", free_port());
        let variables = [("url", url), ("address", address), ("other", &other)];
        Self {
            program: program.to_path_buf(),
            folder: TempDir::with_prefix("kvorum-transcript-").expect("a temporary folder can be made"),
            variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ids: Vec::new(),
        }
    }

    /// What stands for `$name` in the steps that follow.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// Runs a step and gives its outcome without what no two runs share.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn run(&mut self, step: &Step) -> Result<Outcome, String> {
        let mut outcome = self.execute(step)?;
        while let Some(id) = self.misplaced_member(&outcome.stdout) {
            let mut remove = Command::new(&self.program);
            remove.arg(format!("--endpoints={}", self.variables["url"])).args(["member", "remove", &format!("{id:x}")]);
            run(remove, Vec::new(), None)?;
            self.choose_other();
            outcome = self.execute(step)?;
        }
        let words: Vec<String> = step.words.iter().map(|word| self.expand(word)).collect();
        self.learn(&outcome.stdout);
        // What was asked twice may have been done twice: good to know when answers differ.
        for line in String::from_utf8_lossy(&outcome.stderr).lines().filter(|line| line.contains("\"retrying of")) {
            println!("line {}: {line}", step.line);
        }
        outcome.stdout = self.anonymous(&words, &outcome.stdout);
        outcome.stderr = self.anonymous(&words, &without_noise(&outcome.stderr));
        if words.iter().any(|word| word == "remove") {
            self.choose_other();
        }
        Ok(outcome)
    }

    /// An id is made of URLs and seconds, and one that was removed does not come back: so the next member has another URL.
    fn choose_other(&mut self) {
        self.variables.insert("other".to_owned(), format!("127.0.0.1:{}", free_port()));
    }

    fn execute(&self, step: &Step) -> Result<Outcome, String> {
        let words: Vec<String> = step.words.iter().map(|word| self.expand(word)).collect();
        let names_endpoints = words.iter().any(|word| word.starts_with("--endpoints"))
            || step.environment.iter().any(|(name, _)| name == "ETCDCTL_ENDPOINTS");
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(self.folder.path());
        command.envs(step.environment.iter().map(|(name, value)| (name, self.expand(value))));
        if !names_endpoints {
            command.arg(format!("--endpoints={}", self.variables["url"]));
        }
        let has = |beginning: &str| words.iter().any(|word| word.starts_with(beginning));
        if has("--user") && !has("--dial-timeout") {
            // A login must not fail because a machine is busy: it takes time by design.
            command.arg(format!("--dial-timeout={}s", COMMAND_TIME_MAX.as_secs() / 2));
        }
        command.args(words.iter().map(|word| OsString::from_vec(bytes_of(word))));
        let mut outcome = run(command, self.expand_bytes(&step.input), step.lines)?;
        if let Some(lines) = step.lines {
            // More may have come before the interrupt.
            let ends = outcome.stdout.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            let end = ends.map(|(index, _)| index + 1).nth(lines - 1);
            outcome.stdout.truncate(end.unwrap_or(outcome.stdout.len()));
        }
        Ok(outcome)
    }

    /// The id of a learner that was just added, if it is not in the half of the range that the member's own is not in. Members
    /// are listed by their ids, and those of new ones depend on the time; but lists must have one order, and ids one length.
    fn misplaced_member(&self, stdout: &[u8]) -> Option<u64> {
        let own = u64::from_str_radix(self.variables.get("self")?, 16).ok()?;
        let text = String::from_utf8_lossy(stdout);
        let added =
            added_member(&text).filter(|_| text.contains(" as learner ") || text.contains("\"isLearner\":true"))?;
        let upper = 1 << 63;
        let is_fine = if own < upper { added >= upper } else { (SHORTEST_ID..upper).contains(&added) };
        (!is_fine).then_some(added)
    }

    fn expand(&self, word: &str) -> String {
        let mut word = word.to_owned();
        // Longer names first: `$lease1` is a part of `$lease12`.
        for (name, value) in self.variables.iter().rev() {
            word = word.replace(&format!("${name}"), value);
        }
        word
    }

    fn expand_bytes(&self, input: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(input) {
            Ok(text) => self.expand(text).into_bytes(),
            Err(_) => input.to_vec(),
        }
    }

    /// Keeps the ids of new leases and members.
    fn learn(&mut self, stdout: &[u8]) {
        let text = String::from_utf8_lossy(stdout);
        if let Some(id) = added_member(&text) {
            self.keep("member", id);
        }
        for line in text.lines() {
            let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
            let found = match words[..] {
                ["lease", id, "granted", "with", ..] if !line.contains("remaining") => ("lease", id),
                [id, "unstarted", ..] if !self.is_known(id) => ("member", id),
                [id, "started", ..] if !self.variables.contains_key("self") => {
                    self.variables.insert("self".to_owned(), id.to_owned());
                    continue;
                }
                _ => continue,
            };
            let (kind, id) = found;
            self.keep(kind, u64::from_str_radix(id, 16).expect("an id is printed in hexadecimal"));
        }
    }

    fn is_known(&self, id: &str) -> bool {
        self.ids.iter().any(|(known, _)| u64::from_str_radix(id, 16) == Ok(*known))
    }

    fn keep(&mut self, kind: &str, id: u64) {
        let kept = self.ids.iter().filter(|(_, name)| name.starts_with(&kind.to_uppercase()));
        let number = 1 + kept.count();
        self.variables.insert(format!("{kind}{number}"), format!("{id:016x}"));
        self.ids.push((id, format!("{}-{number}", kind.to_uppercase())));
    }

    fn anonymous(&self, words: &[String], output: &[u8]) -> Vec<u8> {
        let mut output = output.to_vec();
        for (id, name) in &self.ids {
            for shown in [format!("{id:016x}"), format!("{id:16x}"), format!("{id:x}"), id.to_string()] {
                output = replace(&output, shown.as_bytes(), name.as_bytes());
            }
            output = replace(&output, &varint(*id), name.as_bytes());
        }
        output = replace(&output, b"kvorumctl", b"etcdctl");
        output = replace(&output, self.variables["other"].as_bytes(), b"OTHER");
        let Ok(text) = String::from_utf8(output.clone()) else { return output };
        normalise(words, &text).into_bytes()
    }
}

/// Lines that are no part of a command's answer: zap's log lines and our warnings, and what `stty` says of a pipe.
fn without_noise(stderr: &[u8]) -> Vec<u8> {
    const NOISE: [&[u8]; 3] = [b"{\"level\":", b"Warning: ", b"stty:"];
    let lines = stderr.split_inclusive(|&byte| byte == b'\n');
    lines.filter(|line| !NOISE.iter().any(|noise| line.starts_with(noise))).flatten().copied().collect()
}

/// Takes out times, sizes of files, log indexes, and the ids in names of locks.
fn normalise(words: &[String], text: &str) -> String {
    let has = |word: &str| words.iter().any(|candidate| candidate == word);
    let mut text = text.to_owned();
    for mark in ["took ", "took = ", "\"took\":\"", "\"Took\" : "] {
        text = without_number(&text, mark, "µnms.hµ");
    }
    if has("timetolive") {
        for mark in ["remaining(", "\"ttl\":", "\"TTL\" : "] {
            text = without_number(&text, mark, "");
        }
    }
    if has("lock") || has("elect") {
        text = without_lease_in_path(&text);
    }
    if has("add") {
        text = text.lines().map(with_sorted_cluster).collect();
    }
    if has("alarm") || has("status") || has("health") {
        // Go's text form of a message has one space or two between fields, by the build.
        text = text.replace("  alarm:", " alarm:");
    }
    if has("health") {
        // Who answers first comes first.
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        if lines.iter().all(|line| line.contains(" is healthy: ")) {
            lines.sort_unstable();
            text = lines.concat();
        }
    }
    if has("endpoint") && (has("status") || has("health")) {
        for mark in ["\"dbSize\":", "\"dbSizeInUse\":", "\"raftIndex\":", "\"raftAppliedIndex\":"] {
            text = without_number(&text, mark, "");
        }
        for mark in ["\"DBSize\" : ", "\"DBSizeInUse\" : ", "\"RaftIndex\" : ", "\"RaftAppliedIndex\" : "] {
            text = without_number(&text, mark, "");
        }
        text = text.lines().map(without_changing_cells).collect::<String>();
    }
    text
}

/// `ETCD_INITIAL_CLUSTER="…"` in the order of names: that of ids depends on the time.
fn with_sorted_cluster(line: &str) -> String {
    let inner = line.strip_prefix("ETCD_INITIAL_CLUSTER=\"").and_then(|line| line.strip_suffix('"'));
    let Some(inner) = inner else { return format!("{line}\n") };
    let mut members: Vec<&str> = inner.split(',').collect();
    members.sort_unstable();
    format!("ETCD_INITIAL_CLUSTER=\"{}\"\n", members.join(","))
}

/// What `endpoint status` and `endpoint health` show in rows, without the cells that change.
fn without_changing_cells(line: &str) -> String {
    const CHANGING: [usize; 5] = [4, 5, 6, 11, 12];
    if line.starts_with(['┌', '├', '└']) {
        return line.chars().filter(|&character| character != '─').chain(['\n']).collect();
    }
    let (separator, inner) = match line.strip_prefix('│').and_then(|line| line.strip_suffix('│')) {
        Some(inner) => ("│", inner),
        None => (", ", line),
    };
    let mut cells: Vec<&str> = inner.split(separator).map(str::trim).collect();
    let begins_with_letter = |cell: &str| cell.starts_with(|first: char| first.is_ascii_alphabetic());
    match cells.len() {
        14.. => {
            for column in CHANGING {
                if !begins_with_letter(cells[column]) {
                    cells[column] = "*";
                }
            }
        }
        4 if separator == "│" && !begins_with_letter(cells[2]) => cells[2] = "*",
        _ => {}
    }
    format!("{}\n", cells.join(separator))
}

/// The text with the number behind each mark replaced; a unit made of the given letters goes with it.
fn without_number(text: &str, mark: &str, unit: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(found) = rest.find(mark) {
        let (before, after) = rest.split_at(found + mark.len());
        result.push_str(before);
        let is_part = |character: char| character.is_ascii_digit() || unit.contains(character);
        let number = after.find(|character| !is_part(character)).unwrap_or(after.len());
        if after.starts_with(|first: char| first.is_ascii_digit()) {
            result.push('*');
            rest = &after[number..];
        } else {
            rest = after;
        }
    }
    result + rest
}

/// `name/694d8f2b1c3a5e07` becomes `name/LEASE`.
fn without_lease_in_path(text: &str) -> String {
    const DIGITS_MIN: usize = 12;
    let mut result = String::new();
    let mut rest = text;
    while let Some(slash) = rest.find('/') {
        let (before, after) = rest.split_at(slash + 1);
        result.push_str(before);
        let digits = after.find(|character: char| !character.is_ascii_hexdigit()).unwrap_or(after.len());
        if digits >= DIGITS_MIN {
            result.push_str("LEASE");
            rest = &after[digits..];
        } else {
            rest = after;
        }
    }
    result + rest
}

/// The id of a member that was just added, in the simple format or in JSON.
fn added_member(text: &str) -> Option<u64> {
    if let Some(words) = text.strip_prefix("Member ") {
        let (id, rest) = words.trim_start().split_once(' ')?;
        return rest.starts_with("added ").then(|| u64::from_str_radix(id, 16).ok())?;
    }
    let (_, id) = text.split_once("\"member\":{\"ID\":")?;
    let radix = if id.starts_with('"') { 16 } else { 10 };
    u64::from_str_radix(id.trim_start_matches('"').split([',', '"']).next()?, radix).ok()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        if rest.starts_with(from) {
            result.extend_from_slice(to);
            rest = &rest[from.len()..];
        } else {
            result.push(rest[0]);
            rest = &rest[1..];
        }
    }
    result
}

/// Runs a command to its end, or until it printed so many lines, when it is interrupted.
fn run(mut command: Command, input: Vec<u8>, lines: Option<usize>) -> Result<Outcome, String> {
    let_children_be_interrupted();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let mut stdin = child.stdin.take().expect("stdin was piped");
    // Who does not read its input is not to blame.
    let _ = stdin.write_all(&input);
    // What is followed keeps its input open: its end would be one more thing to react to.
    let kept_input = lines.map(|_| stdin);
    let (sender, pieces) = channel();
    read(child.stdout.take().expect("stdout was piped"), true, sender.clone());
    read(child.stderr.take().expect("stderr was piped"), false, sender);
    let collected = collect(&child, &pieces, lines);
    if collected.is_err() {
        child.kill().ok();
    }
    drop(kept_input);
    let status = child.wait().map_err(|error| error.to_string())?;
    let (stdout, stderr) = collected.map_err(|what| format!("{command:?} {what}"))?;
    // An interrupt that ends a program, and a program that ends itself with a code for it, are not the same.
    let exit_code = status.code().or(status.signal().map(|signal| -signal));
    Ok(Outcome { exit_code, stdout, stderr })
}

fn collect(
    child: &Child,
    pieces: &Receiver<(bool, Vec<u8>)>,
    lines: Option<usize>,
) -> Result<(Vec<u8>, Vec<u8>), String> {
    let deadline = Instant::now() + COMMAND_TIME_MAX;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut is_interrupted = false;
    loop {
        let printed = stdout.iter().filter(|&&byte| byte == b'\n').count();
        if !is_interrupted && lines.is_some_and(|lines| printed >= lines) {
            is_interrupted = true;
            let process = rustix::process::Pid::from_child(child);
            rustix::process::kill_process(process, rustix::process::Signal::INT).ok();
        }
        match pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((true, piece)) => stdout.extend(piece),
            Ok((false, piece)) => stderr.extend(piece),
            Err(RecvTimeoutError::Disconnected) => return Ok((stdout, stderr)),
            Err(RecvTimeoutError::Timeout) => {
                let shown = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
                return Err(format!("did not end in time; it printed:\n{shown}"));
            }
        }
    }
}

fn read(pipe: impl Read + Send + 'static, is_stdout: bool, sender: Sender<(bool, Vec<u8>)>) {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let length = match pipe.fill_buf() {
                Ok(piece) if !piece.is_empty() => {
                    if sender.send((is_stdout, piece.to_vec())).is_err() {
                        return;
                    }
                    piece.len()
                }
                _ => return,
            };
            pipe.consume(length);
        }
    });
}

/// What is wrong with a pair of outcomes, if anything.
pub fn difference(step: &Step, expected: &Outcome, found: &Outcome) -> Option<String> {
    let is_equal = match step.rule {
        // An error may say more behind what etcdctl says.
        Rule::Exact => {
            (expected.exit_code, &expected.stdout) == (found.exit_code, &found.stdout)
                && found.stderr.starts_with(&expected.stderr)
                && (expected.exit_code != Some(0) || expected.stderr.len() == found.stderr.len())
        }
        Rule::Help => expected.exit_code == found.exit_code && errors(expected) == errors(found),
        Rule::Differs => {
            if expected == found {
                return Some(format!("line {}: {}\n  is said to differ, and does not", step.line, step.text));
            }
            true
        }
    };
    let shown = |outcome: &Outcome| {
        let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => text.lines().map(|line| format!("      {line}\n")).collect(),
            Err(_) => format!("      {}\n", bytes.escape_ascii()),
        };
        let (stdout, stderr) = (text(&outcome.stdout), text(&outcome.stderr));
        format!("    exit code {:?}\n    stdout:\n{stdout}    stderr:\n{stderr}", outcome.exit_code)
    };
    (!is_equal)
        .then(|| format!("line {}: {}\n  expected\n{}  found\n{}", step.line, step.text, shown(expected), shown(found)))
}

fn errors(outcome: &Outcome) -> Vec<String> {
    let text = String::from_utf8_lossy(&outcome.stderr).into_owned();
    text.lines().filter(|line| line.starts_with("Error:")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read() {
        let text = "# comment\n\nETCDCTL_HEX=1 put a '1 \\x41' <\"in\\n\"\n@lines 2\nwatch a <<END\nx y\nEND\n@help\nput --no\nget a";
        let steps = parse(text).expect("a script");
        let shapes: Vec<_> = steps.iter().map(|step| (step.line, step.words.join("|"), step.lines)).collect();
        let expected = [(3, "put|a|1 A", None), (5, "watch|a", Some(2)), (9, "put|--no", None), (10, "get|a", None)];
        assert_eq!(shapes, expected.map(|(line, words, lines)| (line, words.to_owned(), lines)));
        assert_eq!(steps[0].environment, [("ETCDCTL_HEX".to_owned(), "1".to_owned())]);
        assert_eq!((&steps[0].input[..], &steps[1].input[..]), (&b"in\n"[..], &b"x y\n"[..]));
        assert_eq!((&steps[1].rule, &steps[2].rule, &steps[3].rule), (&Rule::Exact, &Rule::Help, &Rule::Exact));
        assert!(parse("put 'a").is_err() && parse("@no").is_err() && parse("txn <<END\n").is_err());
    }

    #[test]
    fn what_no_two_runs_share_is_taken_out() {
        let line = |words: &str, text: &str| normalise(&words.split(' ').map(str::to_owned).collect::<Vec<_>>(), text);
        assert_eq!(line("defrag", "member[x]. took 1.5ms\n"), "member[x]. took *\n");
        assert_eq!(line("lease timetolive", "TTL(9s), remaining(8s)"), "TTL(9s), remaining(*s)");
        assert_eq!(line("lock l", "l/694d8f2b1c3a5e07\n"), "l/LEASE\n");
        assert_eq!(line("get l", "l/694d8f2b1c3a5e07\n"), "l/694d8f2b1c3a5e07\n");
        let row = "a, 1, 3.7.1, 3.7.0, 20 kB, 16 kB, 20%, 2.1 GB, true, false, 2, 4, 4, , , false\n";
        let expected = "a, 1, 3.7.1, 3.7.0, *, *, *, 2.1 GB, true, false, 2, *, *, , , false\n";
        assert_eq!(line("endpoint status", row), expected);
    }
}
