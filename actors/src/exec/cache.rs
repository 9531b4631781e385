//! Results that answer for equal runs: what makes runs equal, and which results are kept.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sandpit_messages::exec::Executed;
use sandpit_messages::time::Moment;
use sandpit_sandbox::provider::Work;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::policy::Order;

/// What two runs must have in common for one result to answer for both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// Changes with the meaning of a key, so that old results never answer for new runs.
const KEY_VERSION: &[u8] = b"sandpit-exec-1";

impl Key {
    /// A key that stands for nothing but this number. For tests and the simulator.
    pub const fn numbered(number: u64) -> Self {
        let mut bytes = [0; 32];
        let number = number.to_be_bytes();
        let mut at = 0;
        while at < number.len() {
            bytes[at] = number[at];
            at += 1;
        }
        Self(bytes)
    }

    /// The key of a run in a fresh sandbox of a template with this digest.
    pub fn of(order: &Order, template: &str, digest: &str) -> Self {
        let mut fields = Fields(Sha256::new());
        fields.add(KEY_VERSION);
        fields.add(order.tenant.as_str().as_bytes());
        fields.add(template.as_bytes());
        fields.add(digest.as_bytes());
        match &order.work {
            Work::Cell { code, params, context: _ } => {
                fields.add(b"cell");
                fields.add(code.as_bytes());
                fields.add(params.as_deref().unwrap_or_default().as_bytes());
            }
            Work::Line(line) => {
                fields.add(b"line");
                fields.add(line.as_bytes());
            }
            Work::Program(words) => {
                fields.add(b"program");
                fields.add_all(words.iter().map(String::as_bytes));
            }
        }
        fields.add_all(order.env.iter().flat_map(|(k, v)| [k.as_bytes(), v.as_bytes()]));
        fields.add(&order.stdin);
        fields.add(order.cwd.as_deref().unwrap_or_default().as_bytes());
        fields.add_all(order.files.iter().flat_map(|(k, v)| [k.as_bytes(), v]));
        fields.add(&order.time_max.as_millis().to_be_bytes());
        fields.add(&order.output_max.to_be_bytes());
        Self(fields.0.finalize().into())
    }
}

/// Fields with their lengths in front, so that no two lists of fields look alike.
struct Fields(Sha256);

impl Fields {
    fn add(&mut self, field: &[u8]) {
        self.0.update((field.len() as u64).to_be_bytes());
        self.0.update(field);
    }

    fn add_all<'a>(&mut self, fields: impl Iterator<Item = &'a [u8]>) {
        let fields: Vec<_> = fields.collect();
        self.0.update((fields.len() as u64).to_be_bytes());
        fields.into_iter().for_each(|field| self.add(field));
    }
}

/// A JSON value as text in which equal values are equal: no white space, names in order.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let fields = sorted.into_iter().map(|(name, value)| {
                format!("{}:{}", Value::String(name.clone()), canonical(value))
            });
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(values) => {
            format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        plain => plain.to_string(),
    }
}

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest a result answers for equal runs.
    pub age_max: Duration,
    /// Bytes of all results.
    pub bytes_max: u64,
    /// Results.
    pub entries_max: usize,
    /// Bytes of output of one result; a longer one is not kept.
    pub output_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            age_max: Duration::from_secs(300),
            bytes_max: 64 * 1024 * 1024,
            entries_max: 4_096,
            output_max: 256 * 1024,
        }
    }
}

/// The results. Decides nothing about time by itself: whoever asks says what is too old.
#[derive(Debug)]
pub(super) struct Results {
    limits: Limits,
    kept: BTreeMap<Key, Kept>,
    /// Oldest first. A result made anew stands here twice; the older place counts for nothing.
    order: VecDeque<(Moment, Key)>,
    bytes: u64,
}

#[derive(Debug)]
struct Kept {
    result: Arc<Executed>,
    made_at: Moment,
    bytes: u64,
}

/// What a result takes beside its output: ids, figures, and its place in the maps.
const OVERHEAD: u64 = 1_024;

impl Results {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, kept: BTreeMap::new(), order: VecDeque::new(), bytes: 0 }
    }

    /// The result and its age, if there is one that is younger than both bounds.
    pub(super) fn get(
        &self,
        now: Moment,
        key: Key,
        age_max: Duration,
    ) -> Option<(Arc<Executed>, Duration)> {
        let kept = self.kept.get(&key)?;
        let age = now.since(kept.made_at);
        let fresh = age < age_max.min(self.limits.age_max);
        fresh.then(|| (Arc::clone(&kept.result), age))
    }

    /// Keeps a result, if it is one that may answer for others.
    pub(super) fn put(&mut self, now: Moment, key: Key, result: &Arc<Executed>) {
        let Executed { stdout, stderr, truncated, .. } = &**result;
        let shown = result.result.as_ref().map_or(0, String::len);
        let output = (stdout.len() + stderr.len() + shown) as u64;
        let whole = !truncated.stdout && !truncated.stderr && !result.timed_out && !result.lost;
        if result.exit_code != 0 || !whole || output > self.limits.output_max {
            return;
        }
        let bytes = output + OVERHEAD;
        let kept = Kept { result: Arc::clone(result), made_at: now, bytes };
        self.bytes += bytes;
        self.order.push_back((now, key));
        if let Some(older) = self.kept.insert(key, kept) {
            self.bytes -= older.bytes;
        }
        self.drop_surplus(now);
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn drop_surplus(&mut self, now: Moment) {
        let Limits { age_max, bytes_max, entries_max, .. } = self.limits;
        while let Some(&(made_at, key)) = self.order.front() {
            let surplus = self.bytes > bytes_max || self.order.len() > entries_max;
            if !surplus && now < made_at + age_max {
                break;
            }
            self.order.pop_front();
            if self.kept.get(&key).is_some_and(|kept| kept.made_at == made_at)
                && let Some(kept) = self.kept.remove(&key)
            {
                self.bytes -= kept.bytes;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use sandpit_messages::envelope::Tenant;
    use sandpit_messages::exec::Truncated;
    use sandpit_messages::id::{ExecId, SandboxId};

    use super::*;
    use crate::exec::policy::Place;

    fn order() -> Order {
        Order {
            tenant: Tenant::local(),
            place: Place::Fresh("base".to_owned()),
            work: Work::Cell {
                code: "1 + 1".to_owned(),
                params: Some("{}".to_owned()),
                context: None,
            },
            files: BTreeMap::new(),
            env: BTreeMap::new(),
            cwd: None,
            stdin: bytes::Bytes::new(),
            time_max: Duration::from_secs(60),
            cache: Some(Duration::from_secs(300)),
            output_max: 262_144,
            stream: false,
            id: None,
        }
    }

    #[test]
    fn every_field_of_a_run_makes_a_difference() {
        let base = order();
        let changed = [
            Order { work: Work::Line("1 + 1".to_owned()), ..base.clone() },
            Order {
                work: Work::Cell {
                    code: "1 + 2".to_owned(),
                    params: Some("{}".to_owned()),
                    context: None,
                },
                ..base.clone()
            },
            Order {
                work: Work::Cell {
                    code: "1 + 1".to_owned(),
                    params: Some("[]".to_owned()),
                    context: None,
                },
                ..base.clone()
            },
            Order { work: Work::Program(vec!["1".to_owned(), " + 1".to_owned()]), ..base.clone() },
            Order { work: Work::Program(vec!["1 +".to_owned(), " 1".to_owned()]), ..base.clone() },
            Order { env: [("A".to_owned(), "1".to_owned())].into(), ..base.clone() },
            Order { files: [("A".to_owned(), "1".into())].into(), ..base.clone() },
            Order { cwd: Some("/tmp".to_owned()), ..base.clone() },
            Order { stdin: "1".into(), ..base.clone() },
            Order { time_max: Duration::from_secs(61), ..base.clone() },
            Order { output_max: 1, ..base.clone() },
        ];
        let mut keys: Vec<_> = changed.iter().map(|order| Key::of(order, "base", "d")).collect();
        keys.push(Key::of(&base, "base", "d"));
        keys.push(Key::of(&base, "base", "e"));
        keys.push(Key::of(&base, "trading", "d"));
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
        assert_eq!(Key::of(&base, "base", "d"), Key::of(&order(), "base", "d"));
    }

    #[test]
    fn equal_values_are_written_alike() {
        let one: Value = serde_json::from_str(r#"{"b":[1, {"y":2,"x":1}], "a":"\""}"#).unwrap();
        assert_eq!(canonical(&one), r#"{"a":"\"","b":[1,{"x":1,"y":2}]}"#);
    }

    pub(crate) fn result(exit_code: i32, stdout: &str) -> Arc<Executed> {
        Arc::new(Executed {
            execution_id: ExecId::numbered(1),
            sandbox_id: SandboxId::numbered(1),
            process_id: "1".to_owned(),
            exit_code,
            stdout: stdout.to_owned(),
            stderr: String::new(),
            result: None,
            error: None,
            execution_time: 0.0,
            signal: None,
            timed_out: false,
            oom_killed: false,
            lost: false,
            truncated: Truncated::default(),
            context_kept: true,
            cpu_ms: 0.0,
            max_rss_mb: 0.0,
            survivors: 0,
            cached: false,
            age_ms: None,
            original_exec_id: None,
        })
    }

    fn at(seconds: u64) -> Moment {
        Moment::START + Duration::from_secs(seconds)
    }

    #[test]
    fn only_what_went_well_and_is_whole_is_kept() {
        let mut results = Results::new(Limits { output_max: 3, ..Limits::default() });
        let cut = Truncated { stdout: true, stderr: false };
        let cut = Arc::new(Executed { truncated: cut, ..(*result(0, "")).clone() });
        for bad in [result(1, ""), result(0, "four"), cut] {
            results.put(at(0), Key::numbered(1), &bad);
            assert_eq!(results.len(), 0);
        }
        results.put(at(0), Key::numbered(1), &result(0, "ok"));
        assert_eq!(results.len(), 1);
    }

    #[test]
    fn a_result_is_too_old_at_its_age_and_not_before() {
        let mut results = Results::new(Limits::default());
        let minute = Duration::from_secs(60);
        results.put(at(0), Key::numbered(1), &result(0, ""));
        assert!(results.get(at(59), Key::numbered(1), minute).is_some());
        assert!(results.get(at(60), Key::numbered(1), minute).is_none());
        assert!(results.get(at(299), Key::numbered(1), 60 * minute).is_some());
        assert!(results.get(at(300), Key::numbered(1), 60 * minute).is_none());
    }

    #[test]
    fn the_oldest_go_first_where_bytes_or_entries_are_over_the_bound() {
        let limits = Limits { entries_max: 2, ..Limits::default() };
        let mut results = Results::new(limits);
        for number in 0..3 {
            results.put(at(number), Key::numbered(number), &result(0, "x"));
        }
        assert_eq!((results.len(), results.bytes()), (2, 2 * (OVERHEAD + 1)));
        assert!(results.get(at(3), Key::numbered(0), Duration::from_secs(9)).is_none());

        let limits = Limits { bytes_max: OVERHEAD + 1, ..Limits::default() };
        let mut results = Results::new(limits);
        results.put(at(0), Key::numbered(0), &result(0, "x"));
        results.put(at(0), Key::numbered(1), &result(0, "x"));
        assert_eq!((results.len(), results.bytes()), (1, OVERHEAD + 1));
    }
}
