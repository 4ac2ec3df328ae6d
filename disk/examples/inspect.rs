//! Says what a log holds, ours or etcd's: `cargo run -p kvorum-disk --example inspect -- DATA-DIR`. It opens the log as a
//! member would, so work on a copy: a torn tail is cut off.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use kvorum_disk::wal::valid_snapshot_entries;
use kvorum_disk::{FileSystem, RealFileSystem, SnapDirectory, Wal, WalOptions, WalSnapshot};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("name a data directory")?;
    let folder = Path::new(&folder).join("member");
    let files: Arc<dyn FileSystem> = Arc::new(RealFileSystem);
    let known = valid_snapshot_entries(&*files, &folder.join("wal"))?;
    for snapshot in &known {
        println!("recorded snapshot: {snapshot:?}");
    }
    let loaded = SnapDirectory::open(files.clone(), &folder.join("snap"))?.load_newest(&known)?;
    println!("broken snapshot files: {:?}", loaded.broken);
    let from = loaded.snapshot.map_or_else(WalSnapshot::default, |snapshot| {
        println!("newest snapshot: index {}, term {}, {} bytes", snapshot.index, snapshot.term, snapshot.data.len());
        WalSnapshot { index: snapshot.index, term: snapshot.term, conf_state: Some(snapshot.conf_state) }
    });
    let (wal, recovered) = Wal::open(files, &folder.join("wal"), &from, WalOptions::default())?;
    println!("{:?}, {:?}, repair {:?}", recovered.metadata, recovered.hard_state, recovered.repair);
    let indexes = recovered.entries.first().zip(recovered.entries.last());
    println!("{} entries, {:?}", recovered.entries.len(), indexes.map(|(first, last)| (first.index(), last.index())));
    println!("writes {} from here on", wal.segment_path().display());
    Ok(())
}
