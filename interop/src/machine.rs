//! A machine that can stop at any moment: a member on a disk that forgets, with everything that must be found on it. The
//! tests decide when it stops.

use std::path::PathBuf;

use crate::crash::{Known, Outcomes};
use crate::disk::{Fault, ForgetfulDisk, Forgetting};
use crate::process::{Kind, Member};
use crate::random::Random;
use crate::tools;

/// How often a member is stopped before the machine, in percent.
const STOPPED_PERCENT: usize = 10;

/// What such a test needs.
#[derive(Debug)]
pub struct Programs {
    pub server: PathBuf,
    pub library: PathBuf,
}

impl Programs {
    /// `None`, with a printed line, when one is missing.
    pub fn find() -> Option<Programs> {
        let server = tools::or_skip(tools::server_under_test())?;
        Some(Programs { server, library: tools::or_skip(tools::forgetful_disk())? })
    }
}

#[derive(Debug)]
pub struct Machine {
    pub member: Member,
    pub disk: ForgetfulDisk,
    pub known: Known,
    pub random: Random,
    /// Syncs of paths that contain this do nothing.
    pub deaf: Option<&'static str>,
}

impl Machine {
    /// With etcd's flags `arguments`; nothing runs yet.
    pub fn prepare(programs: &Programs, arguments: &[&str], random: Random) -> Machine {
        let member = Member::prepare(Kind::Server, &programs.server, arguments).expect("a member can be prepared");
        let disk = ForgetfulDisk::new(&programs.library, member.folder()).expect("a folder for what is remembered");
        Machine { member, disk, known: Known::default(), random, deaf: None }
    }

    /// Starts the member; the fault may strike before it is ready.
    pub fn start(&mut self, fault: Option<&Fault>) -> Result<(), String> {
        self.disk.arm(true).expect("a file can be made");
        self.member.set_environment(self.disk.environment(self.deaf, fault));
        self.member.restart()
    }

    /// Starts the member; the fault counts only once the disk is armed.
    pub fn start_unarmed(&mut self, fault: Option<&Fault>) -> Result<(), String> {
        self.disk.arm(false).expect("a file can be removed");
        self.member.set_environment(self.disk.environment(self.deaf, fault));
        self.member.restart()
    }

    /// Writes until a moment comes, then kills the process if it still runs, or now and then asks it to stop.
    pub async fn work(&mut self, acknowledgements: usize) -> Outcomes {
        let work = self.known.work(self.member.url(), &mut self.random, acknowledgements);
        work.moment().await;
        if self.random.chance(STOPPED_PERCENT) {
            self.member.stop();
        }
        self.member.kill();
        work.end().await
    }

    /// The machine stops.
    pub fn crash(&mut self) {
        let forgetting = if self.random.chance(50) { Forgetting::Everything } else { Forgetting::AnyPart };
        self.disk.crash(forgetting, &mut self.random).expect("what was not synced can be taken back");
    }

    /// Checks the member that runs again against everything that is known.
    pub async fn check(&mut self, outcomes: &Outcomes) -> Result<(), String> {
        self.known.check(self.member.url(), outcomes).await
    }
}
