//! Output of executions that was longer than an answer, kept for a while so that it can be read.

use std::collections::VecDeque;
use std::time::Duration;

use sandpit_messages::time::Moment;

/// How long output can be read after its execution ended.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Executions whose output is kept.
const COUNT_MAX: usize = 256;
/// Bytes of all output that is kept: what a face may cost its process.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// What one execution wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) execution: String,
    pub(super) sandbox: String,
    pub(super) exit_code: i64,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Written {
    fn bytes(&self) -> usize {
        self.stdout.len() + self.stderr.len()
    }
}

/// The last executions through this face.
#[derive(Debug, Default)]
pub(super) struct Kept {
    all: VecDeque<(Moment, Written)>,
    bytes: usize,
}

impl Kept {
    pub(super) fn keep(&mut self, now: Moment, written: Written) {
        self.bytes += written.bytes();
        self.all.push_back((now, written));
        self.forget(now);
    }

    /// Newest first.
    pub(super) fn all(&mut self, now: Moment) -> impl Iterator<Item = &Written> {
        self.forget(now);
        self.all.iter().rev().map(|(_, written)| written)
    }

    pub(super) fn find(&mut self, now: Moment, execution: &str) -> Option<&Written> {
        self.all(now).find(|written| written.execution == execution)
    }

    fn forget(&mut self, now: Moment) {
        while let Some((at, first)) = self.all.front() {
            let is_old = *at + AGE_MAX <= now;
            if !is_old && self.all.len() <= COUNT_MAX && self.bytes <= BYTES_MAX {
                return;
            }
            self.bytes -= first.bytes();
            self.all.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(number: usize, bytes: usize) -> Written {
        Written {
            execution: format!("x{number}"),
            sandbox: "i".to_owned(),
            exit_code: 0,
            stdout: "a".repeat(bytes),
            stderr: String::new(),
        }
    }

    #[test]
    fn the_oldest_go_by_age_by_count_and_by_size() {
        let mut kept = Kept::default();
        kept.keep(Moment::START, written(0, 1));
        assert!(kept.find(Moment::START + AGE_MAX / 2, "x0").is_some());
        assert!(kept.find(Moment::START + AGE_MAX, "x0").is_none());
        (0..COUNT_MAX + 5).for_each(|number| kept.keep(Moment::START, written(number, 1)));
        assert_eq!(kept.all(Moment::START).count(), COUNT_MAX);
        kept.keep(Moment::START, written(9_999, BYTES_MAX));
        let left: Vec<_> = kept.all(Moment::START).map(|one| one.execution.clone()).collect();
        assert_eq!(left, ["x9999"]);
        assert_eq!(kept.bytes, BYTES_MAX);
    }
}
