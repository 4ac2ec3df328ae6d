//! Long histories with many clients and open outcomes, made by a model: all are accepted, quickly, and refused once one
//! reply is changed.

use std::collections::BTreeMap;

use super::super::model::Model;
use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn random_request(random: &mut Random, number: usize, leases: &mut i64) -> Request {
    let key = || -> Bytes { KEYS[number % KEYS.len()].into() };
    let value = Bytes::from(format!("v{number}"));
    match random.below(10) {
        0..=2 => Request::Put { key: key(), value, lease: 0 },
        3 => Request::Put { key: key(), value, lease: *leases },
        4 => delete(KEYS[random.below(5) as usize]),
        5 => {
            *leases += 1;
            Request::LeaseGrant { id: *leases, ttl_seconds: 10 }
        }
        6 => Request::LeaseRevoke { id: *leases },
        7 => Request::Txn {
            compares: vec![Compare {
                key: key(),
                relation: Relation::Greater,
                target: Target::Version(random.below(3) as i64),
            }],
            success: vec![Request::Put { key: key(), value: value.clone(), lease: 0 }, read("a")],
            failure: vec![Request::Put { key: "z".into(), value, lease: 0 }],
        },
        _ => read_all(),
    }
}

/// `clients` call one after the other; each operation happens at a random moment between call and return, some are
/// never answered, and of those half never happen.
fn make(seed: u64, operations: usize, clients: u32) -> Vec<Operation> {
    let mut random = Random(seed);
    let mut leases = 0;
    let mut history = Vec::new();
    let mut free_at = vec![0; clients as usize];
    let mut moments = BTreeMap::new();
    for number in 0..operations {
        let client = random.below(u64::from(clients)) as usize;
        let call = free_at[client] + random.below(100) * 1_000 + client as u64;
        let moment = call + 1 + random.below(200) * 1_000;
        let end = moment + 1 + random.below(200) * 1_000;
        free_at[client] = end + 1_000;
        let request = random_request(&mut random, number, &mut leases);
        let lost = random.below(20);
        let happens = lost != 0;
        let outcome = if lost < 2 { Outcome::Unknown } else { Outcome::NotTaken };
        history.push(Operation { client: client as u32, call, end, request, outcome });
        if happens {
            let moment = if lost == 1 { moment + random.below(5) * 1_000_000 } else { moment };
            moments.insert((moment, number), number);
        }
    }
    let mut model = Model::default();
    for number in moments.into_values() {
        let plan = model.plan(&history[number].request);
        model.carry_out(&plan);
        if history[number].outcome != Outcome::Unknown {
            history[number].outcome = match plan.answer {
                Ok(reply) => Outcome::Done { revision: model.revision, reply },
                Err(refusal) => Outcome::Refused(refusal),
            };
        }
    }
    history
}

#[test]
fn histories_of_a_model_are_accepted() {
    for seed in 0..20 {
        check(make(seed, 400, 8)).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
    check(make(100, 5_000, 20)).unwrap();
}

#[test]
fn a_changed_reply_is_noticed() {
    for seed in 0..20 {
        let mut history = make(seed, 300, 6);
        let mut random = Random(seed);
        let read = loop {
            let position = random.below(300) as usize;
            if let Outcome::Done { reply: Reply::Range { kvs }, .. } = &history[position].outcome
                && !kvs.is_empty()
            {
                break position;
            }
        };
        let Outcome::Done { reply: Reply::Range { kvs }, .. } = &mut history[read].outcome else { unreachable!() };
        match seed % 2 {
            0 => drop(kvs.pop()),
            _ => kvs[0].value = "other".into(),
        }
        check(history).expect_err("the read shows what never was");
    }
}
