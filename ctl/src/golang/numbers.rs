//! Numbers and durations as Go's `strconv` and `time` read and write them.

use super::quote;

const NANOSECONDS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
];

fn failed(function: &str, text: &str, why: &str) -> String {
    format!("strconv.{function}: parsing {}: {why}", quote(text.as_bytes()))
}

/// `ParseBool`.
///
/// # Errors
/// Go's text.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(failed("ParseBool", text, "invalid syntax")),
    }
}

/// `ParseInt` for 64 bits. Base 0 reads prefixes such as `0x`, and underscores between digits.
///
/// # Errors
/// Go's text.
pub fn parse_int(text: &str, base: u32) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let fail = |why| failed("ParseInt", text, why);
    let value = magnitude(digits, base).map_err(fail)?;
    let value = if negative { -i128::from(value) } else { i128::from(value) };
    i64::try_from(value).map_err(|_| fail("value out of range"))
}

/// `ParseUint` for 64 bits.
///
/// # Errors
/// Go's text.
pub fn parse_uint(text: &str, base: u32) -> Result<u64, String> {
    magnitude(text, base).map_err(|why| failed("ParseUint", text, why))
}

fn magnitude(text: &str, base: u32) -> Result<u64, &'static str> {
    const SYNTAX: &str = "invalid syntax";
    let lower = text.to_ascii_lowercase();
    let (digits, radix, has_prefix) = match (base, lower.as_bytes()) {
        (0, [b'0', b'x', ..]) => (&lower[2..], 16, true),
        (0, [b'0', b'b', ..]) => (&lower[2..], 2, true),
        (0, [b'0', b'o', ..]) => (&lower[2..], 8, true),
        (0, [b'0', _, ..]) => (&lower[1..], 8, true),
        (0, _) => (&lower[..], 10, false),
        _ => (&lower[..], base, false),
    };
    let mut value: u64 = 0;
    let mut is_too_large = false;
    let mut after_digit = has_prefix;
    let mut digits_seen = 0;
    for character in digits.chars() {
        if character == '_' && base == 0 && after_digit {
            after_digit = false;
            continue;
        }
        let digit = character.to_digit(radix).ok_or(SYNTAX)?;
        after_digit = true;
        digits_seen += 1;
        match value.checked_mul(u64::from(radix)).and_then(|value| value.checked_add(u64::from(digit))) {
            Some(larger) => value = larger,
            None => is_too_large = true,
        }
    }
    if digits_seen == 0 || !after_digit {
        return Err(SYNTAX);
    }
    if is_too_large { Err("value out of range") } else { Ok(value) }
}

/// `time.ParseDuration`, in nanoseconds: `1h2m3.5s`.
///
/// # Errors
/// Go's text.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text.as_bytes()));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(rest.len());
        let (digits, behind) = rest.split_at(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let end = behind.find(|character: char| character == '.' || character.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text.as_bytes())));
        }
        let scale = NANOSECONDS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| i128::from(*scale));
        let scale = scale.ok_or_else(|| {
            format!("time: unknown unit {} in duration {}", quote(unit.as_bytes()), quote(text.as_bytes()))
        })?;
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole.checked_mul(scale).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
        // More digits than this are less than a nanosecond of an hour.
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let part: i128 = fraction.parse().map_err(|_| invalid())?;
            total += part * scale / 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        }
        rest = behind;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// `Duration.String`: `1m30.5s`, `2ms`.
#[must_use]
pub fn duration_text(duration: std::time::Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < 1_000_000_000 {
        let (scale, unit) = match nanoseconds {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "\u{b5}s"),
            _ => (1_000_000, "ms"),
        };
        return format!("{}{unit}", decimal(nanoseconds, scale));
    }
    let minutes = nanoseconds / 60_000_000_000;
    let seconds = decimal(nanoseconds % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// A quotient without zeros at its end. The divisor is a power of ten.
fn decimal(value: u128, scale: u128) -> String {
    let digits = scale.ilog10() as usize;
    if value.is_multiple_of(scale) {
        return (value / scale).to_string();
    }
    let fraction = format!("{:0digits$}", value % scale);
    format!("{}.{}", value / scale, fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn whole_numbers_are_read_as_go_reads_them() {
        for (text, value) in
            [("0", 0), ("-12", -12), ("+7", 7), ("0x1F", 31), ("017", 15), ("0b11", 3), ("1_000", 1000)]
        {
            assert_eq!(parse_int(text, 0), Ok(value), "{text}");
        }
        assert_eq!(parse_int("694d77aa9e38260f", 16), Ok(0x694d_77aa_9e38_260f));
        assert_eq!(parse_int("0x10", 16), Err("strconv.ParseInt: parsing \"0x10\": invalid syntax".to_owned()));
        for text in ["", "-", "abc", "1_", "_1", "1__0", "0x", "08"] {
            assert!(parse_int(text, 0).is_err(), "{text}");
        }
        let error = "strconv.ParseInt: parsing \"9223372036854775808\": value out of range";
        assert_eq!(parse_int("9223372036854775808", 10), Err(error.to_owned()));
        assert_eq!(parse_int("-9223372036854775808", 10), Ok(i64::MIN));
        assert_eq!(parse_uint("18446744073709551615", 10), Ok(u64::MAX));
    }

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        let second = 1_000_000_000;
        let cases = [
            ("5s", 5 * second),
            ("1.5s", second + second / 2),
            ("1m30s", 90 * second),
            ("100ms", second / 10),
            (".5h", 1800 * second),
            ("-2us", -2_000),
            ("0", 0),
            ("1h0m0.000000001s", 3600 * second + 1),
        ];
        for (text, nanoseconds) in cases {
            assert_eq!(parse_duration(text), Ok(nanoseconds), "{text}");
        }
        assert_eq!(parse_duration("x"), Err("time: invalid duration \"x\"".to_owned()));
        assert_eq!(parse_duration("5"), Err("time: missing unit in duration \"5\"".to_owned()));
        assert_eq!(parse_duration("5y"), Err("time: unknown unit \"y\" in duration \"5y\"".to_owned()));
        for text in ["", ".", "-", "1..2s", "9999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        let texts = [(0, "0s"), (1, "1ns"), (1_500, "1.5\u{b5}s"), (2_345_678, "2.345678ms"), (61_000_000_000, "1m1s")];
        for (nanoseconds, text) in texts {
            assert_eq!(duration_text(Duration::from_nanos(nanoseconds)), text);
        }
        assert_eq!(duration_text(Duration::from_millis(3_723_500)), "1h2m3.5s");
    }
}
