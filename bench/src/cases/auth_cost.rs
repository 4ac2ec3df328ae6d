//! What authentication costs a put and a range of one key, in CPU of the server: the load of `put-10x50` and of `range-one` by
//! nobody and by a user with a role, and by a user with ten permissions and one with ten thousand. The two take turns on one
//! server in stretches of a quarter of the time, so that what else the machine does, and what grows, concerns both.

use super::{Case, auth};
use crate::figures::{Figure, Row};
use crate::load::Load;
use crate::requests::{self, PUT_KEYS, RANGE, VALUE_BYTES};
use crate::server::Server;
use crate::trial::{Measured, Trial};

/// Which of the two has its turn: each comes as often before as after the other.
const TURNS: [usize; 8] = [0, 1, 1, 0, 0, 1, 1, 0];
const TURNS_EACH: u32 = 4;

const USER: &str = "app";
const PERMISSIONS_FEW: u64 = 10;
const PERMISSIONS_PER_ROLE: u64 = 100;

pub const PUT: Case = Case {
    name: "auth-put",
    about: "put 256 B, 10 connections x 50 streams",
    floor: false,
    run: |trial| with_and_without(trial, trial.start()?, PUT.about, puts),
};

pub const RANGE_ONE: Case = Case {
    name: "auth-range-one",
    about: "range of one key, linearizable, 10 x 50",
    floor: false,
    run: |trial| with_and_without(trial, trial.start()?, RANGE_ONE.about, reads),
};

pub const SIGNED_PUT: Case = Case {
    name: "auth-jwt-put",
    about: "put 256 B, 10 x 50, JWT",
    floor: false,
    run: |trial| with_and_without(trial, trial.start_with_signed_tokens()?, SIGNED_PUT.about, puts),
};

pub const SIGNED_RANGE_ONE: Case = Case {
    name: "auth-jwt-range",
    about: "range of one key, linearizable, 10 x 50, JWT",
    floor: false,
    run: |trial| with_and_without(trial, trial.start_with_signed_tokens()?, SIGNED_RANGE_ONE.about, reads),
};

pub const PERMISSIONS_PUT: Case = Case {
    name: "permissions-put",
    about: "put 256 B, 10 x 50",
    floor: false,
    run: |trial| few_and_many(trial, PERMISSIONS_PUT.about, puts),
};

pub const PERMISSIONS_RANGE: Case = Case {
    name: "permissions-range",
    about: "range of one key, linearizable, 10 x 50",
    floor: false,
    run: |trial| few_and_many(trial, PERMISSIONS_RANGE.about, reads),
};

fn puts() -> Load {
    requests::puts(10, 50)
}

fn reads() -> Load {
    requests::repeat(RANGE, requests::read_body(requests::key("put/", 0)), 10, 50)
}

fn with_and_without(trial: &Trial, server: Server, label: &str, load: fn() -> Load) -> Result<Vec<Row>, String> {
    trial.fill(&server, requests::fill("put/", 1, VALUE_BYTES))?;
    auth::prepare(&server, USER, &["put/"])?;
    let measured = in_turns(
        trial,
        &server,
        load,
        |by_user| {
            if !by_user {
                return Ok(None);
            }
            auth::enable(&server)?;
            auth::log_in(&server, USER).map(Some)
        },
        |by_user| if by_user { auth::disable(&server) } else { Ok(()) },
    )?;
    Ok(rows([format!("{label}, without authentication"), format!("{label}, by a user")], measured))
}

/// The keys of the many are named one by one; the few are for a tenth of all keys each.
fn few_and_many(trial: &Trial, label: &str, load: fn() -> Load) -> Result<Vec<Row>, String> {
    let server = trial.start()?;
    trial.fill(&server, requests::fill("put/", 1, VALUE_BYTES))?;
    auth::add_role(&server, auth::ROOT)?;
    auth::add_user(&server, auth::ROOT, &[auth::ROOT.to_owned()])?;
    auth::add_role(&server, "few")?;
    let count = PUT_KEYS / PERMISSIONS_FEW;
    let few = requests::each(auth::ROLE_GRANT_PERMISSION, PERMISSIONS_FEW, move |number| {
        let begin = requests::key("put/", number * count);
        let end = requests::key("put/", (number + 1) * count - 1);
        // Ranges that touch would be one.
        crate::wire::frame(&auth::grant("few", &begin, &[&end[..], &[1]].concat()))
    });
    trial.fill(&server, few)?;
    let role = |number: u64| format!("many-{:03}", number / PERMISSIONS_PER_ROLE);
    let roles: Vec<String> = (0..PUT_KEYS).step_by(PERMISSIONS_PER_ROLE as usize).map(role).collect();
    for name in &roles {
        auth::add_role(&server, name)?;
    }
    let many = requests::each(auth::ROLE_GRANT_PERMISSION, PUT_KEYS, move |number| {
        crate::wire::frame(&auth::grant(&role(number), &requests::key("put/", number), &[]))
    });
    trial.fill(&server, many)?;
    auth::add_user(&server, "few", &["few".to_owned()])?;
    auth::add_user(&server, "many", &roles)?;
    auth::enable(&server)?;
    let log_in = |many| auth::log_in(&server, if many { "many" } else { "few" }).map(Some);
    let measured = in_turns(trial, &server, load, log_in, |_| Ok(()))?;
    let label = |count| format!("{label}, by a user with {count} permissions");
    Ok(rows([label(PERMISSIONS_FEW), label(PUT_KEYS)], measured))
}

/// What the load cost each of two: `begin` says by which token, and `end` follows.
fn in_turns(
    trial: &Trial,
    server: &Server,
    load: fn() -> Load,
    begin: impl Fn(bool) -> Result<Option<String>, String>,
    end: impl Fn(bool) -> Result<(), String>,
) -> Result<[Measured; 2], String> {
    let stretch = Trial { time: trial.time / TURNS_EACH, ..trial.clone() };
    let mut measured = [const { None::<Measured> }; 2];
    for turn in TURNS {
        let token = begin(turn == 1)?;
        let further = stretch.measure(server, vec![Load { token, ..load() }])?;
        end(turn == 1)?;
        match &mut measured[turn] {
            Some(measured) => measured.add(further),
            first => *first = Some(further),
        }
    }
    Ok(measured.map(|measured| measured.expect("each had its turn")))
}

fn rows(labels: [String; 2], measured: [Measured; 2]) -> Vec<Row> {
    let [before, after] = [0, 1].map(|side| measured[side].row(&labels[side], 0));
    let cpu = |row: &Row| row.figures.get(&Figure::ServerCpu).copied();
    let ratio = cpu(&before).zip(cpu(&after)).map(|(before, after)| after / before);
    let after = ratio.into_iter().fold(after, |row, ratio| row.with(Figure::CpuOverPlain, ratio));
    vec![before, after]
}
