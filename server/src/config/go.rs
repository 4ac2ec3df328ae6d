//! How Go's standard library reads the values of flags, with its error texts. Operators copy values between etcd and
//! Kvorum, so `0x64`, `1_000`, `1h30m` and `T` mean here what they mean there.

use std::time::Duration;

/// Why a value did not parse. The texts are those of Go's `flag` package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    Syntax,
    Range,
}

impl NumberError {
    /// The text Go's flag package gives.
    pub fn flag_text(self) -> &'static str {
        match self {
            NumberError::Syntax => "parse error",
            NumberError::Range => "value out of range",
        }
    }

    /// The text Go's number parser itself gives.
    pub fn number_text(self) -> &'static str {
        match self {
            NumberError::Syntax => "invalid syntax",
            NumberError::Range => "value out of range",
        }
    }
}

/// `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `strconv.ParseUint` with base 0: decimal, `0x`, `0o`, `0b`, a leading `0` for octal, underscores between digits.
pub fn parse_unsigned(text: &str) -> Result<u64, NumberError> {
    let lowered = text.to_ascii_lowercase();
    let (radix, digits, prefixed) = match lowered.as_bytes() {
        [b'0', b'x', ..] => (16, &lowered[2..], true),
        [b'0', b'o', ..] => (8, &lowered[2..], true),
        [b'0', b'b', ..] => (2, &lowered[2..], true),
        [b'0', _, ..] => (8, &lowered[1..], true),
        _ => (10, lowered.as_str(), false),
    };
    if digits.is_empty() || digits.contains("__") || digits.ends_with('_') || (digits.starts_with('_') && !prefixed) {
        return Err(NumberError::Syntax);
    }
    let mut number: Option<u64> = Some(0);
    for c in digits.chars().filter(|c| *c != '_') {
        let digit = c.to_digit(radix).ok_or(NumberError::Syntax)?;
        number = number.and_then(|n| n.checked_mul(radix.into())).and_then(|n| n.checked_add(digit.into()));
    }
    number.ok_or(NumberError::Range)
}

/// `strconv.ParseInt` with base 0.
pub fn parse_signed(text: &str) -> Result<i64, NumberError> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = parse_unsigned(digits)?;
    let signed = if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() };
    signed.ok_or(NumberError::Range)
}

/// `time.ParseDuration`, in nanoseconds. The error is Go's whole text.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", crate::urls::quote(text));
    let (negative, mut rest) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    // Beyond every 64-bit count of nanoseconds, and far from the end of i128.
    let limit = 1i128 << 63;
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", crate::urls::quote(text)));
        }
        let scale = unit_nanoseconds(unit).ok_or_else(|| {
            let quote = crate::urls::quote;
            format!("time: unknown unit {} in duration {}", quote(unit), quote(text))
        })?;
        let whole_number: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total = whole_number.checked_mul(scale).and_then(|n| n.checked_add(total)).ok_or_else(invalid)?;
        total += fraction_nanoseconds(fraction, scale);
        if total > limit {
            return Err(invalid());
        }
        rest = next;
    }
    let signed = if negative { -total } else { total };
    i64::try_from(signed).map_err(|_| invalid())
}

/// `time.Duration.String`: `1m0s`, `100ms`, `1.5s`.
pub fn format_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let trimmed = |value: u128, unit: u128| {
        let fraction = value % unit;
        if fraction == 0 {
            return (value / unit).to_string();
        }
        let width = unit.ilog10() as usize;
        format!("{}.{}", value / unit, format!("{fraction:0width$}").trim_end_matches('0'))
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", trimmed(nanoseconds, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", trimmed(nanoseconds, 1_000_000)),
        _ => {
            let seconds = format!("{}s", trimmed(nanoseconds % 60_000_000_000, 1_000_000_000));
            let minutes = nanoseconds / 60_000_000_000;
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

fn unit_nanoseconds(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// What the digits after the point are worth, rounded down. Digits below a nanosecond are worth nothing.
fn fraction_nanoseconds(digits: &str, unit: i128) -> i128 {
    let mut worth = 0;
    let mut scale: i128 = 1;
    for digit in digits.bytes().take(15) {
        worth = worth * 10 + i128::from(digit - b'0');
        scale *= 10;
    }
    worth * unit / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("0x64", Ok(100)),
            ("1_00", Ok(100)),
            ("0b11", Ok(3)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("0_7", Ok(7)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(NumberError::Range)),
            ("", Err(NumberError::Syntax)),
            ("-1", Err(NumberError::Syntax)),
            ("+1", Err(NumberError::Syntax)),
            ("0x", Err(NumberError::Syntax)),
            ("_1", Err(NumberError::Syntax)),
            ("1__0", Err(NumberError::Syntax)),
            ("09", Err(NumberError::Syntax)),
        ] {
            assert_eq!(parse_unsigned(text), expected, "{text}");
        }
        assert_eq!(parse_signed("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_signed("9223372036854775808"), Err(NumberError::Range));
        assert_eq!(parse_signed("+5"), Ok(5));
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0", 0),
            ("5m", 300_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("-1s", -1_000_000_000),
            ("100us", 100_000),
            ("1h0m0.001s", 3_600_001_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
        for (text, message) in [
            ("foo", r#"time: invalid duration "foo""#),
            ("", r#"time: invalid duration """#),
            ("-5", r#"time: missing unit in duration "-5""#),
            ("5", r#"time: missing unit in duration "5""#),
            ("5x", r#"time: unknown unit "x" in duration "5x""#),
            ("1.2.3s", r#"time: invalid duration "1.2.3s""#),
            ("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#),
            (
                "9999999999999999999999999999999999999999h",
                r#"time: invalid duration "9999999999999999999999999999999999999999h""#,
            ),
        ] {
            assert_eq!(parse_duration(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (100_000_000, "100ms"),
            (60_000_000_000, "1m0s"),
            (7_200_000_000_000, "2h0m0s"),
            (1_500_000_000, "1.5s"),
            (1_340_915, "1.340915ms"),
            (1_500, "1.5µs"),
            (7, "7ns"),
        ] {
            assert_eq!(format_duration(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
