//! `snapshot save`: a copy of a member's state in a file. The file stands under its name only when all of it is there, its
//! checksum was seen to be right, and it is on the disk; before, it is called `.part`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvorum_client::{Client, Error, ErrorKind};

use super::endpoint::client_at;
use super::global::Settings;
use super::output::print_bytes;
use super::progress::Progress;
use super::session::{error_text, status_text};
use super::{CLUSTER, session};
use crate::command::{Action, Command, EXIT_INTERRUPTED, Failure, Parsed};
use crate::{golang, print};

/// Whoever restores a snapshot sees every key: nobody else may read it.
const FILE_MODE: u32 = 0o600;

/// The time of a call without `--command-timeout`: a member may take long to make the copy. Whether it still lives is told by
/// the pings of the connection.
const UNLIMITED: Duration = Duration::from_secs(365 * 24 * 3600);

pub const COMMAND: Command = Command {
    name: "snapshot",
    operands: "<subcommand>",
    about: "Copies of a member's state",
    heading: CLUSTER,
    action: Action::Group(&[Command {
        name: "save",
        operands: "<filename>",
        about: "Writes a member's state to a file, for `snapshot restore`",
        action: Action::Perform(save),
        ..Command::EMPTY
    }]),
    ..Command::EMPTY
};

fn save(parsed: &Parsed) -> Result<(), Failure> {
    let [path] = &parsed.operands[..] else {
        return Err(Failure::usage("snapshot save expects one argument <filename>"));
    };
    let settings = Settings::read(parsed)?;
    let fail = |text: String| Failure::new(EXIT_INTERRUPTED, text);
    let [endpoint] = &settings.endpoints[..] else {
        let endpoints = settings.endpoints.join(" ");
        return Err(fail(format!("snapshot must be requested to one selected node, not multiple [{endpoints}]")));
    };
    session::block_on(async {
        let client = client_at(&settings, endpoint).await.map_err(|failure| fail(failure.message))?;
        let target = Path::new(path.os_text());
        let limit = if settings.has_command_timeout() { settings.command_timeout } else { UNLIMITED };
        let saved = tokio::time::timeout(limit, write(&settings, &client, target, limit)).await;
        let version = saved.unwrap_or_else(|_| Err("context deadline exceeded".to_owned())).map_err(fail)?;
        let mut text = format!("Snapshot saved at {path}\n");
        if !version.is_empty() {
            text += &format!("Server version {version}\n");
        }
        print_bytes(text.as_bytes())
    })
}

/// An error of the stream, of which clientv3 shows the whole status.
fn stream_text(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Etcd(_) => status_text(error),
        _ => error_text(error),
    }
}

/// Gives the storage version of what was written.
async fn write(settings: &Settings, client: &Client, target: &Path, limit: Duration) -> Result<String, String> {
    let mut part = Part::create(target)?;
    if !settings.has_command_timeout() {
        // Without a limit for the whole, a member that is not there would be waited for without end.
        let connection = client.connection().with_timeout(settings.dial_timeout);
        connection.ready().await.map_err(|error| error_text(&error))?;
    }
    let mut snapshot =
        client.with_timeout(limit).maintenance().snapshot().await.map_err(|error| stream_text(&error))?;
    let mut progress = Progress::new(print::size);
    let mut written: u64 = 0;
    loop {
        let piece = snapshot.next().await;
        let piece = piece.map_err(|error| format!("could not write snapshot: {}", stream_text(&error)))?;
        let Some(piece) = piece else { break };
        part.file.write_all(&piece).map_err(|error| {
            format!("could not write snapshot: write {}: {}", part.path.display(), golang::io_error_text(&error))
        })?;
        written += piece.len() as u64;
        progress.set(written, written + snapshot.remaining_bytes().unwrap_or(0));
    }
    drop(progress);
    part.become_file(target)?;
    Ok(snapshot.version().to_owned())
}

/// The file while it is not whole. Dropping it removes it.
struct Part {
    path: PathBuf,
    file: File,
    is_done: bool,
}

impl Part {
    fn create(target: &Path) -> Result<Self, String> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&path);
        let file = file.map_err(|error| {
            let (path, error) = (path.display(), golang::io_error_text(&error));
            format!("could not open {path} (open {path}: {error})")
        })?;
        Ok(Self { path, file, is_done: false })
    }

    /// Syncs the file, gives it its name, and syncs that.
    fn become_file(mut self, target: &Path) -> Result<(), String> {
        let sync = self.file.sync_all();
        sync.map_err(|error| format!("could not fsync snapshot: {}", golang::io_error_text(&error)))?;
        let renamed = match target.is_dir() {
            // As Go's rename says it.
            true => Err("file exists".to_owned()),
            false => std::fs::rename(&self.path, target).map_err(|error| golang::io_error_text(&error)),
        };
        renamed.map_err(|error| {
            let (part, target) = (self.path.display(), target.display());
            format!("could not rename {part} to {target} (rename {part} {target}: {error})")
        })?;
        self.is_done = true;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let sync = File::open(folder).and_then(|folder| folder.sync_all());
        sync.map_err(|error| format!("could not fsync snapshot: {}", golang::io_error_text(&error)))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_done {
            // Nobody can do anything with a part.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
