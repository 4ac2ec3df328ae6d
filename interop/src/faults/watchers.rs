//! Watching clients: each follows its keys on one member after the other, going on where the last stream ended, and keeps
//! a record of every watch. It compares nothing.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kvorum_api::etcdserverpb as pb;
use kvorum_sim::history::watch::WatchEvent;
use kvorum_sim::history::{Interval, WatchMessage, WatchRecord};
use pb::watch_request::RequestUnion;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::clients::channel;
use super::plant::Plant;
use super::recorder::Recorder;
use super::requests;
use crate::random::Random;

/// Watchers are numbered from here on.
pub const FIRST_NUMBER: u32 = 1_000;

/// A watch is given up after at most so long, or when it said nothing for so long.
const STAY_MILLISECONDS: (i64, i64) = (500, 8_000);

/// A watch whose creation is not told within this is given up.
const CREATION: Duration = Duration::from_secs(5);

/// How often progress is asked for at the end.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);

const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// One watching client.
pub struct Watcher {
    number: u32,
    interval: Interval,
    recorder: Arc<Recorder>,
    random: Random,
    channels: Vec<Channel>,
    plant: Option<Plant>,
    /// Where it goes on; 0 at first.
    resume: i64,
}

impl Watcher {
    pub fn new(index: u32, urls: &[String], recorder: Arc<Recorder>, random: Random, plant: Option<Plant>) -> Self {
        let interval = match index % 3 {
            0 | 1 => Interval::all(),
            _ => Interval { key: "k1".into(), range_end: "k4".into() },
        };
        let channels = urls.iter().map(|url| channel(url)).collect();
        Watcher { number: FIRST_NUMBER + index, interval, recorder, random, channels, plant, resume: 0 }
    }

    /// Follows until `last` names a revision and everything up to it has arrived.
    pub async fn run(mut self, mut last: watch::Receiver<Option<i64>>) {
        loop {
            let member = self.random.below(self.channels.len());
            let mut record = WatchRecord {
                client: self.number,
                interval: self.interval.clone(),
                start_revision: self.resume,
                previous: self.random.chance(25),
                messages: Vec::new(),
                complete_until: 0,
            };
            let complete = self.follow(member, &mut record, &mut last).await;
            self.resume = self.resume.max(next_revision(&record));
            if record.messages.iter().any(
                |(_, message)| matches!(message, WatchMessage::Canceled { compact_revision } if *compact_revision > 0),
            ) {
                self.resume = 0;
            }
            self.recorder.watched(record);
            if complete {
                return;
            }
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }

    /// Says whether everything is there that must be.
    async fn follow(
        &mut self,
        member: usize,
        record: &mut WatchRecord,
        last: &mut watch::Receiver<Option<i64>>,
    ) -> bool {
        let (requests, receiver) = mpsc::channel(4);
        let create = self.create_request(record);
        requests.send(request(RequestUnion::CreateRequest(create))).await.expect("the receiver is here");
        let mut client =
            pb::watch_client::WatchClient::new(self.channels[member].clone()).max_decoding_message_size(usize::MAX);
        let opened = tokio::time::timeout(CREATION, client.watch(ReceiverStream::new(receiver))).await;
        let Ok(Ok(responses)) = opened else { return false };
        let mut responses = responses.into_inner();
        let (shortest, longest) = STAY_MILLISECONDS;
        let stay = Duration::from_millis(self.random.between(shortest, longest).unsigned_abs());
        let mut until = Instant::now() + stay;
        let mut ask = tokio::time::interval(PROGRESS_PAUSE);
        loop {
            let wanted = *last.borrow();
            if wanted.is_some_and(|wanted| next_revision(record) > wanted) {
                record.complete_until = wanted.unwrap_or(0);
                return true;
            }
            tokio::select! {
                response = responses.next() => {
                    let Some(Ok(response)) = response else { return false };
                    if wanted.is_some() {
                        until = Instant::now() + stay;
                    }
                    if self.take(record, response) {
                        return false;
                    }
                }
                () = tokio::time::sleep_until(until) => return false,
                _ = ask.tick(), if wanted.is_some() && !record.messages.is_empty() => {
                    requests.send(request(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))).await.ok();
                }
                _ = last.changed() => {}
            }
        }
    }

    fn create_request(&self, record: &WatchRecord) -> pb::WatchCreateRequest {
        let late = self.plant == Some(Plant::LateWatches) && record.start_revision > 0;
        pb::WatchCreateRequest {
            key: record.interval.key.clone(),
            range_end: record.interval.range_end.clone(),
            start_revision: record.start_revision + i64::from(late),
            progress_notify: true,
            prev_kv: record.previous,
            ..pb::WatchCreateRequest::default()
        }
    }

    /// Says whether the watch is over.
    fn take(&self, record: &mut WatchRecord, response: pb::WatchResponse) -> bool {
        let time = self.recorder.now();
        let revision = response.header.map_or(0, |header| header.revision);
        if response.created {
            record.messages.push((time, WatchMessage::Created { revision }));
        }
        if response.canceled {
            let compact_revision = response.compact_revision;
            record.messages.push((time, WatchMessage::Canceled { compact_revision }));
            return true;
        }
        if !response.events.is_empty() {
            let event = |event| {
                let (event, previous) = requests::event(event);
                WatchEvent { event, previous }
            };
            let events = response.events.into_iter().map(event).collect();
            record.messages.push((time, WatchMessage::Events { revision, events, more: response.fragment }));
        } else if !response.created {
            record.messages.push((time, WatchMessage::Progress { revision }));
        }
        false
    }
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

/// The first revision of which a record says nothing.
fn next_revision(record: &WatchRecord) -> i64 {
    let told = record.messages.iter().rev().find_map(|(_, message)| match message {
        WatchMessage::Events { events, .. } => events.last().map(|event| event.event.mod_revision() + 1),
        WatchMessage::Progress { revision } => Some(revision + 1),
        _ => None,
    });
    told.unwrap_or(record.start_revision)
}
