//! Connections that do nothing, or little: they are let go, and hold nobody up meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kvorum_server::config::{Config, ConnectionLimits};
use kvorum_server::embed;
use kvorum_server::start::{Running, start};
use kvorum_server::urls::Url;

use crate::frames::Client;
use crate::{expect_status, first_request, request};

/// So long is a connection waited for that shows nothing.
const PATIENCE: Duration = Duration::from_millis(300);

/// Longer than that, and shorter than what the limits are without being set.
const WAIT_MAX: Duration = Duration::from_secs(4);

fn config(folder: &std::path::Path) -> Config {
    let connection_limits = ConnectionLimits {
        preface_time: PATIENCE,
        page_head_time: PATIENCE,
        peer_head_time: PATIENCE,
        ..ConnectionLimits::default()
    };
    Config { connection_limits, ..embed::config(folder) }
}

fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(url.trim_start_matches("http://")).expect("the member listens");
    stream.set_read_timeout(Some(WAIT_MAX)).expect("a socket takes it");
    stream
}

/// What comes until the member closes the connection, and whether it does so in time.
fn until_closed(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let closed = match stream.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    (bytes, closed)
}

fn expect_served(member: &Running) {
    let mut client = Client::connect(member);
    request(&mut client, 1, &first_request("localhost"));
    expect_status(&mut client, 1, "beside slow connections");
}

/// Also known as slowloris.
#[test]
fn cve_2007_6750_slow_clients_are_let_go() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The others do not know the peer port that the system chooses: so it is chosen here.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address");
    let peer = format!("http://{free}");
    let config = Config { listen_peer_urls: vec![Url::parse(&peer).expect("a URL")], ..config(folder.path()) };
    let member = start(&config).expect("the member starts");
    let client = member.client_url();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let slow: Vec<(&str, &[u8])> = vec![
        (&client, b""),
        (&client, b"P"),
        (&client, b"PRI * HTTP/2"),
        (&client, preface),
        (&client, b"G"),
        (&client, b"GET /health HTTP/1.1\r\nHost: a\r\nX: "),
        (&client, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"),
        (&peer, b""),
        (&peer, b"GET /version HTTP/1.1\r\nHost: a\r\nX: "),
        (&peer, b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"),
        (&peer, preface),
    ];
    let begun = Instant::now();
    let mut connections: Vec<(TcpStream, &[u8])> = Vec::new();
    for (url, start) in &slow {
        let mut stream = connect(url);
        stream.write_all(start).expect("the member reads");
        connections.push((stream, start));
    }
    expect_served(&member);
    // One that sends a byte now and then gains nothing by it.
    let mut dripping = connect(&client);
    dripping.write_all(b"GET /health HTTP/1.1\r\nX: ").expect("the member reads");
    let dripped = std::thread::spawn(move || {
        dripping.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket takes it");
        while begun.elapsed() < WAIT_MAX {
            match dripping.read(&mut [0; 100]) {
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    if dripping.write_all(b"a").is_err() {
                        return true;
                    }
                }
                Ok(0) | Err(_) => return true,
                Ok(_) => {}
            }
        }
        false
    });
    for (stream, start) in &mut connections {
        let (_, closed) = until_closed(stream);
        assert!(closed, "{:?} is still there", String::from_utf8_lossy(start));
    }
    assert!(dripped.join().expect("it looks at its socket"), "the dripping one is still there");
    expect_served(&member);
}

/// Files of the log and other members need descriptors too: so clients get a share, and who comes late waits.
#[test]
fn connections_beyond_the_bound_wait_and_harm_nobody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let connection_limits = ConnectionLimits { client_connections: Some(5), ..ConnectionLimits::default() };
    let config = Config { connection_limits, ..embed::config(folder.path()) };
    let member = start(&config).expect("the member starts");
    let mut early = Client::connect(&member);
    request(&mut early, 1, &first_request("localhost"));
    expect_status(&mut early, 1, "the first");
    let mut idle: Vec<Client> = (0..4).map(|_| Client::connect(&member)).collect();
    for client in &mut idle {
        request(client, 1, &first_request("localhost"));
        expect_status(client, 1, "one of five");
    }
    let mut late = Client::connect(&member);
    request(&mut late, 1, &first_request("localhost"));
    late.stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket takes it");
    assert!(late.stream.peek(&mut [0]).is_err(), "it is not accepted");
    request(&mut early, 3, &first_request("localhost"));
    expect_status(&mut early, 3, "who was there is served");
    idle.pop();
    late.stream.set_read_timeout(Some(WAIT_MAX)).expect("a socket takes it");
    expect_status(&mut late, 1, "there is room now");
}

/// A thousand connections that say nothing: those who speak do not wait for them, and their places are free again.
#[test]
fn a_thousand_idle_connections() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let member = start(&config(folder.path())).expect("the member starts");
    // The test's own descriptors count as well: both ends are in this process.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = usize::try_from(limit / 4).unwrap_or(usize::MAX).min(1_000);
    let url = member.client_url();
    let mut idle: Vec<TcpStream> = (0..count).map(|_| connect(&url)).collect();
    expect_served(&member);
    for stream in &mut idle {
        assert!(until_closed(stream).1, "it is still there");
    }
    expect_served(&member);
}
