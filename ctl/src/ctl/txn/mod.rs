//! `txn`: reads compares and requests, line by line, and sends them as one transaction. Lists end with an empty line.

mod syntax;

use std::io::BufRead;

use kvorum_api::etcdserverpb::{ResponseOp, TxnResponse as Message, response_op};
use kvorum_client::{OpResponse, TxnResponse};
use prost::Message as _;

use super::messages::{delete_json, get_json, put_json, with_header};
use super::output::{Answer, Style, Text, print_bytes};
use super::{KEY_VALUE, session};
use crate::command::{Action, Command, EXIT_INVALID_INPUT, Failure, Flag, Parsed};
use crate::golang::json::Object;

pub use syntax::split;

const INTERACTIVE: Flag = Flag::switch("interactive", "say what is to be typed").short('i');

pub const COMMAND: Command = Command {
    name: "txn",
    operands: "[options]",
    about: "Sends a transaction that it reads from standard input",
    long: "Reads a transaction from standard input and sends it: compares, what to do if all of them hold, and what to do\n\
           otherwise, each on a line of its own. An empty line ends each of the three lists.\n\n  $ kvorumctl txn \
           <<'END'\n  mod(\"key\") > \"0\"\n  version(\"other key\") = \"1\"\n\n  put key \"new value\"\n  get --prefix \
           \"other\"\n\n  del key\n\n  END\n\nCompared are create, mod, version, value and lease, or c, m, ver and val for \
           short, with =, !=, < and >.\nA lease is given in hexadecimal.",
    heading: KEY_VALUE,
    flags: &[INTERACTIVE],
    action: Action::Perform(run),
};

fn run(parsed: &Parsed) -> Result<(), Failure> {
    if !parsed.operands.is_empty() {
        return Err(Failure::usage("txn command does not accept argument"));
    }
    let prompt = |text: &str| match parsed.is_set(&INTERACTIVE) {
        true => print_bytes(format!("{text}\n").as_bytes()),
        false => Ok(()),
    };
    session::run(parsed, async |session| {
        let mut input = std::io::stdin().lock();
        prompt("compares:")?;
        let compares = read_list(&mut input, syntax::compare)?;
        prompt("success requests (get, put, del):")?;
        let success = read_list(&mut input, syntax::request)?;
        prompt("failure requests (get, put, del):")?;
        let failure = read_list(&mut input, syntax::request)?;
        let answer = session.client.txn().when(compares).then(success).otherwise(failure).await?;
        session.printer.print(&answer)
    })
}

/// Reads lines up to an empty one.
fn read_list<T>(input: &mut impl BufRead, mut read: impl FnMut(&str) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    let mut list = Vec::new();
    loop {
        let mut line = Vec::new();
        let read_bytes = input.read_until(b'\n', &mut line);
        match read_bytes {
            Ok(_) if line.last() == Some(&b'\n') => {}
            // As in etcdctl, a last line without its end is none.
            Ok(_) => return Err(Failure::new(EXIT_INVALID_INPUT, "EOF")),
            Err(error) => return Err(Failure::new(EXIT_INVALID_INPUT, error.to_string())),
        }
        let line = String::from_utf8(line)
            .map_err(|_| Failure::new(EXIT_INVALID_INPUT, "a line is no UTF-8: write other bytes as \"\\xNN\""))?;
        match line.trim() {
            "" => return Ok(list),
            line => list.push(read(line)?),
        }
    }
}

impl Answer for TxnResponse {
    fn simple(&self, style: Style, text: &mut Text) {
        text.line(if self.succeeded { "SUCCESS" } else { "FAILURE" });
        for response in &self.responses {
            text.line("");
            match response {
                OpResponse::Get(response) => response.simple(style, text),
                OpResponse::Put(response) => response.simple(style, text),
                OpResponse::Delete(response) => response.simple(style, text),
                OpResponse::Txn(response) => response.simple(style, text),
            }
        }
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(Some(&self.header), style);
        text.field("Succeeded", self.succeeded);
        for response in &self.responses {
            let fields = match response {
                OpResponse::Get(response) => response.fields(style)?,
                OpResponse::Put(response) => response.fields(style)?,
                OpResponse::Delete(response) => response.fields(style)?,
                OpResponse::Txn(response) => response.fields(style)?,
            };
            text.0.extend(fields.0);
        }
        Some(text)
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(txn_json(self).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(message(self).encode_to_vec())
    }
}

fn txn_json(answer: &TxnResponse) -> Object {
    let responses = answer.responses.iter().map(|response| {
        let (name, object) = match response {
            OpResponse::Get(response) => ("response_range", get_json(response)),
            OpResponse::Put(response) => ("response_put", put_json(response)),
            OpResponse::Delete(response) => ("response_delete_range", delete_json(response)),
            OpResponse::Txn(response) => ("response_txn", txn_json(response)),
        };
        Object::new().object("Response", Some(Object::new().object(name, Some(object)))).finish()
    });
    with_header(Some(&answer.header)).truth("succeeded", answer.succeeded).list("responses", responses)
}

/// The message of the wire.
fn message(answer: &TxnResponse) -> Message {
    let responses = answer.responses.iter().map(|response| {
        let response = match response.clone() {
            OpResponse::Get(response) => response_op::Response::ResponseRange(response),
            OpResponse::Put(response) => response_op::Response::ResponsePut(response),
            OpResponse::Delete(response) => response_op::Response::ResponseDeleteRange(response),
            OpResponse::Txn(response) => response_op::Response::ResponseTxn(message(&response)),
        };
        ResponseOp { response: Some(response) }
    });
    Message { header: Some(answer.header), succeeded: answer.succeeded, responses: responses.collect() }
}
