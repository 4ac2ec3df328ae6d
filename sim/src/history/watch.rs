//! The guarantees of watch streams (etcd's "KV API guarantees"): events are ordered, unique, atomic, reliable,
//! resumable, and bookmarkable by progress messages. One record is held against the order of writes.

use super::linearizable::Witness;
use super::model::{Event, Interval, KeyValue};
use super::{Time, Violation};

/// An event as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    pub event: Event,
    /// The key's value before, if the watch asked for it and there was one.
    pub previous: Option<KeyValue>,
}

/// One message of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    Created {
        revision: i64,
    },
    /// `revision` is the header's. `more`: the rest of the last revision is in the next message.
    Events {
        revision: i64,
        events: Vec<WatchEvent>,
        more: bool,
    },
    Progress {
        revision: i64,
    },
    /// Ended by the server; `compact_revision` is not 0 if that is why.
    Canceled {
        compact_revision: i64,
    },
}

/// One watch from its creation to its end. A client that goes on with another watch makes another record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRecord {
    pub client: u32,
    pub interval: Interval,
    /// 0: from now on.
    pub start_revision: i64,
    pub previous: bool,
    pub messages: Vec<(Time, WatchMessage)>,
    /// The recorder made sure, before it ended, that everything up to this revision must have arrived.
    pub complete_until: i64,
}

/// Checks one record.
pub fn check(record: &WatchRecord, witness: &Witness) -> Result<(), Violation> {
    let mut stream = Stream { record, witness, next: None, open: None, header: 0 };
    for (time, message) in &record.messages {
        stream.accept(*time, message)?;
    }
    if stream.open.is_some() {
        return Err(stream.violation("watch atomic", "the stream ended within a revision"));
    }
    match stream.next {
        Some(next) => stream.must_be_empty(next, record.complete_until, "at the end"),
        None => Ok(()),
    }
}

struct Stream<'a> {
    record: &'a WatchRecord,
    witness: &'a Witness,
    /// All events before this revision were delivered. `None` before the creation.
    next: Option<i64>,
    /// A revision of which a part was delivered, and how many events that was.
    open: Option<(i64, usize)>,
    header: i64,
}

impl Stream<'_> {
    fn violation(&self, guarantee: &'static str, text: impl Into<String>) -> Violation {
        let record = self.record;
        let from = format!("client {}, {:?} from {}", record.client, record.interval, record.start_revision);
        Violation::new(guarantee, format!("{from}: {}", text.into()))
    }

    fn accept(&mut self, time: Time, message: &WatchMessage) -> Result<(), Violation> {
        match message {
            WatchMessage::Created { revision } => {
                let start = self.record.start_revision;
                self.next = Some(if start > 0 { start } else { revision + 1 });
                self.rise(*revision)
            }
            WatchMessage::Events { revision, events, more } => {
                self.rise(*revision)?;
                for event in events {
                    self.event(time, event)?;
                }
                if !more {
                    self.close()?;
                }
                let last = events.last().map_or(0, |event| event.event.mod_revision());
                if last > *revision {
                    return Err(self.violation("watch ordered", format!("an event of {last} under header {revision}")));
                }
                Ok(())
            }
            WatchMessage::Progress { revision } => {
                self.rise(*revision)?;
                let Some(next) = self.next else { return Err(self.not_created()) };
                self.must_be_empty(next, *revision, "before a progress message that covers it")?;
                self.next = Some(next.max(revision + 1));
                Ok(())
            }
            WatchMessage::Canceled { .. } => Ok(()),
        }
    }

    fn not_created(&self) -> Violation {
        self.violation("watch ordered", "a message came before the watch was created")
    }

    /// Headers of one stream never go back.
    fn rise(&mut self, revision: i64) -> Result<(), Violation> {
        if revision < self.header {
            let text = format!("the header's revision went back from {} to {revision}", self.header);
            return Err(self.violation("watch bookmarkable", text));
        }
        self.header = revision;
        Ok(())
    }

    fn event(&mut self, time: Time, received: &WatchEvent) -> Result<(), Violation> {
        let Some(next) = self.next else { return Err(self.not_created()) };
        let revision = received.event.mod_revision();
        if self.open.is_some_and(|(open, _)| open != revision) {
            self.close()?;
        }
        let position = match self.open {
            Some((_, position)) => position,
            None if revision < self.next.unwrap_or(next) => {
                let text = format!("{} came although everything before {next} was delivered", received.event);
                return Err(self.violation("watch unique and ordered", text));
            }
            None => {
                self.must_be_empty(self.next.unwrap_or(next), revision - 1, "before a later event")?;
                0
            }
        };
        let Some(write) = self.witness.write(revision) else {
            return Err(self.violation("watch reliable", format!("{} was never written", received.event)));
        };
        if write.not_before > time {
            return Err(self.violation("watch reliable", format!("{} came before it was written", received.event)));
        }
        let mut wanted = write.events.iter().filter(|event| self.record.interval.contains(event.key()));
        match wanted.nth(position) {
            Some(event) if *event == received.event => {}
            other => {
                let wanted = other.map_or_else(|| "nothing more".to_owned(), Event::to_string);
                let text = format!("revision {revision} has {wanted} where {} came", received.event);
                return Err(self.violation("watch atomic", text));
            }
        }
        if self.record.previous {
            self.check_previous(revision, received)?;
        }
        self.open = Some((revision, position + 1));
        Ok(())
    }

    fn check_previous(&self, revision: i64, received: &WatchEvent) -> Result<(), Violation> {
        let before = self.witness.writes.iter().rev().filter(|write| write.revision < revision);
        let mut of_key = before.flat_map(|write| write.events.iter().rev()).filter(|e| e.key() == received.event.key());
        let wanted = match of_key.next() {
            Some(Event::Put(kv)) => Some(kv),
            Some(Event::Delete { .. }) | None => None,
        };
        if wanted == received.previous.as_ref() {
            return Ok(());
        }
        let text = format!("{} replaced {wanted:?}, told was {:?}", received.event, received.previous);
        Err(self.violation("watch reliable", text))
    }

    /// The events received so far are whole revisions.
    fn close(&mut self) -> Result<(), Violation> {
        let Some((revision, received)) = self.open.take() else { return Ok(()) };
        let wanted = self.count(revision);
        if received < wanted {
            let write = self.witness.write(revision);
            let text = format!("of revision {revision} came {received} of {wanted} events: {write:?}");
            return Err(self.violation("watch atomic", text));
        }
        self.next = Some(revision + 1);
        Ok(())
    }

    fn count(&self, revision: i64) -> usize {
        let events = self.witness.write(revision).map_or(&[][..], |write| &write.events);
        events.iter().filter(|event| self.record.interval.contains(event.key())).count()
    }

    fn must_be_empty(&self, from: i64, until: i64, when: &str) -> Result<(), Violation> {
        match (from.max(1)..=until).find(|revision| self.count(*revision) > 0) {
            Some(missing) => {
                Err(self.violation("watch reliable", format!("the events of revision {missing} are missing {when}")))
            }
            None => Ok(()),
        }
    }
}
