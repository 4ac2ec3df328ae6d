//! How many descriptors the process may have, and who gets them. Files of the log must be opened while clients hold as many
//! connections as they can get: so connections have a bound below the process's, as in etcd.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{PEER_CONNECTIONS_MAX, PEER_DESCRIPTORS_DIVISOR, RESERVED_DESCRIPTORS};

/// Connections that may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    pub clients: usize,
    pub peers: usize,
}

/// The share of each kind of port, by what the process may have now. The error is etcd's text.
pub fn shares() -> Result<Shares, String> {
    let limit = getrlimit(Resource::Nofile).current;
    share(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
}

fn share(limit: usize) -> Result<Shares, String> {
    let left = limit.saturating_sub(RESERVED_DESCRIPTORS);
    if left == 0 {
        return Err(format!(
            "file descriptor limit of etcd process is too low; please set higher (limit {limit}, recommended-limit \
             {RESERVED_DESCRIPTORS})"
        ));
    }
    let peers = (left / PEER_DESCRIPTORS_DIVISOR).clamp(1, PEER_CONNECTIONS_MAX);
    Ok(Shares { clients: (left - peers).max(1), peers })
}

/// Lets the process have as many as the system allows it, as programs in Go do by themselves.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // What it has is enough to run with.
        let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        raised.unwrap_or(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_members_have_theirs() {
        assert_eq!(share(1024), Ok(Shares { clients: 656, peers: 218 }));
        assert_eq!(share(1 << 20), Ok(Shares { clients: (1 << 20) - 150 - 1024, peers: 1024 }));
        assert_eq!(share(151), Ok(Shares { clients: 1, peers: 1 }));
        assert!(share(150).is_err_and(|text| text.starts_with("file descriptor limit of etcd process is too low")));
        assert!(share(usize::MAX).is_ok());
    }
}
