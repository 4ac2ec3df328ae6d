//! Text in double quotes as Go's `%q` writes it and reads it.

use std::fmt::Write as _;

/// `strconv.Quote`: bytes that are no UTF-8 as `\xNN`, characters that cannot be seen as escapes.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|character| add(&mut text, character));
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text.push('"');
    text
}

fn add(text: &mut String, character: char) {
    match character {
        '"' | '\\' => text.extend(['\\', character]),
        '\x07' => text.push_str("\\a"),
        '\x08' => text.push_str("\\b"),
        '\x0c' => text.push_str("\\f"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        '\x0b' => text.push_str("\\v"),
        _ if is_printable(character) => text.push(character),
        _ => {
            let code = u32::from(character);
            let _ = match code {
                0..0x20 | 0x7f => write!(text, "\\x{code:02x}"),
                ..0x1_0000 => write!(text, "\\u{code:04x}"),
                _ => write!(text, "\\U{code:08x}"),
            };
        }
    }
}

/// Letters, marks, numbers, punctuation, symbols and the plain space: Go's `IsPrint`.
fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return character == ' ' || character.is_ascii_graphic();
    }
    // Behind another character, `escape_debug` escapes exactly what is not printable.
    let pair = String::from_iter(['a', character]);
    pair.escape_debug().eq(pair.chars())
}

/// The quoted text that begins `text`, as `%q` of Go's `Sscanf` reads it, and what stands behind it. Quotes are double with
/// escapes, or backward without.
///
/// # Errors
/// Go's text.
pub fn unquote_first(text: &str) -> Result<(Vec<u8>, &str), String> {
    const INVALID: &str = "invalid syntax";
    if let Some(rest) = text.strip_prefix('`') {
        let (raw, behind) = rest.split_once('`').ok_or("unexpected EOF")?;
        return Ok((raw.replace('\r', "").into_bytes(), behind));
    }
    let rest = text.strip_prefix('"').ok_or("expected quoted string")?;
    let mut bytes = Vec::new();
    let mut characters = rest.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return Ok((bytes, &rest[position + 1..])),
            '\n' => return Err(INVALID.to_owned()),
            '\\' => unescape(&mut characters, &mut bytes).ok_or(INVALID)?,
            _ => bytes.extend(character.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    Err("unexpected EOF".to_owned())
}

fn unescape(characters: &mut std::str::CharIndices<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    let (_, character) = characters.next()?;
    let simple = match character {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '"' => b'"',
        'x' => u8::try_from(digits(characters, 2, 16, 0)?).ok()?,
        '0'..='7' => u8::try_from(digits(characters, 2, 8, character.to_digit(8)?)?).ok()?,
        'u' | 'U' => {
            let count = if character == 'u' { 4 } else { 8 };
            let character = char::from_u32(digits(characters, count, 16, 0)?)?;
            bytes.extend(character.encode_utf8(&mut [0; 4]).bytes());
            return Some(());
        }
        _ => return None,
    };
    bytes.push(simple);
    Some(())
}

fn digits(characters: &mut std::str::CharIndices<'_>, count: usize, radix: u32, first: u32) -> Option<u32> {
    let mut value = first;
    for _ in 0..count {
        value = value.checked_mul(radix)? + characters.next()?.1.to_digit(radix)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_go_quotes_it() {
        let cases: [(&[u8], &str); 9] = [
            (b"plain", r#""plain""#),
            (b"a\"b\\c", r#""a\"b\\c""#),
            (b"\x00\x07\n\t\x1b\x7f", r#""\x00\a\n\t\x1b\x7f""#),
            (b"\xff\xc3", r#""\xff\xc3""#),
            ("käse €".as_bytes(), "\"käse €\""),
            ("e\u{301}\u{301}".as_bytes(), "\"e\u{301}\u{301}\""),
            ("\u{a0}\u{200b}\u{fffd}".as_bytes(), "\"\\u00a0\\u200b\u{fffd}\""),
            ("\u{e000}\u{10ffff}".as_bytes(), "\"\\ue000\\U0010ffff\""),
            ("\u{80}'".as_bytes(), "\"\\u0080'\""),
        ];
        for (bytes, text) in cases {
            assert_eq!(quote(bytes), text);
        }
    }

    #[test]
    fn quoted_text_is_read_back() {
        for bytes in [&b"plain"[..], b"a\"b\\c", b"\x00\x07\n\xff", "käse\u{200b}\u{10ffff}".as_bytes()] {
            let quoted = quote(bytes) + " rest";
            assert_eq!(unquote_first(&quoted), Ok((bytes.to_vec(), " rest")));
        }
        assert_eq!(unquote_first("`a\\n`) x"), Ok((b"a\\n".to_vec(), ") x")));
        assert_eq!(unquote_first("\"\\101\\x41\""), Ok((b"AA".to_vec(), "")));
        for text in ["", "plain", "\"open", "\"\\q\"", "\"\\x4\"", "\"\\u12\"", "\"\\400\"", "`open"] {
            assert!(unquote_first(text).is_err(), "{text}");
        }
    }
}
