//! JSON as Go's `encoding/json` writes it: fields in the order they are added, zero ones left out, bytes in base64, and
//! what could be markup escaped.

use std::fmt::Write as _;

/// An object that grows field by field. What is zero or empty is left out unless a method says `always_`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object(String);

impl Object {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A field of any JSON that is text already.
    #[must_use]
    pub fn raw(mut self, name: &str, json: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        add_text(&mut self.0, name.as_bytes());
        self.0.push(':');
        self.0.push_str(json);
        self
    }

    #[must_use]
    pub fn number(self, name: &str, value: impl Into<i128>) -> Self {
        match value.into() {
            0 => self,
            value => self.raw(name, &value.to_string()),
        }
    }

    #[must_use]
    pub fn always_number(self, name: &str, value: impl Into<i128>) -> Self {
        self.raw(name, &value.into().to_string())
    }

    #[must_use]
    pub fn truth(self, name: &str, value: bool) -> Self {
        if value { self.raw(name, "true") } else { self }
    }

    #[must_use]
    pub fn always_truth(self, name: &str, value: bool) -> Self {
        self.raw(name, if value { "true" } else { "false" })
    }

    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.always_text(name, value) }
    }

    #[must_use]
    pub fn always_text(self, name: &str, value: &str) -> Self {
        self.raw(name, &text(value))
    }

    #[must_use]
    pub fn bytes(self, name: &str, value: &[u8]) -> Self {
        if value.is_empty() { self } else { self.raw(name, &bytes(value)) }
    }

    #[must_use]
    pub fn object(self, name: &str, value: Option<Object>) -> Self {
        match value {
            Some(value) => self.raw(name, &value.finish()),
            None => self,
        }
    }

    #[must_use]
    pub fn list(self, name: &str, items: impl IntoIterator<Item = String>) -> Self {
        let list = list(items);
        if list == "[]" { self } else { self.raw(name, &list) }
    }

    /// The fields of another one, as Go shows an embedded struct.
    #[must_use]
    pub fn embed(mut self, other: Option<Object>) -> Self {
        if let Some(Object(fields)) = other
            && !fields.is_empty()
        {
            if !self.0.is_empty() {
                self.0.push(',');
            }
            self.0.push_str(&fields);
        }
        self
    }

    #[must_use]
    pub fn finish(&self) -> String {
        format!("{{{}}}", self.0)
    }
}

#[must_use]
pub fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

/// A string. Bytes that are no UTF-8 become U+FFFD.
#[must_use]
pub fn text(value: &str) -> String {
    let mut text = String::new();
    add_text(&mut text, value.as_bytes());
    text
}

/// Bytes in base64.
#[must_use]
pub fn bytes(value: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(value.len().div_ceil(3) * 4 + 2);
    text.push('"');
    for chunk in value.chunks(3) {
        let group = chunk.iter().chain(&[0, 0]).take(3).fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        for digit in 0..4 {
            let index = group >> (18 - 6 * digit) & 63;
            text.push(if digit <= chunk.len() { char::from(DIGITS[index as usize]) } else { '=' });
        }
    }
    text.push('"');
    text
}

fn add_text(text: &mut String, value: &[u8]) {
    text.push('"');
    for character in String::from_utf8_lossy(value).chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '\x08' => text.push_str("\\b"),
            '\x0c' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(text, "\\u{:04x}", u32::from(character));
            }
            _ => text.push(character),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_as_go_writes_it() {
        let inner = Object::new().number("x", 1);
        let object = Object::new()
            .number("zero", 0)
            .always_number("none", 0)
            .number("big", u64::MAX)
            .text("empty", "")
            .text("markup", "<a&b>\u{2028}\"\\\n\x01\x08")
            .bytes("value", b"hello")
            .truth("no", false)
            .object("inner", Some(inner.clone()))
            .list("nothing", [])
            .list("two", [inner.finish(), text("t")])
            .embed(Some(inner));
        let expected = r#"{"none":0,"big":18446744073709551615,"markup":"\u003ca\u0026b\u003e\u2028\"\\\n\u0001\b","#
            .to_owned()
            + r#""value":"aGVsbG8=","inner":{"x":1},"two":[{"x":1},"t"],"x":1}"#;
        assert_eq!(object.finish(), expected);
    }

    #[test]
    fn bytes_are_base64() {
        for (value, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(bytes(value.as_bytes()), format!("\"{expected}\""));
        }
        assert_eq!(bytes(&[0xff, 0xfe, 0xfd]), "\"//79\"");
    }
}
