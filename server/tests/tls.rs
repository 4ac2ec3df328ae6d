//! What each flag of TLS refuses, on the ports of a whole member that was started with it; and what goes on over TLS
//! otherwise: pages, new files under a running member, members that find each other.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvorum_interop::certificates::{Authority, Issued, Wanted, write, write_pair};
use kvorum_net::trust::TakesAny;
use kvorum_server::config::{self, Command, Failure};
use kvorum_server::start::{Running, begin, start};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{CipherSuite, ClientConfig, version};

/// A folder with an authority's `ca.crt` and a member's pair from it.
struct World {
    folder: TempDir,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().expect("a folder"), authority: Authority::new("authority") };
        write(world.folder.path(), "ca.crt", world.authority.pem());
        world.install(&world.issue("member", &["127.0.0.1", "localhost"]));
        world
    }

    fn issue(&self, common_name: &'static str, names: &'static [&'static str]) -> Issued {
        self.authority.issue(Wanted { common_name, names, ..Wanted::default() })
    }

    fn install(&self, issued: &Issued) {
        write_pair(self.folder.path(), "member", issued);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments of a member with the ports chosen by the system; `@` stands for the folder, in `flags` too. Sides with
    /// certificates have https.
    fn arguments(&self, flags: &str) -> Vec<String> {
        let has = |flag: &str| flags.split_whitespace().any(|part| part == flag);
        let scheme = |secure| if secure { "https" } else { "http" };
        let client = scheme(has("--cert-file") || has("--auto-tls"));
        let peer = scheme(has("--peer-cert-file") || has("--peer-auto-tls"));
        let mut all = format!("--name m --data-dir @/data --listen-client-urls {client}://127.0.0.1:0 ");
        write!(
            all,
            "--advertise-client-urls {client}://127.0.0.1:0 --listen-peer-urls {peer}://127.0.0.1:{} ",
            free_port()
        )
        .expect("a string takes it");
        let folder = self.folder.path().display().to_string();
        (all + flags).split_whitespace().map(|part| part.replace('@', &folder)).collect()
    }

    fn config(&self, flags: &str) -> Result<config::Config, String> {
        match config::parse(&self.arguments(flags), &[]) {
            Ok(Command::Serve { config, .. }) => Ok(*config),
            Err(Failure::Refused { message, .. }) => Err(message),
            other => panic!("{flags}: {other:?}"),
        }
    }

    fn start(&self, flags: &str) -> Member {
        let config = self.config(flags).unwrap_or_else(|error| panic!("{flags}: {error}"));
        let peer = address(config.listen_peer_urls[0].as_str());
        let running = start(&config).unwrap_or_else(|error| panic!("{flags}: {error}"));
        Member { client: address(&running.client_url()), peer, running }
    }
}

/// Others must know a port before its owner listens.
fn free_port() -> u16 {
    kvorum_interop::ports::free_port()
}

fn address(url: &str) -> SocketAddr {
    url.split_once("//").expect("a URL").1.parse().expect("an address")
}

struct Member {
    client: SocketAddr,
    peer: SocketAddr,
    running: Running,
}

/// A client of TLS that takes any certificate, and what it shows itself.
#[derive(Clone, Default)]
struct Caller {
    shows: Option<Issued>,
    versions: Vec<&'static tokio_rustls::rustls::SupportedProtocolVersion>,
    suite: Option<CipherSuite>,
    protocols: Vec<Vec<u8>>,
}

impl Caller {
    fn showing(issued: &Issued) -> Self {
        Self { shows: Some(issued.clone()), ..Self::default() }
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| self.suite.is_none_or(|wanted| suite.suite() == wanted));
        let provider = Arc::new(provider);
        let versions =
            if self.versions.is_empty() { vec![&version::TLS13, &version::TLS12] } else { self.versions.clone() };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TakesAny(provider)));
        let mut config = match &self.shows {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(vec![certificate], key).map_err(io::Error::other)?
            }
        };
        config.alpn_protocols.clone_from(&self.protocols);
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
    }

    /// Asks for a page. With TLS 1.3 a refusal of the client's certificate comes only now.
    async fn ask(&self, address: SocketAddr, path: &str) -> Result<String, String> {
        let asking = async {
            let mut stream = self.connect(address).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            // Nobody needs to say goodbye in TLS behind a whole answer.
            match stream.read_to_end(&mut answer).await {
                Err(error) if answer.is_empty() => Err(error),
                Ok(_) | Err(_) => Ok(answer),
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(30), asking).await.expect("an answer or a refusal");
        let answer = answer.map_err(|error: io::Error| error.to_string())?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        if answer.starts_with("HTTP/1.1 200") { Ok(answer) } else { Err(format!("answer {answer:?}")) }
    }
}

/// The prefix of a side's flags, and its port.
const SIDES: [&str; 2] = ["", "peer-"];

impl Member {
    fn side(&self, prefix: &str) -> SocketAddr {
        if prefix.is_empty() { self.client } else { self.peer }
    }
}

/// The pair of a side: `--cert-file` and `--key-file`, or those of peers.
fn pair(prefix: &str) -> String {
    format!("--{prefix}cert-file @/member.crt --{prefix}key-file @/member.key")
}

/// A list of what callers show and how they are answered: `None` well, else with a part of the refusal.
async fn check(member: &Member, prefix: &str, flags: &str, callers: &[(&str, Caller, Option<&str>)]) {
    for (who, caller, refusal) in callers {
        let answer = caller.ask(member.side(prefix), "/version").await;
        let as_expected = match (&answer, refusal) {
            (Ok(_), None) => true,
            (Err(error), Some(part)) => error.contains(part),
            _ => false,
        };
        assert!(as_expected, "{flags}: {who}: expected {refusal:?}, got {answer:?}");
    }
}

#[tokio::test]
async fn cert_file_key_file() {
    let world = World::new();
    for prefix in SIDES {
        let flags = pair(prefix);
        let member = world.start(&flags);
        check(&member, prefix, &flags, &[("nobody", Caller::default(), None)]).await;
        // Without TLS nothing is answered.
        let mut plain = TcpStream::connect(member.side(prefix)).await.expect("connected");
        plain.write_all(b"GET /version HTTP/1.1\r\nHost: m\r\n\r\n").await.expect("sent");
        let mut answer = Vec::new();
        drop(plain.read_to_end(&mut answer).await);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
}

#[tokio::test]
async fn trusted_ca_file_client_cert_auth() {
    let (world, foreign) = (World::new(), World::new());
    let issue = |wanted: Wanted| Caller::showing(&world.authority.issue(wanted));
    for prefix in SIDES {
        for demand in [format!("--{prefix}client-cert-auth"), String::new()] {
            let flags = format!("{} --{prefix}trusted-ca-file @/ca.crt {demand}", pair(prefix));
            let member = world.start(&flags);
            check(
                &member,
                prefix,
                &flags,
                &[
                    ("known", issue(Wanted::default()), None),
                    ("known, of another curve", issue(Wanted::p521()), None),
                    ("nobody", Caller::default(), Some("CertificateRequired")),
                    ("foreign", Caller::showing(&foreign.issue("member", &[])), Some("alert")),
                    ("expired", issue(Wanted { years: (2000, 2001), ..Wanted::default() }), Some("CertificateExpired")),
                    ("to come", issue(Wanted { years: (2990, 2999), ..Wanted::default() }), Some("alert")),
                    ("a server", issue(Wanted { uses: vec![ServerAuth], ..Wanted::default() }), Some("alert")),
                    ("a client", issue(Wanted { uses: vec![ClientAuth], ..Wanted::default() }), None),
                ],
            )
            .await;
        }
    }
}

#[tokio::test]
async fn client_cert_auth_alone_trusts_the_system() {
    let world = World::new();
    let config = world.config(&format!("{} --client-cert-auth", pair(""))).expect("flags that make sense");
    match start(&config) {
        Ok(running) => {
            let client = address(&running.client_url());
            for caller in [Caller::default(), Caller::showing(&world.issue("member", &[]))] {
                caller.ask(client, "/version").await.expect_err("the system knows no such authority");
            }
        }
        Err(error) => assert!(error.to_string().contains("the system's certificate authorities"), "{error}"),
    }
}

#[tokio::test]
async fn allowed_cn_and_allowed_hostname() {
    let world = World::new();
    let named = |name, hosts| Caller::showing(&world.issue(name, hosts));
    let refused = Some("alert");
    for (prefix, rule, callers) in [
        (
            "peer-",
            "--peer-cert-allowed-cn first,second",
            [
                ("first", named("first", &[]), None),
                ("other", named("other", &["first"]), refused),
                ("none", named("", &[]), refused),
            ],
        ),
        (
            "peer-",
            "--peer-cert-allowed-hostname a.example,127.0.0.1",
            [
                ("address", named("", &["127.0.0.1"]), None),
                ("other", named("a.example", &["10.0.0.1", "127.0.0.1.example"]), refused),
                ("none", named("a.example", &[]), refused),
            ],
        ),
        (
            "",
            "--client-cert-allowed-hostname c.example,a.b.example",
            [
                ("wildcard", named("", &["*.b.example"]), None),
                ("other", named("a.example", &["b.example"]), refused),
                ("none", named("a.example", &[]), refused),
            ],
        ),
    ] {
        let flags = format!("{} --{prefix}trusted-ca-file @/ca.crt {rule}", pair(prefix));
        check(&world.start(&flags), prefix, &flags, &callers).await;
    }
}

/// GHSA-3wh4-j44w-pg92: a revoked certificate is refused on every port, and the list may change while the member runs.
#[tokio::test]
async fn ghsa_3wh4_j44w_pg92_crl_files() {
    let world = World::new();
    let (good, bad) = (world.issue("good", &[]), world.issue("bad", &[]));
    let metrics = "--listen-metrics-urls https://127.0.0.1:0";
    for (prefix, crl_flag, more) in [("", "client-crl-file", metrics), ("peer-", "peer-crl-file", "")] {
        write(world.folder.path(), "revoked.crl", world.authority.revoke(&[bad.serial]).0);
        let flags = format!("{} --{prefix}trusted-ca-file @/ca.crt --{crl_flag} @/revoked.crl {more}", pair(prefix));
        let member = world.start(&flags);
        let callers = |good_refusal, bad_refusal| {
            [("good", Caller::showing(&good), good_refusal), ("bad", Caller::showing(&bad), bad_refusal)]
        };
        let revoked = Some("CertificateRevoked");
        check(&member, prefix, &flags, &callers(None, revoked)).await;
        if let Some(url) = member.running.metrics_urls().first() {
            let metrics = address(url);
            Caller::showing(&good).ask(metrics, "/metrics").await.expect("served");
            let refusal = Caller::showing(&bad).ask(metrics, "/metrics").await.expect_err("refused");
            assert!(refusal.contains("CertificateRevoked"), "{refusal}");
        }
        let (der, pem) = world.authority.revoke(&[good.serial, 7]);
        write(world.folder.path(), "revoked.crl", der);
        check(&member, prefix, &flags, &callers(revoked, None)).await;
        // etcd takes DER alone.
        write(world.folder.path(), "revoked.crl", pem);
        check(&member, prefix, &flags, &callers(revoked, None)).await;
        // What cannot be read refuses everybody.
        let pem = "-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n";
        write(world.folder.path(), "revoked.crl", pem);
        check(&member, prefix, &flags, &callers(Some("alert"), Some("alert"))).await;
        std::fs::remove_file(world.file("revoked.crl")).expect("removed");
        check(&member, prefix, &flags, &callers(Some("alert"), Some("alert"))).await;
    }
}

/// Of a list only the serial numbers count, as in etcd 3.7.1, which was seen to do the same with each of these files: it
/// looks at no date, at no issuer, at no signature and at nothing behind the list, and refuses everybody while the file is
/// no list at all. It reads the file at each handshake, so a whole one counts at once.
#[tokio::test]
async fn crl_files_that_are_old_foreign_or_broken() {
    let world = World::new();
    let (good, bad) = (world.issue("good", &[]), world.issue("bad", &[]));
    let revoked = [bad.serial];
    let (list, _) = world.authority.revoke(&revoked);
    let (expired, _) = world.authority.revoke_until(&revoked, 2021);
    let (foreign, _) = Authority::new("another").revoke(&revoked);
    let (mut forged, mut followed) = (list.clone(), list.clone());
    *forged.last_mut().expect("it has a signature") ^= 1;
    followed.extend(b"more");
    let (torn, empty) = (list[..list.len() / 2].to_vec(), Vec::new());
    let lists = [("expired", expired), ("foreign", foreign), ("forged", forged), ("followed by more", followed)];
    let no_lists = [("torn", torn), ("empty", empty), ("another thing", good.certificate.clone().into_bytes())];
    for (prefix, crl_flag) in [("", "client-crl-file"), ("peer-", "peer-crl-file")] {
        let flags = format!("{} --{prefix}trusted-ca-file @/ca.crt --{crl_flag} @/list.crl", pair(prefix));
        write(world.folder.path(), "list.crl", &list);
        let member = world.start(&flags);
        let callers = |good_refusal, bad_refusal| {
            [("good", Caller::showing(&good), good_refusal), ("bad", Caller::showing(&bad), bad_refusal)]
        };
        let only_bad = callers(None, Some("CertificateRevoked"));
        for (what, content) in &lists {
            write(world.folder.path(), "list.crl", content);
            check(&member, prefix, &format!("{flags}: {what}"), &only_bad).await;
        }
        for (what, content) in &no_lists {
            write(world.folder.path(), "list.crl", content);
            check(&member, prefix, &format!("{flags}: {what}"), &callers(Some("alert"), Some("alert"))).await;
            write(world.folder.path(), "list.crl", &list);
            check(&member, prefix, &format!("{flags}: after {what}"), &only_bad).await;
        }
    }
}

/// Sends a call without a message over HTTP/2; gives the HTTP status.
async fn call(caller: &Caller, address: SocketAddr) -> Result<u16, String> {
    let caller = Caller { protocols: vec![b"h2".to_vec()], ..caller.clone() };
    let calling = async {
        let stream = caller.connect(address).await.map_err(|error| error.to_string())?;
        let (client, connection) = h2::client::handshake(stream).await.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(connection);
        let mut client = client.ready().await.map_err(|error| error.to_string())?;
        let request = http::Request::post("https://m/etcdserverpb.KV/Range").header("content-type", "application/grpc");
        let (response, _) = client.send_request(request.body(()).expect("a request"), true).expect("sent");
        let status = response.await.map(|response| response.status().as_u16()).map_err(|error| error.to_string());
        driver.abort();
        status
    };
    tokio::time::timeout(Duration::from_secs(30), calling).await.expect("an answer or a refusal")
}

/// GHSA-3wh4-j44w-pg92: where pages have a port of their own, etcd once did not look at the list on the one for gRPC.
#[tokio::test]
async fn ghsa_3wh4_j44w_pg92_with_listen_client_http_urls() {
    let world = World::new();
    let (good, bad) = (world.issue("good", &[]), world.issue("bad", &[]));
    write(world.folder.path(), "revoked.crl", world.authority.revoke(&[bad.serial]).0);
    let urls = "--listen-client-http-urls https://127.0.0.1:0,http://localhost:0";
    let flags =
        format!("{} --client-cert-auth --trusted-ca-file @/ca.crt --client-crl-file @/revoked.crl {urls}", pair(""));
    let member = world.start(&flags);
    let (good, bad) = (Caller::showing(&good), Caller::showing(&bad));
    let http = member.running.client_http_urls();
    let pages = address(http.iter().find(|url| url.starts_with("https")).expect("there is one"));
    assert_eq!(call(&good, member.client).await, Ok(200));
    call(&bad, member.client).await.expect_err("revoked");
    good.ask(member.client, "/health").await.expect_err("the port for gRPC has no pages");
    good.ask(pages, "/health").await.expect("served");
    let refusal = bad.ask(pages, "/health").await.expect_err("revoked");
    assert!(refusal.contains("CertificateRevoked"), "{refusal}");
    assert_eq!(call(&good, pages).await, Ok(404), "the port for pages has no gRPC");
}

#[tokio::test]
async fn tls_versions() {
    let world = World::new();
    let old = Caller { versions: vec![&version::TLS12], ..Caller::default() };
    let new = Caller { versions: vec![&version::TLS13], ..Caller::default() };
    let refused = Some("ProtocolVersion");
    for (flags, old_refusal, new_refusal) in [
        ("", None, None),
        ("--tls-min-version TLS1.3", refused, None),
        ("--tls-max-version TLS1.2", None, refused),
        ("--tls-min-version TLS1.2 --tls-max-version TLS1.3", None, None),
    ] {
        let flags = format!("{} {} {flags}", pair(""), pair("peer-"));
        let member = world.start(&flags);
        for prefix in SIDES {
            let callers = [("old", old.clone(), old_refusal), ("new", new.clone(), new_refusal)];
            check(&member, prefix, &flags, &callers).await;
        }
    }
}

#[tokio::test]
async fn cipher_suites() {
    let world = World::new();
    let with = |suite| Caller { versions: vec![&version::TLS12], suite: Some(suite), ..Caller::default() };
    let (small, large) = (
        with(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        with(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    );
    // What is not served here may stand beside it, as may those of TLS 1.3, which is never restricted.
    let suites = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_RSA_WITH_AES_128_CBC_SHA,TLS_AES_128_GCM_SHA256";
    let flags = format!("{} {} --cipher-suites {suites}", pair(""), pair("peer-"));
    let member = world.start(&flags);
    for prefix in SIDES {
        let callers = [
            ("named", small.clone(), None),
            ("not named", large.clone(), Some("HandshakeFailure")),
            ("new", Caller::default(), None),
        ];
        check(&member, prefix, &flags, &callers).await;
    }
}

/// Ports for members and for metrics compare addresses in certificates with where they come from; the one for clients
/// does not.
#[tokio::test]
async fn addresses_in_certificates() {
    let world = World::new();
    let elsewhere = Caller::showing(&world.issue("m", &["10.0.0.1"]));
    let here = Caller::showing(&world.issue("m", &["127.0.0.1"]));
    let by_name = Caller::showing(&world.issue("m", &["localhost"]));
    let flags = format!(
        "{} --trusted-ca-file @/ca.crt {} --peer-trusted-ca-file @/ca.crt --listen-metrics-urls https://127.0.0.1:0",
        pair(""),
        pair("peer-")
    );
    let member = world.start(&flags);
    let metrics = address(&member.running.metrics_urls()[0]);
    elsewhere.ask(member.client, "/version").await.expect("clients may come from anywhere");
    for (address, path) in [(member.peer, "/version"), (metrics, "/metrics")] {
        elsewhere.ask(address, path).await.expect_err("not from here");
        for caller in [&here, &by_name] {
            caller.ask(address, path).await.expect("from here");
        }
    }
    drop(member);
    let member = world.start(&format!("{flags} --peer-skip-client-san-verification"));
    elsewhere.ask(member.peer, "/version").await.expect("nobody looks");
}

#[tokio::test]
async fn metrics_ports_have_their_pages_and_no_others() {
    let world = World::new();
    let flags = format!("{} --listen-metrics-urls http://127.0.0.1:0,https://localhost:0", pair(""));
    let member = world.start(&flags);
    let urls = member.running.metrics_urls();
    assert!(urls[0].starts_with("http://127.0.0.1:") && urls[1].starts_with("https://localhost:"), "{urls:?}");
    let secure = address(&urls[1].replace("localhost", "127.0.0.1"));
    for (path, part) in
        [("/metrics", "etcd_server_has_leader 1"), ("/health", r#"{"health":"true""#), ("/readyz", "ok")]
    {
        let answer = Caller::default().ask(secure, path).await.expect(path);
        assert!(answer.contains(part), "{answer}");
        assert!(!answer.contains("access-control"), "{answer}");
    }
    Caller::default().ask(secure, "/version").await.expect_err("it is on the client port");
    let mut plain = TcpStream::connect(address(&urls[0])).await.expect("connected");
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#"{"health":"true""#), "{answer}");
}

/// What curl and Prometheus do: they offer both protocols.
#[tokio::test]
async fn pages_over_http2() {
    let world = World::new();
    let member = world.start(&pair(""));
    let both = Caller { protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()], ..Caller::default() };
    let stream = both.connect(member.client).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(stream).await.expect("a handshake");
    let driver = tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    for (method, path, status, part) in [
        ("GET", "/version", 200, r#""etcdserver":"3.7.1""#),
        ("GET", "/metrics", 200, "etcd_server_has_leader 1"),
        ("GET", "/health", 200, r#"{"health":"true""#),
        ("HEAD", "/metrics", 200, ""),
        ("GET", "/nothing", 404, "404 page not found"),
    ] {
        let request =
            http::Request::builder().method(method).uri(format!("https://m{path}")).body(()).expect("a request");
        let (response, _) = client.send_request(request, true).expect("sent");
        let response = response.await.expect("answered");
        assert_eq!(response.status(), status, "{method} {path}");
        let length: usize = response.headers()["content-length"].to_str().expect("text").parse().expect("a number");
        let mut body = response.into_body();
        let mut text = String::new();
        while let Some(piece) = body.data().await {
            let piece = piece.expect("a piece");
            body.flow_control().release_capacity(piece.len()).expect("taken");
            text.push_str(&String::from_utf8_lossy(&piece));
        }
        assert!(text.contains(part), "{method} {path}: {text}");
        assert!(if method == "HEAD" { text.is_empty() && length > 0 } else { text.len() == length }, "{method} {path}");
    }
    drop(client);
    driver.abort();
    // Another protocol than these two is none that can be spoken.
    let other = Caller { protocols: vec![b"spdy".to_vec()], ..Caller::default() };
    assert!(other.connect(member.client).await.is_err());
}

#[tokio::test]
async fn slow_handshakes_hold_up_nobody() {
    let world = World::new();
    let member = world.start(&format!("{} {}", pair(""), pair("peer-")));
    for prefix in SIDES {
        let mut silent = Vec::new();
        for _ in 0..50 {
            let mut stream = TcpStream::connect(member.side(prefix)).await.expect("connected");
            // The beginning of a handshake.
            stream.write_all(&[22, 3, 1]).await.expect("sent");
            silent.push(stream);
        }
        Caller::default().ask(member.side(prefix), "/version").await.expect("served meanwhile");
    }
}

#[tokio::test]
async fn certificates_are_read_again_by_a_running_member() {
    let world = World::new();
    let member = world.start(&pair(""));
    for name in ["second", "third"] {
        let issued = world.issue(name, &["127.0.0.1"]);
        world.install(&issued);
        let stream = Caller::default().connect(member.client).await.expect("a handshake");
        let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
        assert_eq!(shown, CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM"));
    }
    std::fs::remove_file(world.file("member.key")).expect("removed");
    Caller::default().ask(member.client, "/version").await.expect_err("there is no key");
    world.install(&world.issue("fourth", &["127.0.0.1"]));
    Caller::default().ask(member.client, "/version").await.expect("there is one again");
}

#[tokio::test]
async fn auto_tls_peer_auto_tls_self_signed_cert_validity() {
    let world = World::new();
    let flags = "--auto-tls --peer-auto-tls --self-signed-cert-validity 2";
    let mut shown = Vec::new();
    for _ in 0..2 {
        let mut member = world.start(flags);
        for prefix in SIDES {
            let stream = Caller::default().connect(member.side(prefix)).await.expect("a handshake");
            shown.push(stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone());
            Caller::default().ask(member.side(prefix), "/version").await.expect("served");
        }
        member.running.stop();
    }
    // Not the same for both sides, but the same after a restart.
    assert!(shown[0] != shown[1] && shown[..2] == shown[2..]);
    let fields = kvorum_net::certificate::CertificateFields::parse(&shown[0]).expect("a certificate");
    assert_eq!(fields.valid.1 - fields.valid.0, 2 * 365 * 24 * 60 * 60);
    assert_eq!(fields.ip_addresses, [std::net::IpAddr::from([127, 0, 0, 1])]);
}

#[tokio::test]
async fn one_port_speaks_both() {
    let world = World::new();
    let port = free_port();
    let urls = format!("http://127.0.0.1:{port},https://127.0.0.1:{port}");
    let member = world.start(&format!("{} --listen-client-urls {urls} --advertise-client-urls {urls}", pair("")));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Caller::default().ask(address, "/version").await.expect("served over TLS");
    let mut plain = TcpStream::connect(address).await.expect("connected");
    plain.write_all(b"GET /version HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(member);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = World::new();
    let https = "--listen-client-urls https://127.0.0.1:2379 --advertise-client-urls https://127.0.0.1:2379";
    for (flags, expected) in [
        (
            https.to_owned(),
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:2379 with HTTPS scheme",
        ),
        (
            "--listen-peer-urls https://127.0.0.1:2380".to_owned(),
            "cannot listen on TLS for 127.0.0.1:2380: KeyFile and CertFile are not presented",
        ),
        (
            "--listen-metrics-urls https://127.0.0.1:0".to_owned(),
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (format!("{https} --cert-file a"), "KeyFile and CertFile must both be present[key: , cert: a]"),
        ("--peer-key-file a".to_owned(), "KeyFile and CertFile must both be present[key: a, cert: ]"),
        (
            format!("{} --peer-client-key-file a", pair("peer-")),
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: a, cert: ]",
        ),
        ("--tls-min-version TLS1.1".to_owned(), r#"unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)"#),
        ("--tls-max-version 1.2".to_owned(), r#"unexpected TLS version "1.2" (must be one of: TLS1.2, TLS1.3)"#),
        (
            "--tls-min-version TLS1.3 --tls-max-version TLS1.2".to_owned(),
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            "--tls-min-version TLS1.3 --cipher-suites TLS_AES_128_GCM_SHA256".to_owned(),
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        ("--cipher-suites TLS_NONE".to_owned(), r#"unexpected TLS cipher suite "TLS_NONE""#),
        (
            "--cipher-suites TLS_RSA_WITH_RC4_128_SHA".to_owned(),
            "none of the cipher suites [TLS_RSA_WITH_RC4_128_SHA] is supported by Kvorum",
        ),
        (
            "--peer-trusted-ca-file a --peer-cert-allowed-cn a --peer-cert-allowed-hostname b".to_owned(),
            r#"AllowedCNs and AllowedHostnames are mutually exclusive (cns=["a"], hostnames=["b"])"#,
        ),
        (
            "--peer-cert-allowed-cn a".to_owned(),
            "--peer-cert-allowed-cn needs --peer-trusted-ca-file or --peer-client-cert-auth: without them nobody is asked for a certificate",
        ),
        (
            "--client-cert-allowed-hostname a".to_owned(),
            "--client-cert-allowed-hostname needs --trusted-ca-file or --client-cert-auth: without them nobody is asked for a certificate",
        ),
        (
            "--client-crl-file a".to_owned(),
            "--client-crl-file needs --trusted-ca-file or --client-cert-auth: without them nobody is asked for a certificate",
        ),
        (
            "--auto-tls --client-cert-auth".to_owned(),
            "--auto-tls asks nobody for a certificate: it cannot be used with --trusted-ca-file or --client-cert-auth",
        ),
        (
            "--peer-client-cert-file a --peer-client-key-file b".to_owned(),
            "--peer-client-cert-file and --peer-client-key-file need --peer-cert-file and --peer-key-file",
        ),
    ] {
        let folder = world.folder.path().display().to_string();
        let arguments: Vec<String> = flags.split_whitespace().map(|part| part.replace('@', &folder)).collect();
        match config::parse(&arguments, &[]) {
            Err(Failure::Refused { message, .. }) => assert_eq!(message, expected, "{flags}"),
            other => panic!("{flags}: {other:?}"),
        }
    }
}

#[test]
fn what_is_ignored_is_warned_of() {
    for (flags, expected) in [
        (
            "--cert-file a --key-file b",
            "scheme is http or unix while key and cert files are present; ignoring key and cert files",
        ),
        (
            "--client-cert-auth",
            "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL",
        ),
        (
            "--peer-cert-file a --peer-key-file b",
            "scheme is HTTP while key and cert files are present; ignoring key and cert files",
        ),
        (
            "--peer-client-cert-auth",
            "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL",
        ),
        ("--auto-tls --cert-file a --key-file b", "ignoring client auto TLS since certs given"),
        (
            "--cipher-suites TLS_RSA_WITH_RC4_128_SHA,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
            "cipher suites without forward secrecy, or with CBC or RC4, are not served",
        ),
    ] {
        let arguments: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
        let Ok(Command::Serve { notices, .. }) = config::parse(&arguments, &[]) else { panic!("{flags}") };
        assert!(notices.iter().any(|notice| notice.message == expected), "{flags}: {notices:?}");
    }
}

/// Three members that demand certificates of each other; then one whose certificate is not from their authority.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn members_form_a_cluster_over_tls_and_leave_a_stranger_out() {
    let (world, foreign) = (World::new(), World::new());
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let all: Vec<String> =
        ports.iter().enumerate().map(|(index, port)| format!("m{index}=https://127.0.0.1:{port}")).collect();
    let begin_member = |index: usize, files: &World| {
        let flags = format!(
            "{} --peer-client-cert-auth --peer-trusted-ca-file @/ca.crt --name m{index} --data-dir @/data{index} \
             --listen-peer-urls https://127.0.0.1:{port} --initial-advertise-peer-urls https://127.0.0.1:{port} \
             --initial-cluster {all} --heartbeat-interval 20 --election-timeout 400",
            pair("peer-"),
            port = ports[index],
            all = all.join(","),
        );
        let config = files.config(&flags).expect("flags that make sense");
        begin(&config).expect("a member begins")
    };
    let mut first = begin_member(0, &world);
    let mut stranger = begin_member(1, &foreign);
    let mut third = begin_member(2, &world);
    first.wait_until_ready().expect("two of three are there");
    third.wait_until_ready().expect("two of three are there");
    // It was there from the beginning and is not part of it: nobody's stream with it lives.
    assert_eq!(stranger.core().leader(), 0, "a stranger was let in");
    stranger.stop();
    drop(stranger);
    let mut second = begin_member(1, &world);
    second.wait_until_ready().expect("the member with the right certificate is let in");
    for member in [&mut second, &mut third, &mut first] {
        member.stop();
    }
}

/// Certificates that members made for themselves are taken by each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn members_form_a_cluster_with_peer_auto_tls() {
    let world = World::new();
    let ports: Vec<u16> = (0..2).map(|_| free_port()).collect();
    let all: Vec<String> =
        ports.iter().enumerate().map(|(index, port)| format!("m{index}=https://127.0.0.1:{port}")).collect();
    let members: Vec<Running> = (0..2)
        .map(|index| {
            let flags = format!(
                "--peer-auto-tls --name m{index} --data-dir @/data{index} --listen-peer-urls https://127.0.0.1:{port} \
                 --initial-advertise-peer-urls https://127.0.0.1:{port} --initial-cluster {all} \
                 --heartbeat-interval 20 --election-timeout 400",
                port = ports[index],
                all = all.join(","),
            );
            begin(&world.config(&flags).expect("flags that make sense")).expect("a member begins")
        })
        .collect();
    for member in &members {
        member.wait_until_ready().expect("both are there");
    }
}
