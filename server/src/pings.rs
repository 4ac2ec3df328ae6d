//! Pings in both directions, as gRPC's server for Go has them: a client that pings too often is told to calm down, and one
//! that says nothing is asked whether it is there. h2 answers pings by itself and shows them to nobody, so the heads of the
//! frames that pass the socket are looked at. It reads no clock.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

/// The client's first bytes (RFC 9113, 3.4).
const PREFACE_LENGTH: usize = 24;

/// Head of a frame: length in three bytes, kind, flags, stream in four (RFC 9113, 4.1).
const HEAD_LENGTH: usize = 9;

const KIND_DATA: u8 = 0;
const KIND_HEADERS: u8 = 1;
const KIND_PING: u8 = 6;
const KIND_GO_AWAY: u8 = 7;
const FLAG_ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// Pings too early that are forgiven (grpc-go's `maxPingStrikes`).
const STRIKES_MAX: u32 = 2;

/// The gap that a client without calls must leave (grpc-go's `defaultPingTimeout`): etcd does not permit it to ping.
const GAP_WITHOUT_CALLS: Duration = Duration::from_secs(2 * 60 * 60);

/// What grpc-go takes for zero.
const GAP_DEFAULT: Duration = Duration::from_secs(5 * 60);
const INTERVAL_DEFAULT: Duration = Duration::from_secs(2 * 60 * 60);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);

/// grpc-go's server pings no more often.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What the `--grpc-keepalive-*` flags come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveConfig {
    /// The shortest time between two pings of a client with calls under way.
    pub gap_min: Duration,
    /// Silence before the server pings.
    pub interval: Duration,
    /// Silence after that ping before the connection is given up.
    pub timeout: Duration,
}

impl KeepaliveConfig {
    /// etcd hands interval and timeout on only if both are set, and grpc-go has defaults for what it is not given.
    pub fn new(gap_min: Duration, interval: Duration, timeout: Duration) -> Self {
        let gap_min = if gap_min.is_zero() { GAP_DEFAULT } else { gap_min };
        if interval.is_zero() || timeout.is_zero() {
            return Self { gap_min, interval: INTERVAL_DEFAULT, timeout: TIMEOUT_DEFAULT };
        }
        Self { gap_min, interval: interval.max(INTERVAL_MIN), timeout }
    }
}

/// Finds the heads of frames in a stream of bytes that comes in pieces.
pub struct FrameScanner {
    /// Bytes to pass over before the next head.
    skip: usize,
    head: [u8; HEAD_LENGTH],
    head_length: usize,
}

/// What of a frame's head matters here.
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

impl FrameScanner {
    /// For what a client sends.
    pub fn of_client() -> Self {
        Self { skip: PREFACE_LENGTH, ..Self::of_server() }
    }

    /// For what a server sends.
    pub fn of_server() -> Self {
        Self { skip: 0, head: [0; HEAD_LENGTH], head_length: 0 }
    }

    /// Whether there is more in these bytes than is to be passed over.
    #[inline]
    fn is_in_frames(&self, bytes: &[u8]) -> bool {
        bytes.len() > self.skip
    }

    #[inline]
    fn scan(&mut self, mut bytes: &[u8], mut see: impl FnMut(Head)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = (HEAD_LENGTH - self.head_length).min(bytes.len());
            self.head[self.head_length..][..taken].copy_from_slice(&bytes[..taken]);
            self.head_length += taken;
            bytes = &bytes[taken..];
            if self.head_length < HEAD_LENGTH {
                return;
            }
            self.head_length = 0;
            let [a, b, c, kind, flags, stream @ ..] = self.head;
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            see(Head { kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) });
        }
    }
}

/// Watches over the pings of one client: grpc-go's rules. A ping is a strike if it comes too soon after the one before,
/// and the server has sent neither headers nor data in between, which forgives all strikes.
pub struct PingWatch {
    gap_min: Duration,
    incoming: FrameScanner,
    outgoing: FrameScanner,
    /// Headers or data were sent since the last ping.
    forgiving: bool,
    /// Pings not judged yet.
    waiting: u32,
    last_ping: Option<Instant>,
    last_read: Instant,
    strikes: u32,
    last_stream: u32,
    has_frames: bool,
}

impl PingWatch {
    pub fn new(gap_min: Duration, now: Instant) -> Self {
        Self {
            gap_min,
            incoming: FrameScanner::of_client(),
            outgoing: FrameScanner::of_server(),
            forgiving: false,
            waiting: 0,
            last_ping: None,
            last_read: now,
            strikes: 0,
            last_stream: 0,
            has_frames: false,
        }
    }

    /// Bytes came from the client.
    #[inline]
    pub fn read(&mut self, bytes: &[u8], now: Instant) {
        let Self { incoming, forgiving, waiting, last_ping, strikes, last_stream, has_frames, .. } = self;
        *has_frames |= incoming.is_in_frames(bytes);
        incoming.scan(bytes, |head| match head.kind {
            KIND_PING if head.flags & FLAG_ACK == 0 => {
                if std::mem::take(forgiving) {
                    (*waiting, *strikes, *last_ping) = (0, 0, Some(now));
                } else {
                    *waiting += 1;
                }
            }
            KIND_HEADERS => *last_stream = head.stream.max(*last_stream),
            _ => {}
        });
        self.last_read = now;
    }

    /// Bytes go to the client.
    #[inline]
    pub fn written(&mut self, bytes: &[u8]) {
        let forgiving = &mut self.forgiving;
        self.outgoing.scan(bytes, |head| *forgiving |= matches!(head.kind, KIND_DATA | KIND_HEADERS));
    }

    /// When the client was last heard of.
    pub fn last_read(&self) -> Instant {
        self.last_read
    }

    /// Whether the client has said anything behind the preface.
    pub fn has_frames(&self) -> bool {
        self.has_frames
    }

    /// Whether there is something to judge.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Judges the pings that came since the last time. False if there were too many.
    pub fn judge(&mut self, has_calls: bool) -> bool {
        let now = self.last_read;
        let gap = if has_calls { self.gap_min } else { GAP_WITHOUT_CALLS };
        for _ in 0..std::mem::take(&mut self.waiting) {
            let too_soon = self.last_ping.is_some_and(|last| now < last + gap);
            self.strikes += u32::from(too_soon);
            self.last_ping = Some(now);
            if self.strikes > STRIKES_MAX {
                return false;
            }
        }
        true
    }

    /// The frame that says so.
    pub fn go_away(&self) -> Bytes {
        let length = 8 + TOO_MANY_PINGS.len();
        let mut frame = BytesMut::with_capacity(HEAD_LENGTH + length);
        frame.put_uint(length as u64, 3);
        frame.put_u8(KIND_GO_AWAY);
        frame.put_u8(0);
        frame.put_u32(0);
        frame.put_u32(self.last_stream);
        frame.put_u32(ENHANCE_YOUR_CALM);
        frame.put_slice(TOO_MANY_PINGS);
        frame.freeze()
    }
}

/// When the server pings, and when it gives up: grpc-go's loop.
pub struct Keepalive {
    interval: Duration,
    timeout: Duration,
    /// What had been heard when this last looked.
    seen: Instant,
    /// A ping was sent and nothing was heard since; how much longer to wait, not counting the sleep under way.
    unanswered: Option<Duration>,
}

/// What is to be done when the timer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepaliveStep {
    /// Look again at this time.
    Wait(Instant),
    /// Send a ping, and look again at this time.
    Ping(Instant),
    GiveUp,
}

impl Keepalive {
    pub fn new(config: &KeepaliveConfig, now: Instant) -> Self {
        Self { interval: config.interval, timeout: config.timeout, seen: now, unanswered: None }
    }

    /// The timer has come.
    pub fn step(&mut self, now: Instant, last_read: Instant) -> KeepaliveStep {
        if last_read > self.seen {
            (self.seen, self.unanswered) = (last_read, None);
            let until = last_read + self.interval;
            if until > now {
                return KeepaliveStep::Wait(until);
            }
        }
        let is_new = self.unanswered.is_none();
        let left = self.unanswered.unwrap_or(self.timeout);
        if left.is_zero() {
            return KeepaliveStep::GiveUp;
        }
        let sleep = self.interval.min(left);
        self.unanswered = Some(left - sleep);
        if is_new { KeepaliveStep::Ping(now + sleep) } else { KeepaliveStep::Wait(now + sleep) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, flags];
        frame.extend(stream.to_be_bytes());
        // What looks like pings inside a payload is none.
        frame.extend(std::iter::repeat_n(KIND_PING, length));
        frame
    }

    fn ping() -> Vec<u8> {
        frame(KIND_PING, 0, 0, 8)
    }

    fn begin(now: Instant) -> PingWatch {
        let mut watch = PingWatch::new(5 * SECOND, now);
        watch.read(PREFACE, now);
        watch
    }

    /// Pings at these seconds; the number of the one that was too many.
    fn refused(has_calls: bool, seconds: &[u64]) -> Option<usize> {
        let now = Instant::now();
        let mut watch = begin(now);
        seconds.iter().position(|second| {
            watch.read(&ping(), now + *second as u32 * SECOND);
            !watch.judge(has_calls)
        })
    }

    #[test]
    fn three_pings_too_soon_are_too_many() {
        assert_eq!(refused(true, &[0, 1, 2, 3, 4]), Some(3));
        assert_eq!(refused(true, &[0, 5, 10, 15, 20, 25]), None);
        assert_eq!(refused(true, &[0, 4, 9, 13, 18, 22]), Some(5));
        assert_eq!(refused(false, &[0, 5, 10, 15]), Some(3));
        assert_eq!(refused(false, &[0, 7200, 14_400, 21_600, 28_800]), None);
    }

    #[test]
    fn what_the_server_sends_forgives() {
        let now = Instant::now();
        let mut watch = begin(now);
        for kind in [KIND_DATA, KIND_HEADERS] {
            for _ in 0..3 {
                watch.read(&ping(), now);
                assert!(watch.judge(true));
            }
            watch.written(&frame(kind, 0, 1, 10));
        }
        // Neither settings nor answers to pings do.
        watch.read(&ping(), now);
        for _ in 0..2 {
            watch.written(&frame(4, 0, 0, 0));
            watch.written(&frame(KIND_PING, FLAG_ACK, 0, 8));
            watch.read(&ping(), now);
            assert!(watch.judge(true));
        }
        watch.read(&ping(), now);
        assert!(!watch.judge(true));
    }

    #[test]
    fn the_last_frame_names_the_last_stream() {
        let mut watch = begin(Instant::now());
        watch.read(&frame(KIND_HEADERS, 4, 3, 20), Instant::now());
        watch.read(&frame(KIND_DATA, 1, 3, 20), Instant::now());
        assert_eq!(&watch.go_away()[..], b"\0\0\x16\x07\0\0\0\0\0\0\0\0\x03\0\0\0\x0btoo_many_pings");
    }

    #[test]
    fn zero_is_what_grpc_makes_of_it() {
        let config = KeepaliveConfig::new(Duration::ZERO, Duration::ZERO, SECOND);
        let expected = KeepaliveConfig { gap_min: GAP_DEFAULT, interval: INTERVAL_DEFAULT, timeout: TIMEOUT_DEFAULT };
        assert_eq!(config, expected);
        assert_eq!(KeepaliveConfig::new(SECOND, SECOND / 2, SECOND / 4).interval, SECOND);
    }

    #[test]
    fn a_silent_client_is_pinged_and_given_up() {
        let begin = Instant::now();
        let at = |seconds: u32| begin + seconds * SECOND;
        let config = KeepaliveConfig { gap_min: SECOND, interval: 10 * SECOND, timeout: 25 * SECOND };
        let mut keepalive = Keepalive::new(&config, begin);
        // Something was heard at 4: the silence began then.
        assert_eq!(keepalive.step(at(10), at(4)), KeepaliveStep::Wait(at(14)));
        assert_eq!(keepalive.step(at(14), at(4)), KeepaliveStep::Ping(at(24)));
        // It answered.
        assert_eq!(keepalive.step(at(24), at(15)), KeepaliveStep::Wait(at(25)));
        assert_eq!(keepalive.step(at(25), at(15)), KeepaliveStep::Ping(at(35)));
        assert_eq!(keepalive.step(at(35), at(15)), KeepaliveStep::Wait(at(45)));
        assert_eq!(keepalive.step(at(45), at(15)), KeepaliveStep::Wait(at(50)));
        assert_eq!(keepalive.step(at(50), at(15)), KeepaliveStep::GiveUp);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            frames in proptest::collection::vec((0..10u8, 0..2u8, 0..9u32, 0..40usize), 0..20),
            pieces in proptest::collection::vec(1..30usize, 1..20),
        ) {
            let mut bytes = PREFACE.to_vec();
            let mut expected = Vec::new();
            for (kind, flags, stream, length) in frames {
                bytes.extend(frame(kind, flags, stream, length));
                expected.push((kind, flags, stream));
            }
            let mut scanner = FrameScanner::of_client();
            let mut seen = Vec::new();
            let mut rest = &bytes[..];
            for piece in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, later) = rest.split_at((*piece).min(rest.len()));
                scanner.scan(piece, |head| seen.push((head.kind, head.flags, head.stream)));
                rest = later;
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
