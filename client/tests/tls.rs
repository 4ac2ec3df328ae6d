//! TLS against a real etcd that wants client certificates: trusted, by another name, not trusted, not checked. The
//! certificates are made by `openssl` for the test.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kvorum_client::{Client, Code, Config, ErrorKind, Tls};
use kvorum_interop::process::{Kind, Member};
use kvorum_interop::tools;

/// Makes an authority, a certificate of it for localhost, and one for a client.
fn certificates(folder: &Path) -> Result<(), String> {
    let path = |name: &str| folder.join(name).display().to_string();
    let make = |name: &str, subject: &str, more: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        command.args([
            "-subj",
            subject,
            "-keyout",
            &path(&format!("{name}.key")),
            "-out",
            &path(&format!("{name}.crt")),
        ]);
        tools::run(command.args(more)).map(drop)
    };
    let (ca, key) = (path("ca.crt"), path("ca.key"));
    let signed = ["-CA", &ca, "-CAkey", &key, "-addext", "basicConstraints=critical,CA:FALSE"];
    make("ca", "/CN=authority", &[])?;
    let names = ["-addext", "subjectAltName=DNS:localhost,DNS:etcd.test,IP:127.0.0.1"];
    make("server", "/CN=server", &[&signed[..], &names].concat())?;
    make("client", "/CN=client", &signed)?;
    make("stranger", "/CN=stranger", &[])
}

struct Secured {
    _member: Member,
    folder: tempfile::TempDir,
    port: u16,
}

impl Secured {
    fn start() -> Option<Secured> {
        let openssl = Command::new("openssl").arg("version").output();
        tools::or_skip(openssl.map_err(|_| "openssl not installed".to_owned()))?;
        let binary = tools::or_skip(tools::released("etcd"))?;
        let folder = tempfile::tempdir().unwrap();
        certificates(folder.path()).unwrap();
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
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let member = Member::start(Kind::Server, &binary, &flags).unwrap();
        Some(Secured { _member: member, folder, port })
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(PathBuf::from(self.folder.path()).join(name)).unwrap()
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
    let Some(server) = Secured::start() else { return };
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
    let untrusted = server.identified().ca_pem(server.read("stranger.crt"));
    let anonymous = Tls::new().ca_pem(server.read("ca.crt"));
    let stranger = anonymous.clone().identity_pem(server.read("stranger.crt"), server.read("stranger.key"));
    for tls in [misnamed, untrusted, anonymous, stranger] {
        let error = Client::connect_with(server.config("localhost").tls(tls).unwrap()).await.err().unwrap();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert!(error.text().contains("localhost"), "{error}");
    }
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(Client::connect(["https://localhost:2379"])).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
}
