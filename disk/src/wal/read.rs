//! Reads older entries from a log that is being written, for peers that lag. It takes no lock, verifies checksums, and
//! stops at whatever it cannot read: the tail may be in the middle of a write.

use std::path::Path;

use kvorum_api::raftpb;

use super::WalOpenError;
use super::open::{decode_entry, owned, segment_files};
use super::record::{TYPE_CRC, TYPE_ENTRY};
use super::scan::{Scanner, Step};
use crate::file::read_whole;
use crate::{DiskError, FileSystem, OpenMode};

/// Entries from `low` on, without gaps, up to but without `high` and about `bytes_max` of data; at least one if the log
/// holds it. Empty if it does not, or not any more. An entry that was overwritten later may appear in its old version
/// when the newer one lies behind the end of what was read: whoever asks compares terms.
pub fn read_entries(
    file_system: &dyn FileSystem,
    directory: &Path,
    low: u64,
    high: u64,
    bytes_max: usize,
) -> Result<Vec<raftpb::Entry>, WalOpenError> {
    let segments = segment_files(file_system, directory)?;
    let Some(first) = segments.iter().rposition(|segment| segment.first_index <= low) else { return Ok(Vec::new()) };
    let mut entries: Vec<raftpb::Entry> = Vec::new();
    let mut bytes = 0;
    for segment in &segments[first..] {
        if segment.first_index > low + entries.len() as u64 {
            break;
        }
        let file = match file_system.open(&segment.path, OpenMode::Read) {
            Ok(file) => file,
            // Purged meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(DiskError::at("open", &segment.path)(error).into()),
        };
        let contents = read_whole(&*file).map_err(DiskError::at("read", &segment.path))?;
        let mut scanner = Scanner::new(&contents, 0, true);
        while let Step::Record { record, .. } = scanner.step() {
            if record.record_type == TYPE_CRC {
                scanner.chain = record.crc;
            }
            let Some(entry) = (record.record_type == TYPE_ENTRY).then(|| decode_entry(record.data)).flatten() else {
                continue;
            };
            if entry.index < low || entry.index >= high {
                continue;
            }
            let position = usize::try_from(entry.index - low).unwrap_or(usize::MAX);
            if position < entries.len() {
                bytes -= entries.drain(position..).map(|entry| entry.data().len()).sum::<usize>();
            }
            if position == entries.len() {
                bytes += entry.data.len();
                entries.push(owned(&entry));
            }
            if bytes >= bytes_max {
                return Ok(entries);
            }
        }
    }
    Ok(entries)
}

/// The first entry that the log may still hold, by the name of its oldest segment.
pub fn first_index(file_system: &dyn FileSystem, directory: &Path) -> Result<u64, WalOpenError> {
    let segments = segment_files(file_system, directory)?;
    Ok(segments.first().map_or(0, |segment| segment.first_index))
}
