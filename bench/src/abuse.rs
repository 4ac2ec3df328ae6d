//! `kvorum-bench abuse`: connections that mean no good, one kind after the other, against a server that a well-behaved client
//! uses meanwhile: how late its puts and reads become, and what the server's memory and descriptors come to. Each attack
//! gets a fresh server. It is the same load for both servers, and none that is tuned to one of them.

mod attacks;
mod frames;
mod handshakes;
mod logins;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::cases::auth;
use crate::control::Control;
use crate::process;
use crate::server::{Program, Server};
use crate::trial::{Measured, Trial};
use crate::{paced, requests};
use attacks::{ATTACKS, Attack, Needs};

const SECONDS_DEFAULT: f64 = 5.0;
/// Keys of the well-behaved client.
const NAME: &str = "abuse/";
/// How often memory and descriptors are looked at during an attack.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// After an attack, before the server is looked at for the last time.
const SETTLING: Duration = Duration::from_secs(1);
const MEBIBYTE: f64 = 1_048_576.0;

struct Options {
    programs: Vec<Program>,
    attacks: Vec<&'static Attack>,
    seconds: f64,
    folder: PathBuf,
}

/// What a server takes of the machine.
#[derive(Clone, Copy, Default)]
struct Use {
    resident_bytes: u64,
    descriptors: u64,
}

impl Use {
    fn of(pid: u32) -> Result<Use, String> {
        Ok(Use { resident_bytes: process::memory(pid)?.resident_bytes, descriptors: process::descriptors(pid)? })
    }

    fn larger(self, other: Use) -> Use {
        Use {
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }
}

/// Runs the command with the arguments after its name.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let options = parse(arguments)?;
    println!(
        "| attack | server | put p50, p99 ms | get p50, p99 ms | resident MB before, most, after | descriptors before, most, after | attempts/s | others' CPU |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for attack in &options.attacks {
        for program in &options.programs {
            match attempt(attack, program, &options) {
                Ok(row) => println!("| {} | {} | {row} |", attack.name, program.name),
                Err(error) => {
                    println!("| {} | {} | FAILED: {} | | | | | |", attack.name, program.name, error.replace('|', "/"))
                }
            }
        }
    }
    Ok(())
}

/// One attack on one server; the cells of its row.
fn attempt(attack: &Attack, program: &Program, options: &Options) -> Result<String, String> {
    let trial = Trial {
        program: program.clone(),
        folder: options.folder.clone(),
        time: Duration::from_secs_f64(options.seconds),
        keys: 0,
    };
    let (server, secured) = match attack.needs {
        Needs::Tls => {
            let (server, address, connector) = Server::start_with_tls_beside(program, &options.folder)?;
            (server, Some((address, connector)))
        }
        Needs::Nothing | Needs::Users => (trial.start()?, None),
    };
    trial.fill(&server, requests::fill(NAME, paced::KEYS, requests::VALUE_BYTES))?;
    let token = match attack.needs {
        Needs::Users => {
            auth::prepare(&server, logins::USER, &[NAME])?;
            auth::enable(&server)?;
            Some(auth::log_in(&server, logins::USER)?)
        }
        Needs::Nothing | Needs::Tls => None,
    };
    let before = Use::of(server.pid())?;
    let control = Arc::new(Control::default());
    let (ended, attempts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut most = before;
    let (address, work) = (server.address(), attack.run);
    let assault = attacks::Assault { address, secured, ended: Arc::clone(&ended), attempts: Arc::clone(&attempts) };
    let attacker = std::thread::spawn(move || work(&assault));
    let token = token.as_deref();
    let loads = vec![paced::spawn(&server, &control, NAME, token), paced::spawn_reads(&server, &control, NAME, token)];
    let mut counted = 0;
    let measured = trial.record_while(&server, &control, loads, || {
        let from = attempts.load(Ordering::Relaxed);
        let until = std::time::Instant::now() + trial.time;
        while std::time::Instant::now() < until {
            control.wait(LOOK_INTERVAL)?;
            most = most.larger(Use::of(server.pid())?);
        }
        counted = attempts.load(Ordering::Relaxed) - from;
        Ok(())
    });
    ended.store(true, Ordering::Relaxed);
    attacker.join().map_err(|_| "the attacker panicked".to_owned())?;
    let (measured, ()) = measured?;
    std::thread::sleep(SETTLING);
    let after = Use::of(server.pid())?;
    Ok(row(&measured, [before, most, after], counted))
}

fn row(measured: &Measured, uses: [Use; 3], attempts: u64) -> String {
    let latency = |load: usize| {
        let at =
            |share| measured.tallies[load].latency.percentile(share).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
        format!("{:.2}, {:.2}", at(0.5), at(0.99))
    };
    let memory = uses.map(|used| format!("{:.0}", used.resident_bytes as f64 / MEBIBYTE)).join(", ");
    let descriptors = uses.map(|used| used.descriptors.to_string()).join(", ");
    let rate = attempts as f64 / measured.elapsed().as_secs_f64();
    let others = measured.foreign_share() * 100.0;
    format!("{} | {} | {memory} | {descriptors} | {rate:.0} | {others:.0} %", latency(0), latency(1))
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options {
        programs: Vec::new(),
        attacks: ATTACKS.iter().collect(),
        seconds: SECONDS_DEFAULT,
        folder: "target/bench".into(),
    };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--etcd" | "--kvorum" => {
                options.programs.push(Program { name: name[2..].to_owned(), path: value.into(), floor: false });
            }
            "--seconds" => options.seconds = value.parse().map_err(|error| format!("--seconds: {error}"))?,
            "--dir" => options.folder = value.into(),
            "--only" => options.attacks = value.split(',').map(attacks::named).collect::<Result<_, _>>()?,
            other => return Err(format!("unknown option {other}")),
        }
    }
    if options.programs.is_empty() {
        return Err("name a server: --etcd PATH, --kvorum PATH".to_owned());
    }
    raise_descriptors();
    std::fs::create_dir_all(&options.folder).map_err(|error| format!("{}: {error}", options.folder.display()))?;
    Ok(options)
}

/// Attackers hold thousands of connections.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // With fewer the attacks are weaker.
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap_or(());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let line = format!("--kvorum k --only pings,idle --seconds 1 --dir {}", folder.path().display());
        let options = parse(&words(&line)).expect("they are good");
        assert_eq!(options.attacks.iter().map(|attack| attack.name).collect::<Vec<_>>(), ["pings", "idle"]);
        for wrong in ["--only nothing --kvorum k", "--seconds", "--seconds x", "--other 1"] {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
