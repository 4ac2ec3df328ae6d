//! Where a migration takes place: three members with TLS on both ports, users and passwords, and the hands that stop and
//! start programs there. What is done with the cluster is done by `docs/operating/migrate.sh` as an operator runs it; this
//! only waits for the script to ask for a stop or a start.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvorum_client::{Client, Config, Permission, Tls};
use tempfile::TempDir;

use super::Programs;
use super::clients::PREFIX;
use crate::certificates::{Authority, Wanted, write, write_pair};
use crate::process::{Kind, Member, Place};
use crate::tools;

pub const ROOT: (&str, &str) = ("root", "the root's password");
pub const USER: (&str, &str) = ("app", "the app's password");

/// How often it is looked whether the script wants something.
const CHECK: Duration = Duration::from_millis(20);

/// How long a client waits for an answer, all that it repeats included.
const REQUEST: Duration = Duration::from_secs(5);

/// How often clients learn which members there are.
const SYNC: Duration = Duration::from_secs(1);

/// A member's place, whichever program runs there.
#[derive(Clone)]
pub struct Seat {
    pub name: String,
    process: Arc<Mutex<Member>>,
}

impl Seat {
    /// Runs on a thread where it may wait.
    async fn with<T: Send + 'static>(&self, work: impl FnOnce(&mut Member) -> T + Send + 'static) -> T {
        let process = Arc::clone(&self.process);
        let done =
            tokio::task::spawn_blocking(move || work(&mut process.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.expect("no panic")
    }

    async fn url(&self) -> String {
        self.with(|member| member.url().to_owned()).await
    }

    /// What the programs that ran here have said.
    pub async fn log(&self) -> String {
        self.with(|member| member.log()).await
    }
}

pub struct Site {
    folder: TempDir,
    flags: Vec<String>,
    programs: Programs,
    pub seats: Vec<Seat>,
    named: usize,
}

impl Site {
    /// Founds a cluster of three members of etcd, with a user that may do everything below [`PREFIX`].
    ///
    /// # Panics
    /// When a member does not start or refuses.
    pub async fn found(programs: &Programs, flags: &[String]) -> Site {
        let folder = TempDir::with_prefix("kvorum-interop-migration-").expect("a temporary folder");
        let authority = Authority::new("authority");
        write(folder.path(), "ca.crt", authority.pem());
        let names = &["127.0.0.1", "localhost"];
        let member = Wanted { common_name: "member", names, ..Wanted::default() };
        write_pair(folder.path(), "member", &authority.issue(member));
        write_pair(folder.path(), "client", &authority.issue(Wanted::default()));
        let file = |name: &str| folder.path().join(name).display().to_string();
        let mut all = Vec::new();
        for port in ["", "peer-"] {
            all.push(format!("--{port}cert-file={}", file("member.crt")));
            all.push(format!("--{port}key-file={}", file("member.key")));
            all.push(format!("--{port}trusted-ca-file={}", file("ca.crt")));
            all.push(format!("--{port}client-cert-auth"));
        }
        all.extend_from_slice(flags);
        let mut site = Site { folder, flags: all, programs: programs.clone(), seats: Vec::new(), named: 0 };
        let seats: Vec<Seat> = (0..3).map(|_| site.prepare()).collect();
        let mut initial = Vec::new();
        for seat in &seats {
            let peer_url = seat.with(|member| member.peer_url().to_owned()).await;
            initial.push(format!("{}={peer_url}", seat.name));
        }
        let etcd = site.programs.etcd.clone();
        let starts = seats.iter().map(|seat| {
            let place = Place { name: seat.name.clone(), initial_cluster: initial.join(","), existing: false };
            start(seat, &etcd, Some(place))
        });
        for started in futures_util::future::join_all(starts).await {
            started.expect("a founding member starts");
        }
        site.seats = seats;
        site.enable_authentication().await;
        site
    }

    fn prepare(&mut self) -> Seat {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        // The programs of both kinds run here in turn.
        let member = Member::prepare(Kind::Server, &self.programs.etcd, &flags).expect("a temporary folder");
        self.named += 1;
        Seat { name: format!("m{}", self.named), process: Arc::new(Mutex::new(member)) }
    }

    async fn enable_authentication(&self) {
        let client = Client::connect_with(self.config().await).await.expect("the cluster answers");
        let auth = client.auth();
        auth.add_role("everything").await.expect("a role");
        let permission = Permission::read_write(PREFIX).prefix();
        auth.grant_permission("everything", permission).await.expect("a permission");
        for ((user, password), role) in [(ROOT, "root"), (USER, "everything")] {
            if role == "root" {
                auth.add_role(role).await.expect("a role");
            }
            auth.add_user(user, password).await.expect("a user");
            auth.grant_role(user, role).await.expect("a role is given");
        }
        auth.enable().await.expect("authentication is enabled");
    }

    async fn urls(&self) -> Vec<String> {
        futures_util::future::join_all(self.seats.iter().map(Seat::url)).await
    }

    async fn config(&self) -> Config {
        let file = |name: &str| self.folder.path().join(name);
        let tls = Tls::new().ca_file(file("ca.crt")).identity_files(file("client.crt"), file("client.key"));
        let config = Config::new(self.urls().await).tls(tls).expect("the certificates are good");
        config.request_timeout(REQUEST).auto_sync(SYNC)
    }

    /// A client of its own, with its own connections.
    pub async fn client(&self, (user, password): (&str, &str)) -> Client {
        let config = self.config().await.user(user, password);
        Client::connect_with(config).await.expect("the cluster answers")
    }

    /// Hash of each member at a revision.
    pub async fn hashes(&self, revision: i64) -> Vec<u32> {
        let client = self.client(ROOT).await;
        let mut hashes = Vec::new();
        for url in self.urls().await {
            let answer = client.maintenance().at(&url).hash_kv(revision).await;
            hashes.push(answer.expect("the members are there").hash);
        }
        hashes
    }

    /// Stops the program at a seat and starts `binary` on the same data. On the way back the data are written out for it, as
    /// the document says.
    pub async fn in_place(&mut self, index: usize, binary: &Path, is_way_back: bool) {
        let seat = self.seats[index].clone();
        let data = seat.with(|member| member.folder().join("data")).await.display().to_string();
        let prepare = if is_way_back {
            let tool = tools::kvorumutl().display().to_string();
            format!(
                "rm -rf '{data}.kvorum' && '{tool}' export --data-dir '{data}' --to '{data}.etcd' && mv '{data}' \
                 '{data}.kvorum' && mv '{data}.etcd' '{data}' && "
            )
        } else {
            String::new()
        };
        let arguments = ["in-place".to_owned(), self.hook("stop"), prepare + &self.hook("start")];
        self.run_script(&arguments, &seat, binary).await;
    }

    /// A new member of this program takes the place of an old one.
    pub async fn replace(&mut self, index: usize, binary: &Path) {
        let new = self.prepare();
        let peer_url = new.with(|member| member.peer_url().to_owned()).await;
        let arguments = ["add".to_owned(), new.name.clone(), peer_url, self.hook("start")];
        self.run_script(&arguments, &new, binary).await;
        let old = self.seats[index].clone();
        self.seats.push(new);
        let arguments = ["remove".to_owned(), old.name.clone(), self.hook("stop")];
        self.run_script(&arguments, &old, binary).await;
        self.seats.remove(index);
    }

    /// A shell command that asks for something and waits until it was done.
    fn hook(&self, wish: &str) -> String {
        let folder = self.folder.path().display();
        format!(
            "printf %s \"${{INITIAL_CLUSTER:-}}\" >'{folder}/initial'; mkdir '{folder}/{wish}'; while [ -d '{folder}/{wish}' ]; do \
             sleep 0.02; done; [ ! -e '{folder}/failed' ]"
        )
    }

    /// Runs the operator's script to its end, and does what it asks for.
    ///
    /// # Panics
    /// When it fails.
    async fn run_script(&self, arguments: &[String], seat: &Seat, binary: &Path) {
        let folder = self.folder.path();
        let mut script = Command::new(tools::workspace_root().join("docs/operating/migrate.sh"));
        script.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        script.env("MIGRATE_CTL", tools::kvorumctl()).env("ETCDCTL_ENDPOINTS", self.urls().await.join(","));
        script.env("ETCDCTL_CACERT", folder.join("ca.crt")).env("ETCDCTL_CERT", folder.join("client.crt"));
        script.env("ETCDCTL_KEY", folder.join("client.key"));
        script.env("ETCDCTL_USER", ROOT.0).env("ETCDCTL_PASSWORD", ROOT.1);
        let script = tokio::task::spawn_blocking(move || tools::run(&mut script));
        let wishes: [(PathBuf, bool); 2] = [(folder.join("stop"), false), (folder.join("start"), true)];
        while !script.is_finished() {
            for (wish, is_start) in &wishes {
                if wish.is_dir() {
                    let done = if *is_start { self.start(seat, binary).await } else { stop(seat).await };
                    if let Err(reason) = done {
                        write(folder, "failed", reason);
                    }
                    std::fs::remove_dir(wish).expect("the script only waits");
                }
            }
            tokio::time::sleep(CHECK).await;
        }
        if let Err(said) = script.await.expect("no panic") {
            let failed = std::fs::read_to_string(folder.join("failed")).unwrap_or_default();
            panic!("{said}\n{failed}");
        }
    }

    async fn start(&self, seat: &Seat, binary: &Path) -> Result<(), String> {
        let initial_cluster = std::fs::read_to_string(self.folder.path().join("initial")).unwrap_or_default();
        let place = Place { name: seat.name.clone(), initial_cluster, existing: true };
        start(seat, binary, Some(place).filter(|place| !place.initial_cluster.is_empty())).await
    }
}

async fn start(seat: &Seat, binary: &Path, place: Option<Place>) -> Result<(), String> {
    let binary = binary.to_path_buf();
    seat.with(move |member| {
        member.set_binary(&binary);
        if let Some(place) = place {
            member.set_place(place);
        }
        member.restart()
    })
    .await
}

/// One that was removed ends by itself.
async fn stop(seat: &Seat) -> Result<(), String> {
    seat.with(|member| member.is_running().then(|| member.stop())).await;
    Ok(())
}
