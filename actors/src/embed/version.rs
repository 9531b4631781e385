//! Which nats-servers will do.

use std::fmt;

use crate::bus::nats::SERVER_MIN;

/// The oldest.
pub(crate) const MIN: (u32, u32) = SERVER_MIN;

/// A server's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Before the first dot.
    pub major: u32,
    /// After it.
    pub minor: u32,
    /// After the second.
    pub patch: u32,
}

impl Version {
    /// Reads `2.11.3`, with or without a `v`, and whatever follows the numbers.
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut words = text.strip_prefix('v').unwrap_or(text).splitn(3, '.');
        let mut number = || {
            let word = words.next()?;
            let end = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
            word[..end].parse().ok()
        };
        Some(Self { major: number()?, minor: number()?, patch: number()? })
    }

    /// Reads what `nats-server --version` prints.
    pub(crate) fn of_output(text: &str) -> Option<Self> {
        text.lines().find_map(|line| Self::read(line.trim().strip_prefix("nats-server:")?))
    }

    /// Whether it is this one or a later one.
    pub fn at_least(&self, (major, minor): (u32, u32)) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let check = |text: &str, expected: Option<&str>| {
            let read = Version::read(text).map(|version| version.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        };
        check("2.15.1", Some("2.15.1"));
        check("v2.11.0-RC.2", Some("2.11.0"));
        check("2.11", None);
        check("two", None);
        let enough = |text| Version::read(text).unwrap().at_least(MIN);
        assert!(enough("2.11.0") && enough("2.15.1") && enough("3.0.0"));
        assert!(!enough("2.10.25") && !enough("2.9.10"));
        assert_eq!(Version::of_output("nats-server: v2.9.10\n"), Version::read("2.9.10"));
        assert_eq!(Version::of_output("bash: not found"), None);
    }
}
