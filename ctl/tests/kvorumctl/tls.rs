//! A member that asks for certificates. That refusals and errors are those of etcdctl is compared elsewhere (`interop`).

use std::path::Path;
use std::process::Command;

use kvorum_interop::certificates::{Authority, Wanted, write, write_pair};
use rustix::process::Signal;

use super::world::{Answer, Going, World, finish, words};

/// Flags for a command that is refused.
const SHORT: &str = "--command-timeout 300ms --dial-timeout 300ms";

/// A member, and a folder with an authority and certificates of it and of a stranger.
struct Secured {
    files: tempfile::TempDir,
    world: World,
}

impl Secured {
    fn new() -> Self {
        let files = tempfile::tempdir().expect("a folder");
        let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
        write(files.path(), "ca.crt", authority.pem());
        let names = &["127.0.0.1"];
        write_pair(files.path(), "server", &authority.issue(Wanted { names, ..Wanted::default() }));
        write_pair(files.path(), "client", &authority.issue(Wanted::default()));
        write_pair(files.path(), "stranger", &stranger.issue(Wanted::default()));
        let secured = |flags: &str| in_folder(files.path(), flags);
        let world = World::start_with(&[
            "--listen-client-urls=https://127.0.0.1:0",
            "--advertise-client-urls=https://127.0.0.1:0",
            "--client-cert-auth",
            &secured("--cert-file=@/server.crt"),
            &secured("--key-file=@/server.key"),
            &secured("--trusted-ca-file=@/ca.crt"),
        ]);
        Self { files, world }
    }

    /// A command line with variables; `@` stands for the folder in both.
    fn command(&self, line: &str, variables: &[(&str, &str)]) -> Command {
        let mut command = self.world.command(&words(&in_folder(self.files.path(), line)));
        command.envs(variables.iter().map(|(name, value)| (name, in_folder(self.files.path(), value))));
        command
    }

    fn run(&self, line: &str, variables: &[(&str, &str)]) -> Answer {
        finish(self.command(line, variables), "")
    }

    /// Starts a command that goes on, of a client that is believed.
    fn start(&self, line: &str) -> Going {
        Going::start(self.command(line, &KNOWN))
    }
}

fn in_folder(folder: &Path, text: &str) -> String {
    text.replace('@', &folder.display().to_string())
}

const KNOWN: [(&str, &str); 3] =
    [("KVORUMCTL_CACERT", "@/ca.crt"), ("KVORUMCTL_CERT", "@/client.crt"), ("KVORUMCTL_KEY", "@/client.key")];

#[test]
fn who_shows_a_certificate_is_served() {
    let secured = Secured::new();
    let flags = "--cacert @/ca.crt --cert @/client.crt --key @/client.key";
    let answer = secured.run(&format!("put a 1 {flags}"), &[]);
    assert_eq!((answer.code, &*answer.output, &*answer.errors), (0, "OK\n", ""));
    assert_eq!(secured.run("get a", &KNOWN).output, "a\n1\n");
    // Ours count before etcdctl's, flag by flag.
    let theirs = [("ETCDCTL_CACERT", "/none"), ("ETCDCTL_CERT", "@/stranger.crt"), ("ETCDCTL_KEY", "@/stranger.key")];
    assert_eq!(secured.run("get a", &[&KNOWN[..], &theirs].concat()).output, "a\n1\n");
    let mixed = [("ETCDCTL_CACERT", "@/ca.crt"), KNOWN[1], ("ETCDCTL_KEY", "@/client.key")];
    assert_eq!(secured.run("get a", &mixed).output, "a\n1\n");
    let unchecked = [("KVORUMCTL_INSECURE_SKIP_TLS_VERIFY", "true"), KNOWN[1], KNOWN[2]];
    assert_eq!(secured.run("get a", &unchecked).output, "a\n1\n");
    // An endpoint without a scheme is secure where anything says so, and is not otherwise.
    let address = secured.world.address();
    let always = [("KVORUMCTL_INSECURE_TRANSPORT", "false")];
    assert_eq!(secured.run(&format!("get a --endpoints {address}"), &[&KNOWN[..], &always].concat()).output, "a\n1\n");
    assert_eq!(secured.run(&format!("get a {SHORT} --endpoints {address}"), &[]).code, 1);
}

#[test]
fn who_is_not_believed_is_told_why() {
    let secured = Secured::new();
    for (line, detail) in [
        ("--cacert @/ca.crt", "CertificateRequired"),
        ("--cacert @/ca.crt --cert @/stranger.crt --key @/stranger.key", "UnknownCA"),
        ("--cert @/client.crt --key @/client.key", "ertificate"),
        ("--insecure-skip-tls-verify", "CertificateRequired"),
    ] {
        let answer = secured.run(&format!("get a {line} {SHORT}"), &[]);
        assert_eq!((answer.code, &*answer.output), (1, ""), "{line}: {answer:?}");
        assert!(answer.errors.starts_with("Error: context deadline exceeded\n"), "{line}: {answer:?}");
        assert!(answer.errors.contains(detail), "{line}: {answer:?}");
    }
}

#[test]
fn metrics_are_read_over_tls() {
    let secured = Secured::new();
    let address = secured.world.address();
    let written = secured.start("watch --prefix /etcdctl-check-datascale/ --rev 1");
    let check = secured.start(&format!("check datascale --endpoints {address}"));
    // It has read them once when it writes; interrupted, it reads them again.
    written.line();
    check.signal(Signal::INT);
    let answer = check.finish();
    let last = answer.output.lines().last();
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(last.is_some_and(|line| line.starts_with("PASS: Approximate system memory used : ")), "{answer:?}");
}

#[test]
fn a_mirror_is_written_over_tls() {
    let (source, destination) = (World::start(), Secured::new());
    source.output("put a 1");
    let flags = "--dest-cacert @/ca.crt --dest-cert @/client.crt --dest-key @/client.key";
    let line = format!("make-mirror https://{} {}", destination.world.address(), flags);
    let watch = destination.start("watch a --rev 1");
    let _mirror = source.spawn(&in_folder(destination.files.path(), &line));
    assert_eq!(watch.lines(3), ["PUT", "a", "1"]);
}
