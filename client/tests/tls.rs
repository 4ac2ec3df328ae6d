//! TLS against servers that want client certificates, Kvorum and a real etcd: trusted, by another name, not trusted, not
//! checked, renewed.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use kvorum_client::{Client, Code, Config, ErrorKind, EtcdError, Permission, Tls};
use kvorum_interop::certificates::{Authority, Wanted, write, write_pair};
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;
use kvorum_server::config::{Command, parse};
use kvorum_server::start::{Running, start};

/// How long a client tries that is refused each time.
const REFUSED: Duration = Duration::from_millis(500);

enum Server {
    Kvorum(#[allow(dead_code)] Box<Running>),
    Etcd(#[allow(dead_code)] Member),
}

struct Secured {
    _server: Server,
    folder: tempfile::TempDir,
    authority: Authority,
    port: u16,
}

/// Both servers, or the one that there is.
fn servers() -> Vec<Secured> {
    let etcd = tools::or_skip(tools::etcd());
    std::iter::once(None).chain(etcd.map(Some)).map(Secured::start).collect()
}

impl Secured {
    /// Kvorum, or another program.
    fn start(program: Option<PathBuf>) -> Secured {
        let folder = tempfile::tempdir().unwrap();
        let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
        write(folder.path(), "ca.crt", authority.pem());
        write(folder.path(), "stranger-ca.crt", stranger.pem());
        let names = &["localhost", "etcd.test", "127.0.0.1"];
        write_pair(folder.path(), "server", &authority.issue(Wanted { names, ..Wanted::default() }));
        write_pair(folder.path(), "client", &authority.issue(Wanted::default()));
        write_pair(folder.path(), "stranger", &stranger.issue(Wanted::default()));
        let port = kvorum_interop::ports::free_port();
        let url = format!("https://127.0.0.1:{port}");
        let file = |name: &str| folder.path().join(name).display().to_string();
        // Of flags given twice the last counts.
        let flags = [
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--cert-file={}", file("server.crt")),
            format!("--key-file={}", file("server.key")),
            format!("--trusted-ca-file={}", file("ca.crt")),
            "--client-cert-auth".to_owned(),
        ];
        let server = match program {
            Some(program) => {
                let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
                Server::Etcd(Member::start(Kind::Server, &program, &flags).unwrap())
            }
            None => {
                let mut arguments = flags.to_vec();
                arguments.push(format!("--data-dir={}", file("data")));
                arguments.push("--listen-peer-urls=http://127.0.0.1:0".to_owned());
                let Ok(Command::Serve { config, .. }) = parse(&arguments, &[]) else { panic!("{arguments:?}") };
                Server::Kvorum(start(&config).unwrap().into())
            }
        };
        Secured { _server: server, folder, authority, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn identified(&self) -> Tls {
        Tls::new().identity_pem(self.read("client.crt"), self.read("client.key"))
    }

    fn config(&self, host: &str) -> Config {
        Config::new([format!("https://{host}:{}", self.port)]).dial_timeout(Duration::from_secs(2))
    }
}

#[tokio::test]
async fn certificates_are_checked() {
    for server in servers() {
        check_certificates(&server).await;
    }
}

async fn check_certificates(server: &Secured) {
    let trusting = || server.identified().ca_pem(server.read("ca.crt"));
    for host in ["localhost", "127.0.0.1"] {
        let client = Client::connect_with(server.config(host).tls(trusting()).unwrap()).await.unwrap();
        client.put("a", host).await.unwrap();
        assert_eq!(client.get("a").await.unwrap().kvs[0].value, host);
    }
    // An endpoint without a scheme is secure once TLS is configured.
    let config = Config::new([format!("localhost:{}", server.port)]).tls(trusting()).unwrap();
    Client::connect_with(config).await.unwrap();
    let named = trusting().server_name("etcd.test");
    Client::connect_with(server.config("127.0.0.1").tls(named).unwrap()).await.unwrap();
    let unchecked = server.identified().insecure_skip_verify();
    Client::connect_with(server.config("127.0.0.1").tls(unchecked).unwrap()).await.unwrap();

    let misnamed = trusting().server_name("other.test");
    let untrusted = server.identified().ca_pem(server.read("stranger-ca.crt"));
    let anonymous = Tls::new().ca_pem(server.read("ca.crt"));
    let stranger = anonymous.clone().identity_pem(server.read("stranger.crt"), server.read("stranger.key"));
    for tls in [misnamed, untrusted, anonymous, stranger] {
        let config = server.config("localhost").dial_timeout(REFUSED).tls(tls).unwrap();
        let error = Client::connect_with(config).await.err().unwrap();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert!(error.text().contains("localhost"), "{error}");
    }
}

/// A renewed certificate is shown, and a new authority believed, without a new client.
#[tokio::test]
async fn files_are_read_again_for_every_connection() {
    let server = Secured::start(None);
    let tls =
        Tls::new().ca_file(server.path("ca.crt")).identity_files(server.path("client.crt"), server.path("client.key"));
    // Each client of this configuration makes a connection of its own, as one does that lost its connection.
    let config = server.config("localhost").tls(tls).unwrap();
    Client::connect_with(config.clone()).await.unwrap().put("a", "1").await.unwrap();
    let expired = server.authority.issue(Wanted { years: (2000, 2001), ..Wanted::default() });
    write_pair(server.folder.path(), "client", &expired);
    let refused = config.clone().dial_timeout(REFUSED);
    Client::connect_with(refused.clone()).await.err().expect("the expired certificate is shown");
    write_pair(server.folder.path(), "client", &server.authority.issue(Wanted::default()));
    Client::connect_with(config.clone()).await.unwrap();
    write(server.folder.path(), "ca.crt", server.read("stranger-ca.crt"));
    Client::connect_with(refused.clone()).await.err().expect("another authority is believed");
    fs::remove_file(server.path("ca.crt")).unwrap();
    let error = Client::connect_with(refused).await.err().unwrap();
    assert!(error.text().contains("ca.crt"), "{error}");
}

/// What `openssl req -x509` makes is an authority; Go's clients take it for a server's certificate where it is trusted.
#[tokio::test]
async fn a_server_may_be_trusted_by_its_own_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "--auto-tls".to_owned(),
        format!("--data-dir={}", folder.path().display()),
        "--listen-client-urls=https://127.0.0.1:0".to_owned(),
        "--advertise-client-urls=https://127.0.0.1:0".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
    ];
    let Ok(Command::Serve { config, .. }) = parse(&arguments, &[]) else { panic!("{arguments:?}") };
    let member = start(&config).unwrap();
    let own = folder.path().join("fixtures/client/cert.pem");
    let config = |url: String, tls: Tls| Config::new([url]).dial_timeout(Duration::from_secs(2)).tls(tls).unwrap();
    let url = member.client_url();
    let client = Client::connect_with(config(url.clone(), Tls::new().ca_file(&own))).await.unwrap();
    client.put("a", "1").await.unwrap();
    let other_host = url.replace("127.0.0.1", "localhost");
    let refused = config(other_host, Tls::new().ca_file(&own)).dial_timeout(REFUSED);
    Client::connect_with(refused).await.err().expect("not for this host");
}

#[test]
fn what_cannot_work_is_refused() {
    for tls in [
        Tls::new().ca_pem("no certificate"),
        Tls::new().ca_pem("").identity_pem("", ""),
        Tls::new().insecure_skip_verify().identity_pem("nothing", "nothing"),
        Tls::new().server_name("not a name"),
    ] {
        let error = Config::default().tls(tls).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let secret =
        write(folder.path(), "broken.key", "-----BEGIN PRIVATE KEY-----\nsecret!\n-----END PRIVATE KEY-----\n");
    let authority = Authority::new("authority");
    let (certificate, key) = write_pair(folder.path(), "client", &authority.issue(Wanted::default()));
    let other = authority.issue(Wanted::default()).key;
    for (tls, named) in [
        (Tls::new().ca_file("/none/ca.crt"), "/none/ca.crt"),
        (Tls::new().insecure_skip_verify().identity_files("/none/client.crt", &key), "/none/client.crt"),
        (Tls::new().insecure_skip_verify().identity_files(&certificate, "/none/client.key"), "/none/client.key"),
        (Tls::new().insecure_skip_verify().identity_files(&certificate, &secret), "broken.key"),
        (
            Tls::new().insecure_skip_verify().identity_files(&certificate, write(folder.path(), "other.key", other)),
            "client.crt",
        ),
    ] {
        let error = Config::default().tls(tls).err().unwrap().to_string();
        assert!(error.contains(named) && !error.contains("secret!"), "{error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(Client::connect(["https://localhost:2379"])).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
}

#[tokio::test]
async fn the_name_in_a_certificate_is_a_user_and_a_token_counts_more() {
    for server in servers() {
        let with = |issued: Option<&'static str>| {
            let mut tls = Tls::new().ca_pem(server.read("ca.crt"));
            let wanted = Wanted { common_name: issued.unwrap_or_default(), ..Wanted::default() };
            let issued = server.authority.issue(wanted);
            tls = tls.identity_pem(issued.certificate, issued.key);
            server.config("localhost").tls(tls).unwrap()
        };
        let anonymous = Client::connect_with(with(None)).await.unwrap();
        let auth = anonymous.auth();
        auth.add_user("root", "secret").await.unwrap();
        auth.add_role("root").await.unwrap();
        auth.grant_role("root", "root").await.unwrap();
        auth.add_role("app").await.unwrap();
        auth.grant_permission("app", Permission::read_write("app/").prefix()).await.unwrap();
        auth.add_user_without_password("app").await.unwrap();
        auth.grant_role("app", "app").await.unwrap();
        auth.enable().await.unwrap();

        let app = Client::connect_with(with(Some("app"))).await.unwrap();
        app.put("app/a", "1").await.unwrap();
        assert!(app.put("b", "1").await.unwrap_err().is(EtcdError::PermissionDenied));
        let unknown = Client::connect_with(with(Some("somebody"))).await.unwrap();
        for nobody in [anonymous, unknown] {
            assert!(nobody.put("app/a", "2").await.unwrap_err().is(EtcdError::PermissionDenied));
        }
        let root = Client::connect_with(with(Some("app")).user("root", "secret")).await.unwrap();
        root.put("b", "1").await.unwrap();
    }
}
