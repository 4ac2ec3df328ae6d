//! A live cluster moves from etcd to Kvorum and back, in place and by replacing members, with TLS and users, while clients
//! write, watch and hold leases. `KVORUM_TEST_ETCD` names the etcd; `cargo xtask migrate` goes the way at length.

use std::time::Duration;

use kvorum_interop::migration::{Journey, Pace, Programs, Reports, Step, run};
use kvorum_interop::tools;

/// No waiting for connections to be five seconds old between two changes of members, cheap passwords, and members that come
/// late get a database instead of entries.
const FLAGS: [&str; 4] =
    ["--strict-reconfig-check=false", "--bcrypt-cost=4", "--snapshot-count=50", "--snapshot-catchup-entries=10"];

async fn go(steps: &[Step]) -> Option<Reports> {
    let (Some(kvorum), Some(etcd)) = (tools::or_skip(tools::server_under_test()), tools::or_skip(tools::etcd())) else {
        return None;
    };
    let pace = Pace {
        writers: 3,
        pause: Duration::from_millis(20),
        watchers: 2,
        leases: 3,
        lease_seconds: 60,
        calm: Duration::from_millis(200),
    };
    let flags = FLAGS.map(str::to_owned).to_vec();
    let journey = Journey { programs: Programs { kvorum, etcd }, steps: steps.to_vec(), pace, flags };
    let reports = run(&journey).await.unwrap_or_else(|wrong| panic!("{wrong}"));
    println!("{reports}");
    Some(reports)
}

#[tokio::test]
async fn on_the_same_directories() {
    go(&[Step::TakeOver, Step::GiveBack]).await;
}

#[tokio::test]
async fn by_replacing_members() {
    let Some(reports) = go(&[Step::ReplacedByKvorum, Step::ReplacedByEtcd]).await else { return };
    for step in &reports.steps {
        assert_eq!(step.databases_received, 3, "{}: each new member begins with the leader's database", step.step);
    }
}
