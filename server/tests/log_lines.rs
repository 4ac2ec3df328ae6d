//! What the binary logs: lines of JSON, nothing above `info` while nothing goes wrong, and never a secret.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kvorum_api::etcdserverpb as pb;
use kvorum_api::etcdserverpb::auth_client::AuthClient;
use kvorum_api::etcdserverpb::kv_client::KvClient;
use kvorum_api::etcdserverpb::lease_client::LeaseClient;
use serde_json::Value;

/// Killed when the test fails before it stops.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn line(text: &str) -> Value {
    let line: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    for field in ["level", "ts", "caller", "msg"] {
        assert!(line[field].is_string(), "{field} is missing: {text}");
    }
    line
}

#[tokio::test]
async fn a_normal_life_has_no_warnings() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for round in 0..2 {
        let mut server = Server(
            Command::new(env!("CARGO_BIN_EXE_kvorum"))
                .arg("--data-dir")
                .arg(folder.path().join("data"))
                .args(["--listen-client-urls", "http://127.0.0.1:0"])
                .args(["--advertise-client-urls", "http://127.0.0.1:2379"])
                .args(["--name", "one", "--snapshot-count", "20"])
                .env_clear()
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary was built for this test"),
        );
        let mut stderr = BufReader::new(server.0.stderr.take().expect("it is piped"));
        let mut said = String::new();
        let address = until_served(&mut stderr, &mut said);
        let mut lines: Vec<Value> = said.lines().map(line).collect();
        assert!(lines.iter().any(|line| line["msg"] == "ready to serve client requests"), "{lines:#?}");
        use_it(&format!("http://{address}")).await;
        let pid = rustix::process::Pid::from_child(&server.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).expect("text");
        assert!(server.0.wait().expect("it ends").success(), "{rest}");
        lines.extend(rest.lines().map(line));
        let loud: Vec<&Value> =
            lines.iter().filter(|line| !matches!(line["level"].as_str(), Some("info" | "debug"))).collect();
        assert!(loud.is_empty(), "round {round}: {loud:#?}");
        assert!(lines.iter().any(|line| line["msg"] == "saved snapshot"), "{lines:#?}");
    }
}

/// A folder that was there and that others may read is warned of, in etcd's words, and left as it is; what the member makes
/// in it is for its own user alone, whatever mask it was started with. (etcd 3.7.1 lets others write its `cert.pem` then, and
/// its log.)
#[tokio::test]
async fn cve_2020_15113_a_folder_that_others_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, log_file) = (folder.path().join("data"), folder.path().join("log"));
    std::fs::create_dir(&data).expect("a folder");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let mut server = Server(
        Command::new("/bin/sh")
            .args(["-c", "umask 0 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_kvorum"), "--data-dir"])
            .arg(&data)
            .args(["--listen-client-urls", "http://127.0.0.1:0", "--listen-peer-urls", "https://127.0.0.1:0"])
            .args(["--initial-advertise-peer-urls", "https://127.0.0.1:2380", "--peer-auto-tls"])
            .args(["--initial-cluster", "one=https://127.0.0.1:2380", "--name", "one", "--snapshot-count", "5"])
            .args(["--advertise-client-urls", "http://127.0.0.1:2379", "--log-outputs"])
            .arg(format!("stderr,{}", log_file.display()))
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built for this test"),
    );
    let mut stderr = BufReader::new(server.0.stderr.take().expect("it is piped"));
    let mut said = String::new();
    let address = until_served(&mut stderr, &mut said);
    use_it(&format!("http://{address}")).await;
    let pid = rustix::process::Pid::from_child(&server.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    stderr.read_to_string(&mut said).expect("text");
    assert!(server.0.wait().expect("it ends").success(), "{said}");
    let mut warnings: Vec<Value> = said.lines().map(line).filter(|line| line["level"] == "warn").collect();
    warnings.retain(|line| line["msg"] != "automatically generate certificates");
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert_eq!(warnings[0]["msg"], "check file permission");
    let error = format!(
        "directory \"{}\" exist, but the permission is \"drwxr-xr-x\". The recommended permission is \"-rwx------\" to \
         prevent possible unprivileged access to the data",
        data.display()
    );
    assert_eq!(warnings[0]["error"], error);
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&log_file)), (0o755, 0o644));
    let (mut folders, mut files) = (vec![data.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        assert!(folder == data || mode(&folder) == 0o700, "{}: {:o}", folder.display(), mode(&folder));
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    for made in ["fixtures/peer/key.pem", ".wal", ".snap", ".mdb"] {
        assert!(files.iter().any(|file| file.display().to_string().ends_with(made)), "{made}: {files:?}");
    }
}

/// Reads what the program says until it names the address that it serves clients at.
fn until_served(stderr: &mut impl BufRead, said: &mut String) -> String {
    loop {
        let from = said.len();
        assert_ne!(stderr.read_line(said).expect("text"), 0, "it ended: {said}");
        if let Some(address) = line(&said[from..])["address"].as_str() {
            return address.to_owned();
        }
    }
}

/// A bit of everything that clients do.
async fn use_it(url: &str) {
    let mut kv = KvClient::connect(url.to_owned()).await.expect("it is there");
    let mut last = 0;
    for number in 0..60 {
        let put = pb::PutRequest { key: vec![number % 7].into(), value: "v".into(), ..pb::PutRequest::default() };
        last = kv.put(put).await.expect("a put").into_inner().header.expect("a header").revision;
    }
    kv.put(pb::PutRequest::default()).await.expect_err("a bad request is the client's affair");
    kv.compact(pb::CompactionRequest { revision: last, physical: true }).await.expect("a compaction");
    let mut leases = LeaseClient::connect(url.to_owned()).await.expect("it is there");
    let lease = leases.lease_grant(pb::LeaseGrantRequest { ttl: 100, id: 0 }).await.expect("a lease").into_inner();
    leases.lease_revoke(pb::LeaseRevokeRequest { id: lease.id }).await.expect("a revocation");
}

/// etcd had passwords on a debug page (CVE-2021-28235) and tokens in its log (fixed in 3.6.7). Everything that the member
/// says at its most talkative, on all its pages, and everything that it keeps, is searched for them.
#[tokio::test]
async fn cve_2021_28235_no_secret_is_shown() {
    const KEY: &str = "the key that signs: 4f1c2ab97d";
    for kind in ["simple", "jwt"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key_file = folder.path().join("key");
        std::fs::write(&key_file, KEY).expect("a key");
        let auth_token = match kind {
            "simple" => kind.to_owned(),
            _ => format!("jwt,sign-method=HS256,priv-key={},ttl=5m", key_file.display()),
        };
        let data = folder.path().join("data");
        let log_file = folder.path().join("log");
        let mut server = Server(
            Command::new(env!("CARGO_BIN_EXE_kvorum"))
                .arg("--data-dir")
                .arg(&data)
                .args(["--listen-client-urls", "http://127.0.0.1:0", "--listen-peer-urls", "http://127.0.0.1:0"])
                .args(["--advertise-client-urls", "http://127.0.0.1:2379", "--name", "one", "--bcrypt-cost", "4"])
                .args(["--log-level", "debug", "--snapshot-count", "5", "--auth-token", &auth_token])
                .arg("--log-outputs")
                .arg(format!("stderr,{}", log_file.display()))
                .env_clear()
                .stderr(Stdio::piped())
                .spawn()
                .expect("the binary was built for this test"),
        );
        let mut stderr = BufReader::new(server.0.stderr.take().expect("it is piped"));
        let mut said = String::new();
        let address = until_served(&mut stderr, &mut said);
        // The pipe must not fill.
        let rest = std::thread::spawn(move || {
            let mut rest = String::new();
            stderr.read_to_string(&mut rest).expect("text");
            rest
        });
        let (passwords, tokens) = log_in_and_out(&format!("http://{address}")).await;
        for page in
            ["/metrics", "/debug/requests", "/debug/events", "/debug/vars", "/health", "/version", "/v3/auth/user/list"]
        {
            said.push_str(&ask(&address, page, &tokens[0]));
        }
        let pid = rustix::process::Pid::from_child(&server.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        assert!(server.0.wait().expect("it ends").success());
        said.push_str(&rest.join().expect("it reads to the end"));
        said.push_str(&std::fs::read_to_string(&log_file).expect("a log"));
        assert!(said.contains("\"debug\""), "it was to be talkative");
        assert!(said.contains("token-fingerprint"), "a refused token is told by its fingerprint");
        for secret in passwords.iter().chain(&tokens).map(String::as_str).chain([KEY]) {
            assert!(!said.contains(secret), "{kind}: {secret} was said");
        }
        let mut files = 0;
        search(&data, &passwords, &mut files);
        assert!(files >= 3, "{files} files were searched");
    }
}

/// Makes users, lets them in, refuses some, changes passwords. Returns the passwords and the tokens.
async fn log_in_and_out(url: &str) -> (Vec<String>, Vec<String>) {
    let mut auth = AuthClient::connect(url.to_owned()).await.expect("it is there");
    let mut kv = KvClient::connect(url.to_owned()).await.expect("it is there");
    let password = |what: &str| format!("password-{what}-91c7e05a");
    let with = |token: &str, name: &'static str| {
        let mut request = tonic::Request::new(pb::PutRequest { key: "k".into(), ..Default::default() });
        let value = if name == "token" { token.to_owned() } else { format!("Bearer {token}") };
        request.metadata_mut().insert(name, value.parse().expect("text"));
        request
    };
    let add = pb::AuthUserAddRequest { name: "root".to_owned(), password: password("root"), ..Default::default() };
    auth.user_add(add).await.expect("a user");
    let hashed = pb::AuthUserAddRequest { name: "other".to_owned(), password: password("other"), ..Default::default() };
    auth.user_add(hashed.clone()).await.expect("a user");
    auth.user_add(hashed).await.expect_err("it is there");
    let change = pb::AuthUserChangePasswordRequest {
        name: "other".to_owned(),
        password: password("changed"),
        ..Default::default()
    };
    auth.user_change_password(change).await.expect("another password");
    let long =
        pb::AuthUserAddRequest { name: "long".to_owned(), password: password("long").repeat(4), ..Default::default() };
    auth.user_add(long).await.expect_err("it is too long");
    let grant = pb::AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    auth.user_grant_role(grant).await.expect("a role");
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("root is there");
    let mut tokens = Vec::new();
    for (name, given, is_good) in
        [("root", "root", true), ("root", "wrong", false), ("other", "changed", true), ("nobody", "unknown", false)]
    {
        let request = pb::AuthenticateRequest { name: name.to_owned(), password: password(given) };
        match auth.authenticate(request).await {
            Ok(answer) if is_good => tokens.push(answer.into_inner().token),
            answer => assert!(answer.is_err() && !is_good, "{name}"),
        }
    }
    for name in ["token", "authorization"] {
        kv.put(with(&tokens[0], name)).await.expect("root may");
        kv.put(with(&tokens[1], name)).await.expect_err("it may not");
        for forged in ["forgedforgedforg.7", "eyJhbGciOiJub25lIn0.Zm9yZ2VkZm9yZ2Vk.AAAA"] {
            kv.put(with(forged, name)).await.expect_err("no token");
            tokens.push(forged.to_owned());
        }
    }
    for _ in 0..10 {
        kv.put(with(&tokens[0], "token")).await.expect("root may");
    }
    let passwords = ["root", "other", "changed", "long", "wrong", "unknown"].map(password);
    (passwords.to_vec(), tokens)
}

/// A page, asked for with a token.
fn ask(address: &str, page: &str, token: &str) -> String {
    let mut socket = TcpStream::connect(address).expect("the port is open");
    let request = format!("GET {page} HTTP/1.1\r\nHost: a\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("it is read");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("text");
    answer
}

/// Searches all files of a folder.
fn search(folder: &Path, secrets: &[String], files: &mut usize) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            search(&path, secrets, files);
            continue;
        }
        *files += 1;
        let contents = std::fs::read(&path).expect("a file");
        for secret in secrets {
            let found = contents.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {}", path.display());
        }
    }
}
