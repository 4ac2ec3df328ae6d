//! A member inside a program or a test: a port the system chooses, data in a folder of the caller's.
//!
//! ```no_run
//! let folder = std::path::Path::new("data");
//! let member = kvorum_server::embed::start(folder)?;
//! println!("etcdctl --endpoints {}", member.client_url());
//! # Ok::<(), kvorum_server::start::StartError>(())
//! ```

use std::path::Path;

use crate::config::Config;
use crate::start::{self, Running, StartError};
use crate::urls::Url;

/// Starts a member with etcd's defaults, its data in `data_dir` and a free port of 127.0.0.1. It stops when dropped;
/// after that the folder may be started again.
pub fn start(data_dir: &Path) -> Result<Running, StartError> {
    start::start(&config(data_dir))
}

/// The configuration [`start`] uses, to be changed and given to [`start::start`].
pub fn config(data_dir: &Path) -> Config {
    let any_port = Url::parse("http://127.0.0.1:0").expect("a valid URL");
    Config {
        data_dir: data_dir.to_owned(),
        listen_client_urls: vec![any_port.clone()],
        advertise_client_urls: vec![any_port.clone()],
        listen_peer_urls: vec![any_port],
        ..Config::default()
    }
}
