//! Times as the API writes them.

use std::fmt;
use std::time::Duration;

use sandpit_messages::time::WallTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const MICROS: u64 = 1_000_000;

/// A time in microseconds since 1970-01-01 UTC, written with exactly six fractional digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

/// The text is not a time of RFC 3339 after 1970.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a time as in 2026-11-23T14:18:53Z")]
pub struct NotATime(String);

impl Timestamp {
    /// Whole seconds since the Unix epoch.
    pub const fn seconds(self) -> u64 {
        self.0 / MICROS
    }

    /// This much later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Reads any time of RFC 3339, digits beyond microseconds cut off.
    ///
    /// # Errors
    /// [`NotATime`].
    pub fn parse(text: &str) -> Result<Self, NotATime> {
        parse(text).ok_or_else(|| NotATime(text.chars().take(64).collect()))
    }
}

impl From<WallTime> for Timestamp {
    fn from(time: WallTime) -> Self {
        Self(time.0.saturating_mul(1_000))
    }
}

impl From<Duration> for Timestamp {
    /// So long after the Unix epoch.
    fn from(since_epoch: Duration) -> Self {
        Self::default().plus(since_epoch)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = WallTime(self.0 / 1_000).rfc3339();
        write!(f, "{}{:03}Z", millis.trim_end_matches('Z'), self.0 % 1_000)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

fn parse(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(zone);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(clock, ':')?;
    let calendar = (1..=12).contains(&month) && (1..=month_days(year, month)).contains(&day);
    let of_day = hour < 24 && minute < 60 && second <= 60;
    if !calendar || !of_day || !(1_970..=9_999).contains(&year) {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    let seconds = seconds.checked_sub(offset(zone)?)?;
    let micros = u64::try_from(seconds).ok()?.checked_mul(MICROS)?;
    Some(Timestamp(micros + micros_of(fraction)?))
}

fn numbers<const N: usize>(text: &str, between: char) -> Option<[i64; N]> {
    let mut found = [0; N];
    let mut words = text.split(between);
    for slot in &mut found {
        let word = words.next()?;
        let digits = word.bytes().all(|byte| byte.is_ascii_digit()) && word.len() <= 4;
        *slot = digits.then(|| word.parse().ok()).flatten()?;
    }
    words.next().is_none().then_some(found)
}

fn micros_of(fraction: &str) -> Option<u64> {
    let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
    digits.then(|| six.parse().ok()).flatten()
}

/// Seconds that a clock with this zone is ahead of UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let [hours, minutes] = numbers(zone.get(1..)?, ':')?;
    let ahead = (hours < 24 && minutes < 60).then_some(hours * 3_600 + minutes * 60)?;
    Some(if zone.starts_with('-') { -ahead } else { ahead })
}

const fn month_days(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date, after Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms": years that begin in March, in eras of 400.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * march_month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}
