//! Versions as etcd stores and compares them: semantic versions, of which the cluster's keeps major and minor only.
//!
//! It knows no rule about which versions may live together; those who ask decide.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// The newest cluster version whose entries this store can apply: that of the release of etcd it behaves as. A member
/// stops on a newer one before it stores it, as etcd does.
pub const CLUSTER_VERSION_MAX: Version = Version::of(3, 7);

/// The first release that writes down the version of its storage.
pub const FIRST_STORAGE_VERSION: Version = Version::of(3, 6);

/// A semantic version, read as etcd's library reads it: three decimal numbers, then `-pre-release`, then `+metadata`.
#[derive(Clone, Debug, Default)]
pub struct Version {
    pub major: i64,
    pub minor: i64,
    pub patch: i64,
    pub pre_release: String,
    /// Shown and never compared.
    pub metadata: String,
}

/// The text is not a semantic version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAVersion;

impl fmt::Display for NotAVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not a semantic version")
    }
}

impl std::error::Error for NotAVersion {}

impl Version {
    /// `major.minor.0`, the form of a cluster version.
    pub const fn of(major: i64, minor: i64) -> Self {
        Self { major, minor, patch: 0, pre_release: String::new(), metadata: String::new() }
    }

    /// Without patch and what follows it.
    pub fn cluster(&self) -> Self {
        Self::of(self.major, self.minor)
    }

    /// `major.minor`, as etcd shows a cluster version to people and in replies.
    pub fn major_minor_text(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let (text, metadata) = text.split_once('+').unwrap_or((text, ""));
        let (text, pre_release) = text.split_once('-').unwrap_or((text, ""));
        let identifier = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        if !identifier(metadata) || !identifier(pre_release) {
            return Err(NotAVersion);
        }
        let mut parts = text.splitn(3, '.').map(|part| part.parse::<i64>().map_err(|_| NotAVersion));
        let mut number = || parts.next().unwrap_or(Err(NotAVersion));
        let (major, minor, patch) = (number()?, number()?, number()?);
        Ok(Self { major, minor, patch, pre_release: pre_release.to_owned(), metadata: metadata.to_owned() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if !self.pre_release.is_empty() {
            write!(formatter, "-{}", self.pre_release)?;
        }
        if !self.metadata.is_empty() {
            write!(formatter, "+{}", self.metadata)?;
        }
        Ok(())
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.major, self.minor, self.patch)
            .cmp(&(other.major, other.minor, other.patch))
            .then_with(|| compare_pre_releases(&self.pre_release, &other.pre_release))
    }
}

/// A pre-release comes before its release; its parts are compared one by one, numbers before words.
fn compare_pre_releases(left: &str, right: &str) -> Ordering {
    match (left.is_empty(), right.is_empty()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let (mut left, mut right) = (left.split('.'), right.split('.'));
    loop {
        let (one, other) = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(one), Some(other)) => (one, other),
        };
        let ordering = match (one.parse::<i64>(), other.parse::<i64>()) {
            (Ok(one), Ok(other)) => one.cmp(&other),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => one.cmp(other),
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().expect(text)
    }

    #[test]
    fn texts() {
        for (text, shown) in [
            ("3.7.0", "3.7.0"),
            ("03.7.00", "3.7.0"),
            ("3.7.0-rc.1", "3.7.0-rc.1"),
            ("3.7.0-rc.1+git", "3.7.0-rc.1+git"),
            ("3.7.0+a-b", "3.7.0+a-b"),
        ] {
            assert_eq!(version(text).to_string(), shown);
        }
        for text in
            ["", "3", "3.7", "3.7.x", "3.7.1.1", "v3.7.0", "3.7.0-rc_1", "not_decided", "99999999999999999999.0.0"]
        {
            assert_eq!(text.parse::<Version>(), Err(NotAVersion), "{text}");
        }
        assert_eq!(version("3.6.9-x").cluster().to_string(), "3.6.0");
        assert_eq!(version("3.6.9").major_minor_text(), "3.6");
    }

    #[test]
    fn order() {
        let ascending =
            ["2.9.9", "3.0.0", "3.6.9-alpha", "3.6.9-alpha.1", "3.6.9-beta", "3.6.9", "3.7.0-1", "3.7.0-x", "3.7.0"];
        for pair in ascending.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert_eq!(version("3.7.0+a"), version("3.7.0+b"));
    }
}
