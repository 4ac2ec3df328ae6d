//! Both sides of handshakes with each other, without HTTP: who is refused, what is read again, and when it ends. The rules
//! of each flag are proved on the ports of a whole member, in `tests/tls.rs`.

use std::sync::Arc;

use kvorum_interop::certificates::{Authority, Issued, Wanted, write, write_pair};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use super::*;

const CHECKS: Checks = Checks { endpoint: "peer", addresses: true, protocols: &[] };

/// An authority, and a folder with a member's files from it.
struct World {
    folder: TempDir,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().expect("a folder"), authority: Authority::new("authority") };
        write(world.folder.path(), "ca.crt", world.authority.pem());
        world.install("member", &world.issue("member", &["127.0.0.1"]));
        world
    }

    fn issue(&self, common_name: &'static str, names: &'static [&'static str]) -> Issued {
        self.authority.issue(Wanted { common_name, names, ..Wanted::default() })
    }

    fn install(&self, name: &str, issued: &Issued) {
        write_pair(self.folder.path(), name, issued);
    }

    fn options(&self) -> TlsOptions {
        let file = |name: &str| Some(self.folder.path().join(name));
        TlsOptions {
            cert_file: file("member.crt"),
            key_file: file("member.key"),
            trusted_ca_file: file("ca.crt"),
            ..TlsOptions::default()
        }
    }

    fn file(&self, name: &str) -> Option<std::path::PathBuf> {
        Some(self.folder.path().join(name))
    }
}

/// Shakes hands; the certificate's name that the listening side saw, or `None` if either side refused.
async fn shake(incoming: &IncomingTls, outgoing: &OutgoingTls) -> Option<String> {
    shake_as(incoming, outgoing, "127.0.0.1").await
}

async fn shake_as(incoming: &IncomingTls, outgoing: &OutgoingTls, host: &str) -> Option<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let socket = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let (accepted, connected) = tokio::join!(
        async { incoming.accept(listener.accept().await.expect("accepted").0).await },
        outgoing.connect(socket, host)
    );
    let name = accepted?.certificate.map_or_else(String::new, |certificate| certificate.common_name);
    connected.is_ok().then_some(name)
}

fn outgoing(options: TlsOptions) -> OutgoingTls {
    OutgoingTls::new(options).expect("files that are of use")
}

#[tokio::test]
async fn members_believe_each_other_and_no_other() {
    let (world, foreign) = (World::new(), World::new());
    let incoming = IncomingTls::new(world.options(), CHECKS).expect("files that are of use");
    assert_eq!(shake(&incoming, &outgoing(world.options())).await.as_deref(), Some("member"));
    assert_eq!(shake(&incoming, &outgoing(foreign.options())).await, None);
    // Not for this host.
    assert_eq!(shake_as(&incoming, &outgoing(world.options()), "localhost").await, None);
    // Nothing to show.
    let nobody = TlsOptions { trusted_ca_file: world.file("ca.crt"), ..TlsOptions::default() };
    assert_eq!(shake(&incoming, &outgoing(nobody)).await, None);
}

#[tokio::test]
async fn who_is_dialed_must_have_an_allowed_name() {
    let world = World::new();
    let incoming = IncomingTls::new(world.options(), CHECKS).expect("files that are of use");
    let dial = |change: fn(&mut TlsOptions)| {
        let mut options = world.options();
        change(&mut options);
        outgoing(options)
    };
    for (change, admitted) in [
        ((|options| options.allowed_cns = vec!["other".to_owned(), "member".to_owned()]) as fn(&mut TlsOptions), true),
        (|options| options.allowed_cns = vec!["other".to_owned()], false),
        (|options| options.allowed_hostnames = vec!["127.0.0.1".to_owned()], true),
        (|options| options.allowed_hostnames = vec!["elsewhere.example".to_owned()], false),
    ] {
        assert_eq!(shake(&incoming, &dial(change)).await.is_some(), admitted);
    }
}

#[tokio::test]
async fn a_certificate_of_its_own_is_shown_where_there_is_one() {
    let world = World::new();
    let incoming = IncomingTls::new(world.options(), CHECKS).expect("files that are of use");
    world.install("caller", &world.issue("caller", &[]));
    let options = TlsOptions {
        client_cert_file: world.file("caller.crt"),
        client_key_file: world.file("caller.key"),
        ..world.options()
    };
    assert_eq!(shake(&incoming, &outgoing(options)).await.as_deref(), Some("caller"));
}

#[tokio::test]
async fn both_sides_read_their_files_again() {
    let world = World::new();
    let incoming = IncomingTls::new(world.options(), CHECKS).expect("files that are of use");
    let outgoing = outgoing(world.options());
    world.install("member", &world.issue("renewed", &["127.0.0.1"]));
    assert_eq!(shake(&incoming, &outgoing).await.as_deref(), Some("renewed"));
    // A key that does not fit refuses; the old pair is not gone back to.
    write(world.folder.path(), "member.key", &world.issue("other", &[]).key);
    assert_eq!(shake(&incoming, &outgoing).await, None);
    world.install("member", &world.issue("third", &["127.0.0.1"]));
    assert_eq!(shake(&incoming, &outgoing).await.as_deref(), Some("third"));
    // Another authority, on both sides.
    let other = Authority::new("other");
    write(world.folder.path(), "ca.crt", other.pem());
    assert_eq!(shake(&incoming, &outgoing).await, None);
    world.install("member", &other.issue(Wanted { common_name: "fourth", names: &["127.0.0.1"], ..Wanted::default() }));
    assert_eq!(shake(&incoming, &outgoing).await.as_deref(), Some("fourth"));
}

/// `openssl req -x509` makes authorities, and many members show such a certificate and trust it by itself.
#[tokio::test]
async fn a_certificate_may_be_trusted_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = crate::urls::Url::parse("https://127.0.0.1:0").expect("a URL");
    let made = self_signed(folder.path(), &[url], 1, &TlsOptions::default()).expect("made");
    let trusting = TlsOptions {
        trusted_ca_file: made.cert_file.clone(),
        self_signed: false,
        client_cert_file: None,
        client_key_file: None,
        ..made.clone()
    };
    let incoming = IncomingTls::new(made.clone(), CHECKS).expect("files that are of use");
    assert_eq!(shake(&incoming, &outgoing(trusting.clone())).await.as_deref(), Some(""));
    assert_eq!(shake_as(&incoming, &outgoing(trusting.clone()), "localhost").await, None);
    // It is for servers alone: as a client it is refused.
    let demanding = IncomingTls::new(trusting, CHECKS).expect("files that are of use");
    assert_eq!(shake(&demanding, &outgoing(made)).await, None);
}

#[tokio::test]
async fn members_with_certificates_of_their_own_take_each_other() {
    let (first, second) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let url = [crate::urls::Url::parse("https://127.0.0.1:0").expect("a URL")];
    let make = |folder: &TempDir| self_signed(folder.path(), &url, 1, &TlsOptions::default()).expect("made");
    let (own, other) = (make(&first), make(&second));
    let incoming = IncomingTls::new(own.clone(), CHECKS).expect("files that are of use");
    assert_eq!(shake(&incoming, &outgoing(other)).await.as_deref(), Some(""));
    // The same ones after a restart.
    let before = std::fs::read(first.path().join("cert.pem")).expect("there");
    assert_eq!(make(&first), own);
    assert_eq!(std::fs::read(first.path().join("cert.pem")).expect("there"), before);
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(first.path().join("key.pem")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let none = self_signed(first.path(), &url, 0, &TlsOptions::default()).expect_err("no time");
    assert_eq!(none, "selfSignedCertValidity is invalid,it should be greater than 0");
}

/// GHSA-6vch-q96h-7gc3: whoever connects and says nothing is let go after ten seconds.
#[tokio::test(start_paused = true)]
async fn ghsa_6vch_q96h_7gc3_a_silent_handshake_ends() {
    let world = World::new();
    let incoming = IncomingTls::new(world.options(), CHECKS).expect("files that are of use");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    let silent = TcpStream::connect(address).await.expect("connected");
    let begun = tokio::time::Instant::now();
    assert!(incoming.accept(listener.accept().await.expect("accepted").0).await.is_none());
    assert_eq!(begun.elapsed().as_secs(), 10);
    // And so it is with a member that is dialed and says nothing.
    let (outgoing, begun) = (outgoing(world.options()), tokio::time::Instant::now());
    let socket = TcpStream::connect(address).await.expect("connected");
    assert!(outgoing.connect(socket, "127.0.0.1").await.is_err());
    assert_eq!(begun.elapsed().as_secs(), 10);
    drop(silent);
}

#[test]
fn files_of_no_use_fail_the_start_and_are_named() {
    let world = World::new();
    write(world.folder.path(), "empty.crt", "nothing in PEM");
    let fails = |change: &dyn Fn(&mut TlsOptions)| {
        let mut options = world.options();
        change(&mut options);
        IncomingTls::new(options, CHECKS)
            .err()
            .expect("refused")
            .replace(&world.folder.path().display().to_string(), "")
    };
    assert!(fails(&|options| options.cert_file = world.file("none.crt")).starts_with("/none.crt: No such file"));
    assert_eq!(
        fails(&|options| options.cert_file = world.file("empty.crt")),
        "/empty.crt: holds no certificate in PEM"
    );
    assert_eq!(
        fails(&|options| options.trusted_ca_file = world.file("empty.crt")),
        "/empty.crt: holds no certificate in PEM"
    );
    assert_eq!(
        fails(&|options| options.key_file = world.file("ca.crt")),
        "/ca.crt: holds no private key in PEM that is not encrypted"
    );
    assert_eq!(
        fails(&|options| options.key_file = None),
        "KeyFile and CertFile must both be present[key: , cert: /member.crt]"
    );
    world.install("other", &world.issue("other", &[]));
    let mismatch = fails(&|options| options.key_file = world.file("other.key"));
    assert!(mismatch.starts_with("/member.crt and /other.key cannot be used together"), "{mismatch}");
    let alone = fails(&|options| options.client_cert_file = world.file("other.crt"));
    assert!(alone.starts_with("ClientKeyFile and ClientCertFile must both be present or both absent"), "{alone}");
}

/// etcd's own certificates are of that curve.
#[tokio::test]
async fn p521_is_spoken_in_both_versions() {
    let world = World::new();
    world.install("member", &world.authority.issue(Wanted { names: &["127.0.0.1"], ..Wanted::p521() }));
    let incoming = IncomingTls::new(world.options(), CHECKS).expect("files that are of use");
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let versions = Versions { min: Some(version), max: Some(version), cipher_suites: Vec::new() };
        let outgoing = outgoing(TlsOptions { versions, ..world.options() });
        assert!(shake(&incoming, &outgoing).await.is_some(), "{version:?}");
    }
}

#[tokio::test]
async fn connections_bring_large_pieces_whole() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new();
    let incoming = Arc::new(IncomingTls::new(world.options(), CHECKS).expect("files that are of use"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let socket = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
    let sent: Vec<u8> = (0..1_000_000_u32).map(|index| (index ^ index >> 8) as u8).collect();
    let expected = sent.clone();
    let serving = tokio::spawn(async move {
        let mut stream =
            incoming.accept(listener.accept().await.expect("accepted").0).await.expect("a handshake").stream;
        let mut received = vec![0; sent.len()];
        stream.read_exact(&mut received).await.expect("received");
        stream.write_all(&received).await.expect("sent");
        stream.flush().await.expect("flushed");
        received
    });
    let outgoing = outgoing(world.options());
    let (mut reading, mut writing) =
        tokio::io::split(outgoing.connect(socket, "127.0.0.1").await.expect("a handshake"));
    let mut returned = vec![0; expected.len()];
    let (written, read) = tokio::join!(
        async {
            writing.write_all(&expected).await.expect("sent");
            writing.flush().await
        },
        reading.read_exact(&mut returned)
    );
    written.expect("flushed");
    read.expect("received");
    assert!(returned == expected && serving.await.expect("served") == expected);
}
