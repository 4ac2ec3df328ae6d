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

#[cfg(test)]
mod tests {
    //! What etcdctl 3.7.1 printed of such answers.

    use super::*;
    use crate::ctl::output::{Format, Printer};

    const HEADER: ResponseHeader =
        ResponseHeader { cluster_id: 7801232528081817440, member_id: 13458989633860879742, revision: 9, raft_term: 2 };

    fn pair() -> KeyValue {
        KeyValue {
            key: "a".into(),
            create_revision: 2,
            mod_revision: 6,
            version: 2,
            value: bytes::Bytes::from_static(b"<1>&\"\xff\n"),
            lease: 0x457e_a203_86d1_3676,
        }
    }

    fn print(answer: &dyn Answer, format: Format, style: Style) -> String {
        let printed = Printer { format, style }.render(answer).expect("it has the format");
        String::from_utf8_lossy(&printed).into_owned()
    }

    const PLAIN: Style = Style { is_hex: false, value_only: false };
    const HEX: Style = Style { is_hex: true, value_only: false };

    #[test]
    fn a_range_is_printed_in_every_format() {
        let answer = GetResponse { header: Some(HEADER), kvs: vec![pair()], more: true, count: 2 };
        assert_eq!(print(&answer, Format::Simple, PLAIN), "a\n<1>&\"\u{fffd}\n\n");
        assert_eq!(print(&answer, Format::Simple, HEX), "\\x61\n\\x3c\\x31\\x3e\\x26\\x22\\xff\\x0a\n");
        assert_eq!(print(&answer, Format::Simple, Style { is_hex: true, value_only: true }).lines().count(), 1);
        let header =
            r#"{"cluster_id":7801232528081817440,"member_id":13458989633860879742,"revision":9,"raft_term":2}"#;
        let kv = r#"{"key":"YQ==","create_revision":2,"mod_revision":6,"version":2,"value":"PDE+JiL/Cg==","lease":5007617971713029750}"#;
        let json = format!("{{\"header\":{header},\"kvs\":[{kv}],\"more\":true,\"count\":2}}\n");
        assert_eq!(print(&answer, Format::Json, HEX), json);
        let fields = "\"ClusterID\" : 7801232528081817440\n\"MemberID\" : 13458989633860879742\n\"Revision\" : 9\n\
                      \"RaftTerm\" : 2\n\"Key\" : \"a\"\n\"CreateRevision\" : 2\n\"ModRevision\" : 6\n\"Version\" : 2\n\
                      \"Value\" : \"<1>&\\\"\\xff\\n\"\n\"Lease\" : 5007617971713029750\n\"More\" : true\n\"Count\" : 2\n";
        assert_eq!(print(&answer, Format::Fields, PLAIN), fields);
        let hex = print(&answer, Format::Fields, HEX);
        assert!(hex.starts_with("\"ClusterID\" : 6c438ba6ce8a0f60\n\"MemberID\" : bac7efc361f1457e\n"), "{hex}");
        assert!(hex.contains("\"Lease\" : 457ea20386d13676\n"), "{hex}");
        assert_eq!(Printer { format: Format::Protobuf, style: PLAIN }.render(&answer), Ok(answer.encode_to_vec()));
        let table = Printer { format: Format::Table, style: PLAIN }.render(&answer).expect_err("no table");
        assert_eq!((table.exit_code, table.message.as_str()), (4, "table not supported as output format"));
    }

    #[test]
    fn what_is_not_there_is_not_printed() {
        let put = PutResponse { header: None, prev_kv: None };
        assert_eq!(print(&put, Format::Json, PLAIN), "{}\n");
        assert_eq!(print(&put, Format::Simple, PLAIN), "OK\n");
        assert_eq!(print(&put, Format::Fields, PLAIN), "\"ClusterID\" : 0\n\"MemberID\" : 0\n\"RaftTerm\" : 0\n");
        let delete = DeleteResponse { header: None, deleted: 0, prev_kvs: Vec::new() };
        assert_eq!(print(&delete, Format::Json, PLAIN), "{}\n");
        let delete = DeleteResponse { header: None, deleted: 1, prev_kvs: vec![KeyValue::default()] };
        assert_eq!(print(&delete, Format::Json, PLAIN), "{\"deleted\":1,\"prev_kvs\":[{}]}\n");
        assert_eq!(print(&delete, Format::Simple, PLAIN), "1\n\n\n");
    }
}
