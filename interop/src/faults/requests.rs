//! Between the history and the wire: what a client sends for a request, and what an answer or an error says. An error
//! that leaves open whether something happened is never taken for one that does not.

use std::error::Error;
use std::io;

use futures_util::StreamExt;
use kvorum_api::{EtcdError, etcdserverpb as pb, mvccpb};
use kvorum_sim::convert;
use kvorum_sim::history::{Event, KeyValue, Outcome, Refusal, Reply, Request};
use pb::response_op::Response;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

/// Sends a request and waits for what it says. Deadlines are the caller's: whoever drops this leaves the outcome open.
pub async fn send(channel: &Channel, request: &Request) -> Outcome {
    let answered = match request {
        Request::LeaseKeepAlive { id } => keep_alive(channel, *id).await,
        Request::Range { interval, revision, serializable } => {
            let range = pb::RangeRequest { serializable: *serializable, ..convert::to_range(interval, *revision) };
            kv(channel).range(range).await.map(|response| {
                let response = response.into_inner();
                done(response.header, Reply::Range { kvs: kvs(response.kvs) })
            })
        }
        _ => send_entry(channel, request).await,
    };
    answered.unwrap_or_else(|status| refusal(request, &status))
}

fn kv(channel: &Channel) -> pb::kv_client::KvClient<Channel> {
    pb::kv_client::KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX)
}

/// What goes through the log.
async fn send_entry(channel: &Channel, request: &Request) -> Result<Outcome, Status> {
    let entry = convert::to_entry(request).expect("all others go through the log");
    let mut lease = pb::lease_client::LeaseClient::new(channel.clone());
    if let Some(put) = entry.put {
        return Ok(done(kv(channel).put(put).await?.into_inner().header, Reply::Put));
    }
    if let Some(delete) = entry.delete_range {
        let response = kv(channel).delete_range(delete).await?.into_inner();
        return Ok(done(response.header, Reply::Delete { deleted: response.deleted }));
    }
    if let Some(txn) = entry.txn {
        let response = kv(channel).txn(txn).await?.into_inner();
        let replies = response.responses.into_iter().map(part).collect::<Option<_>>();
        let replies = replies.ok_or_else(|| Status::internal("an answer without contents"))?;
        return Ok(done(response.header, Reply::Txn { succeeded: response.succeeded, replies }));
    }
    if let Some(grant) = entry.lease_grant {
        let response = lease.lease_grant(grant).await?.into_inner();
        return Ok(done(response.header, Reply::LeaseGrant { ttl_seconds: response.ttl }));
    }
    let revoke = entry.lease_revoke.expect("it is the last kind");
    Ok(done(lease.lease_revoke(revoke).await?.into_inner().header, Reply::LeaseRevoke))
}

async fn keep_alive(channel: &Channel, id: i64) -> Result<Outcome, Status> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(pb::LeaseKeepAliveRequest { id }).await.expect("the receiver is below");
    let mut lease = pb::lease_client::LeaseClient::new(channel.clone());
    let mut responses = lease.lease_keep_alive(ReceiverStream::new(receiver)).await?.into_inner();
    let response = responses.next().await.ok_or_else(|| Status::unavailable("the stream ended"))??;
    Ok(match response.ttl {
        0 => Outcome::Refused(Refusal::LeaseNotFound),
        ttl_seconds => done(response.header, Reply::LeaseKeepAlive { ttl_seconds }),
    })
}

fn done(header: Option<pb::ResponseHeader>, reply: Reply) -> Outcome {
    Outcome::Done { revision: header.map_or(0, |header| header.revision), reply }
}

fn part(response: pb::ResponseOp) -> Option<Reply> {
    Some(match response.response? {
        Response::ResponsePut(_) => Reply::Put,
        Response::ResponseRange(range) => Reply::Range { kvs: kvs(range.kvs) },
        Response::ResponseDeleteRange(delete) => Reply::Delete { deleted: delete.deleted },
        Response::ResponseTxn(_) => return None,
    })
}

fn kvs(kvs: Vec<mvccpb::KeyValue>) -> Vec<KeyValue> {
    kvs.into_iter().map(convert::from_kv).collect()
}

/// An event of a watch.
pub fn event(event: mvccpb::Event) -> (Event, Option<KeyValue>) {
    let previous = event.prev_kv.map(convert::from_kv);
    let kv = convert::from_kv(event.kv.unwrap_or_default());
    match event.r#type {
        kind if kind == mvccpb::event::EventType::Put as i32 => (Event::Put(kv), previous),
        _ => (Event::Delete { key: kv.key, mod_revision: kv.mod_revision }, previous),
    }
}

fn refusal(request: &Request, status: &Status) -> Outcome {
    let says = |error: EtcdError| status.message() == error.text();
    if says(EtcdError::LeaseNotFound) {
        return Outcome::Refused(Refusal::LeaseNotFound);
    }
    if says(EtcdError::LeaseExist) {
        return Outcome::Refused(Refusal::LeaseExists);
    }
    if matches!(request, Request::Range { .. }) || says(EtcdError::RequestTooManyRequests) || was_not_sent(status) {
        return Outcome::NotTaken;
    }
    Outcome::Unknown
}

/// Whether there was nobody to connect to.
fn was_not_sent(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}
