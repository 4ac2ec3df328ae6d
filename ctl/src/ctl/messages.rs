//! The messages that several commands print: headers, keys, and the answers to get, put and delete.

use kvorum_client::KeyValue;
use kvorum_client::response::{DeleteResponse, GetResponse, PutResponse, ResponseHeader};
use prost::Message as _;

use super::output::{Answer, Style, Text};
use crate::golang::json::Object;

pub fn header_json(header: &ResponseHeader) -> Object {
    Object::new()
        .number("cluster_id", header.cluster_id)
        .number("member_id", header.member_id)
        .number("revision", header.revision)
        .number("raft_term", header.raft_term)
}

/// An object that begins with the header under its name.
pub fn with_header(header: Option<&ResponseHeader>) -> Object {
    Object::new().object("header", header.map(header_json))
}

pub fn key_value_json(kv: &KeyValue) -> Object {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
}

pub fn get_json(response: &GetResponse) -> Object {
    with_header(response.header.as_ref())
        .list("kvs", response.kvs.iter().map(|kv| key_value_json(kv).finish()))
        .truth("more", response.more)
        .number("count", response.count)
}

pub fn put_json(response: &PutResponse) -> Object {
    with_header(response.header.as_ref()).object("prev_kv", response.prev_kv.as_ref().map(key_value_json))
}

pub fn delete_json(response: &DeleteResponse) -> Object {
    with_header(response.header.as_ref())
        .number("deleted", response.deleted)
        .list("prev_kvs", response.prev_kvs.iter().map(|kv| key_value_json(kv).finish()))
}

impl Answer for GetResponse {
    fn simple(&self, style: Style, text: &mut Text) {
        self.kvs.iter().for_each(|kv| text.key_value_lines(kv, style));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(self.header.as_ref(), style);
        self.kvs.iter().for_each(|kv| text.key_value_fields("", kv, style));
        text.field("More", self.more);
        text.field("Count", self.count);
        Some(text)
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(get_json(self).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

impl Answer for PutResponse {
    fn simple(&self, style: Style, text: &mut Text) {
        text.line("OK");
        self.prev_kv.iter().for_each(|kv| text.key_value_lines(kv, style));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(self.header.as_ref(), style);
        self.prev_kv.iter().for_each(|kv| text.key_value_fields("Prev", kv, style));
        Some(text)
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(put_json(self).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

impl Answer for DeleteResponse {
    fn simple(&self, style: Style, text: &mut Text) {
        text.line(self.deleted.to_string());
        self.prev_kvs.iter().for_each(|kv| text.key_value_lines(kv, style));
    }

    fn fields(&self, style: Style) -> Option<Text> {
        let mut text = Text::default();
        text.header_fields(self.header.as_ref(), style);
        text.field("Deleted", self.deleted);
        self.prev_kvs.iter().for_each(|kv| text.key_value_fields("Prev", kv, style));
        Some(text)
    }

    fn json(&self, _style: Style) -> Option<String> {
        Some(delete_json(self).finish())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}
