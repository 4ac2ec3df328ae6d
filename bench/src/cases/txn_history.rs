//! Transactions on one key that has 100,000 revisions before the first is sent: if the key's mod revision is above 0 (it
//! always is), put 256 bytes. 10 x 50 streams, all on this key. A server that walks a key's history to find its newest
//! revision shows it here.

use kvorum_api::etcdserverpb::compare::CompareResult;

use super::Case;
use super::txn::compare_and_put;
use crate::requests::{self, PUT, TXN, VALUE_BYTES};

const REVISIONS: u64 = 100_000;

pub const CASE: Case = Case {
    name: "txn-history",
    about: "txn on a key with 100,000 revisions, 10 x 50",
    floor: true,
    run: |trial| {
        let server = trial.start()?;
        let key = requests::key("txn/", 0);
        let value = requests::value(VALUE_BYTES, 1);
        let put = requests::put_body(key.clone(), value.clone());
        trial.fill(&server, requests::each(PUT, REVISIONS, move |_| put.clone()))?;
        let body = compare_and_put(key, CompareResult::Greater, 0, value);
        let load = requests::repeat(TXN, body, 10, 50);
        Ok(vec![trial.measure(&server, vec![load])?.row(CASE.about, 0)])
    },
};
