//! Asks one other member every few seconds whether it is there and what time it is, for the metrics and for two lines of
//! the log. Nothing else depends on the answers.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Empty;
use serde::Deserialize;
use tokio::time::Instant;

use super::http_client::{collect, request};
use super::remote::Remote;
use super::{READ_TIMEOUT, WRITE_TIMEOUT};
use crate::config::go::format_duration;
use crate::limits::PEER_REQUEST_BYTES_MAX;
use crate::urls::Url;

/// etcd's: below the read timeout, so that the connection lives.
const INTERVAL: Duration = Duration::from_secs(4);

/// A clock that is further behind than this is worth a warning, as in etcd.
const CLOCK_DRIFT_MAX: Duration = Duration::from_secs(1);

/// How much one probe moves the average: an eighth, as in etcd.
const SMOOTHING: u32 = 8;

pub(crate) async fn run(remote: Arc<Remote>) {
    let mut smoothed = Duration::ZERO;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let url = remote.pick_url();
        let probed = tokio::time::timeout(READ_TIMEOUT, probe(&remote, &url)).await;
        match probed.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "probe: i/o timeout"))) {
            Ok((round_trip, their_time)) => {
                remote.status.metrics.round_trip_seconds.observe_duration(round_trip);
                smoothed = smoothed - smoothed / SMOOTHING + round_trip / SMOOTHING;
                // A clock that is ahead looks like one that is not behind: its own member warns.
                let behind = SystemTime::now().duration_since(their_time).unwrap_or_default();
                let drift = behind.saturating_sub(smoothed / 2);
                if drift > CLOCK_DRIFT_MAX {
                    warn(&remote, smoothed, Some(drift), "prober found high clock drift");
                }
            }
            Err(error) => {
                remote.url_failed(&url);
                tracing::debug!(remote_peer_id = remote.status.hex(), error = %error, "probe failed");
                warn(&remote, smoothed, None, "prober detected unhealthy status");
            }
        }
    }
}

fn warn(remote: &Remote, smoothed: Duration, drift: Option<Duration>, message: &str) {
    let drift = drift.map(format_duration);
    tracing::warn!(
        round_tripper_name = "ROUND_TRIPPER_RAFT_MESSAGE",
        remote_peer_id = remote.status.hex(),
        clock_drift = drift.as_deref(),
        rtt = format_duration(smoothed).as_str(),
        "{message}"
    );
}

/// What `/raft/probing` answers.
#[derive(Deserialize)]
struct Health {
    #[serde(rename = "OK")]
    ok: bool,
    #[serde(rename = "Now")]
    now: String,
}

/// The way there and back, and the member's time.
async fn probe(remote: &Remote, url: &Url) -> io::Result<(Duration, SystemTime)> {
    let begun = Instant::now();
    let mut connection = remote.shared.dial(url, WRITE_TIMEOUT).await?;
    let request = request(Method::GET, url, "/raft/probing", Empty::<Bytes>::new())?;
    let mut response = connection.send(request).await?;
    let body = collect(response.body_mut(), PEER_REQUEST_BYTES_MAX, READ_TIMEOUT).await;
    let body = body.map_err(|error| io::Error::other(error.to_string()))?;
    if response.status() != StatusCode::OK {
        return Err(io::Error::other(format!("got unexpected HTTP status code {} from {url}", response.status())));
    }
    let health: Health = serde_json::from_slice(&body).map_err(io::Error::other)?;
    let time = parse_time(&health.now).filter(|_| health.ok);
    Ok((begun.elapsed(), time.ok_or_else(|| io::Error::other("an answer without a time"))?))
}

/// Reads RFC 3339 as Go writes it: `2026-01-02T15:04:05.000000001+02:00`. Times before 1970 are none.
fn parse_time(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i64>().ok()).flatten()
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    let rest = text.get(19..)?;
    let fraction_length =
        rest.strip_prefix('.').map_or(0, |rest| 1 + rest.bytes().take_while(u8::is_ascii_digit).count());
    let (fraction, zone) = rest.split_at(fraction_length);
    let fraction = if fraction.is_empty() { 0.0 } else { format!("0{fraction}").parse::<f64>().ok()? };
    let offset_minutes = match zone {
        "Z" => 0,
        _ => {
            let start = text.len().checked_sub(6)?;
            let minutes = number(start + 1..start + 3)? * 60 + number(start + 4..start + 6)?;
            match zone.as_bytes() {
                [b'+', _, _, b':', _, _] => minutes,
                [b'-', _, _, b':', _, _] => -minutes,
                _ => return None,
            }
        }
    };
    let seconds = ((days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - offset_minutes) * 60 + second;
    let seconds = u64::try_from(seconds).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_secs_f64(fraction))
}

/// Days from 1970-01-01. Years are counted from March, so that the leap day is the last of a year.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format_time;

    #[test]
    fn times_are_read_in_every_zone() {
        for (text, utc) in [
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
            ("2026-01-02T15:04:05.5Z", "2026-01-02T15:04:05.500000Z"),
            ("2024-02-29T23:59:59.000001999+02:30", "2024-02-29T21:29:59.000001Z"),
            ("2024-02-29T23:59:59.25-01:00", "2024-03-01T00:59:59.250000Z"),
            ("2100-12-31T00:00:00Z", "2100-12-31T00:00:00.000000Z"),
        ] {
            assert_eq!(parse_time(text).map(format_time).as_deref(), Some(utc), "{text}");
        }
        for wrong in
            ["", "now", "2026-01-02", "2026-13-02T15:04:05Z", "2026-01-02T15:04:05", "2026-01-02T15:04:05+2:00"]
        {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
        assert_eq!(parse_time("1969-12-31T23:59:59Z"), None);
        assert_eq!(parse_time("2026-01-02T15:04:05é:00"), None);
    }
}
