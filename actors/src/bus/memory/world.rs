//! What the server would know: connections, subscriptions, and messages on their way.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sandpit_messages::time::Moment;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::super::service::Delivered;
use super::super::{BusState, Message, SendError};
use super::SERVER;
use super::kv::{BucketState, KvFaults};
use crate::clock::Clock;

/// How long a broken connection goes unnoticed.
const UNNOTICED: Duration = Duration::from_millis(1);
/// Messages kept while a broken connection is not noticed, as in the real one.
const KEPT_MAX: usize = 256;

/// How messages travel over one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// One way.
    pub delay: Duration,
    /// Up to this much more.
    pub jitter: Duration,
    /// Whether jitter lets messages overtake each other.
    pub reorder: bool,
    /// Share of messages that are lost, 0 to 1.
    pub loss: f64,
    /// Share of messages that come twice, 0 to 1.
    pub duplicate: f64,
    /// Nothing from us arrives anywhere.
    pub mute: bool,
    /// Nothing arrives here.
    pub deaf: bool,
}

/// What came to an inbox.
#[derive(Debug)]
pub(super) enum Heard {
    Answer(Message),
    NoResponders,
}

/// Who listens.
#[derive(Clone, Debug)]
pub(super) enum Ear {
    Feed { tell: mpsc::Sender<Message>, count: watch::Sender<u64> },
    Service(mpsc::Sender<Delivered>),
}

impl Ear {
    fn gone(&self) -> bool {
        match self {
            Self::Feed { tell, .. } => tell.is_closed(),
            Self::Service(tell) => tell.is_closed(),
        }
    }

    /// A full one drops what is new.
    fn hear(&self, delivered: Delivered) {
        match self {
            Self::Feed { tell, count } => {
                if tell.try_send(delivered.message).is_err() {
                    count.send_modify(|count| *count += 1);
                }
            }
            Self::Service(tell) => drop(tell.try_send(delivered)),
        }
    }
}

struct Subscription {
    connection: usize,
    pattern: Vec<String>,
    group: Option<String>,
    ear: Ear,
}

struct Connection {
    link: Link,
    state: watch::Sender<BusState>,
    /// Broken, whether or not that was noticed.
    broken: bool,
    /// Counts breaks, so that a late notice of an earlier one does nothing.
    breaks: u64,
    kept: VecDeque<Delivered>,
    /// When its last message arrives, so that none overtakes it.
    out_last: Moment,
    in_last: Moment,
}

enum OnTheWay {
    /// From a connection to the server.
    Up { from: usize, delivered: Delivered },
    /// From the server to a subscription.
    Down { ear: Ear, delivered: Delivered },
    /// From the server to a question.
    Answer { inbox: String, heard: Heard },
}

pub(super) struct World {
    pub(super) random: ChaCha8Rng,
    pub(super) kv_faults: KvFaults,
    pub(super) buckets: BTreeMap<String, BucketState>,
    pub(super) inboxes: BTreeMap<String, (usize, oneshot::Sender<Heard>)>,
    connections: Vec<Connection>,
    subscriptions: BTreeMap<u64, Subscription>,
    on_the_way: BTreeMap<(Moment, u64), OnTheWay>,
    counter: u64,
}

pub(super) struct Hub {
    pub(super) clock: Clock,
    world: Mutex<World>,
    sooner: Notify,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    pub(super) fn new(clock: Clock, seed: u64) -> Arc<Self> {
        let world = World {
            random: ChaCha8Rng::seed_from_u64(seed),
            kv_faults: KvFaults::default(),
            buckets: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            connections: Vec::new(),
            subscriptions: BTreeMap::new(),
            on_the_way: BTreeMap::new(),
            counter: 0,
        };
        let hub = Arc::new(Self { clock, world: Mutex::new(world), sooner: Notify::new() });
        tokio::spawn(carry(Arc::downgrade(&hub)));
        hub
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn random(&self) -> u128 {
        self.world().random.random()
    }

    pub(super) fn join(&self) -> (usize, watch::Receiver<BusState>) {
        let (state, seen) = watch::channel(connected());
        let mut world = self.world();
        world.connections.push(Connection {
            link: Link::default(),
            state,
            broken: false,
            breaks: 0,
            kept: VecDeque::new(),
            out_last: Moment::START,
            in_last: Moment::START,
        });
        (world.connections.len() - 1, seen)
    }

    pub(super) fn set_link(&self, connection: usize, link: Link) {
        self.world().connections[connection].link = link;
    }

    pub(super) fn way(&self, connection: usize) -> Duration {
        self.world().connections[connection].link.delay
    }

    pub(super) fn subscribe(
        &self,
        connection: usize,
        subject: &str,
        group: Option<&str>,
        ear: Ear,
    ) -> u64 {
        let mut world = self.world();
        let pattern = subject.split('.').map(str::to_owned).collect();
        let group = group.map(str::to_owned);
        let id = world.count();
        world.subscriptions.insert(id, Subscription { connection, pattern, group, ear });
        id
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        self.world().subscriptions.remove(&id);
    }

    pub(super) fn inbox(&self, connection: usize) -> (String, oneshot::Receiver<Heard>) {
        let (tell, heard) = oneshot::channel();
        let mut world = self.world();
        let inbox = format!("_INBOX.memory.{connection}.{}", world.count());
        world.inboxes.insert(inbox.clone(), (connection, tell));
        (inbox, heard)
    }

    /// Sends one message.
    pub(super) fn post(&self, from: usize, delivered: Delivered) -> Result<(), SendError> {
        let mut world = self.world();
        let connection = &mut world.connections[from];
        if connection.broken {
            if connection.kept.len() == KEPT_MAX {
                return Err(SendError::Saturated);
            }
            connection.kept.push_back(delivered);
            return Ok(());
        }
        world.send(self.clock.now(), from, delivered);
        self.settle(world);
        Ok(())
    }

    pub(super) fn cut(self: &Arc<Self>, connection: usize) {
        let mut world = self.world();
        let broken = &mut world.connections[connection];
        broken.broken = true;
        broken.breaks += 1;
        let (number, hub) = (broken.breaks, Arc::clone(self));
        tokio::spawn(async move {
            tokio::time::sleep(UNNOTICED).await;
            let mut world = hub.world();
            if world.connections[connection].breaks == number {
                world.connections[connection].state.send_replace(BusState::Down);
                // Whoever waits on it waits in vain.
                world.inboxes.retain(|_, (asker, _)| *asker != connection);
            }
        });
    }

    pub(super) fn heal(&self, connection: usize) {
        let mut world = self.world();
        let healed = &mut world.connections[connection];
        if !std::mem::take(&mut healed.broken) {
            return;
        }
        healed.breaks += 1;
        healed.state.send_replace(connected());
        let kept = std::mem::take(&mut healed.kept);
        world.inboxes.retain(|_, (asker, _)| *asker != connection);
        for delivered in kept {
            world.send(self.clock.now(), connection, delivered);
        }
        self.settle(world);
    }

    /// Carries out what is due, and has the carrier look again.
    fn settle(&self, mut world: MutexGuard<'_, World>) {
        world.carry(self.clock.now());
        if !world.on_the_way.is_empty() {
            self.sooner.notify_one();
        }
    }
}

fn connected() -> BusState {
    BusState::Connected { server: SERVER.to_owned() }
}

/// Moves messages when their time has come.
async fn carry(hub: Weak<Hub>) {
    loop {
        let Some(alive) = hub.upgrade() else { return };
        let next = alive.world().on_the_way.first_key_value().map(|((due, _), _)| *due);
        match next {
            Some(due) => tokio::select! {
                () = tokio::time::sleep_until(alive.clock.instant(due)) => {
                    alive.world().carry(alive.clock.now());
                }
                () = alive.sooner.notified() => (),
            },
            // Looking up now and then, so as to end with the hub.
            None => {
                drop(tokio::time::timeout(Duration::from_secs(1), alive.sooner.notified()).await)
            }
        }
    }
}

impl World {
    fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Puts a message on its way to the server.
    fn send(&mut self, now: Moment, from: usize, delivered: Delivered) {
        let link = self.connections[from].link;
        if link.mute || self.chance(link.loss) {
            return;
        }
        for _ in 0..=usize::from(self.chance(link.duplicate)) {
            let due = self.due(now, link, self.connections[from].out_last);
            self.connections[from].out_last = due;
            let Delivered { message, reply, .. } = &delivered;
            let copy = Delivered { message: message.clone(), reply: reply.clone(), fault: None };
            let key = (due, self.count());
            self.on_the_way.insert(key, OnTheWay::Up { from, delivered: copy });
        }
    }

    /// Puts one on its way from the server.
    fn forward(&mut self, now: Moment, to: usize, what: OnTheWay) {
        let Connection { link, broken, in_last, .. } = self.connections[to];
        if broken || link.deaf || self.chance(link.loss) {
            return;
        }
        let due = self.due(now, link, in_last);
        self.connections[to].in_last = due;
        let key = (due, self.count());
        self.on_the_way.insert(key, what);
    }

    fn due(&mut self, now: Moment, link: Link, last: Moment) -> Moment {
        let due = now + link.delay + link.jitter.mul_f64(self.random.random::<f64>());
        if link.reorder { due } else { due.max(last) }
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random::<f64>() < share
    }

    fn carry(&mut self, now: Moment) {
        while let Some(entry) = self.on_the_way.first_entry() {
            if now < entry.key().0 {
                return;
            }
            match entry.remove() {
                OnTheWay::Up { from, delivered } => self.route(now, from, delivered),
                OnTheWay::Down { ear, delivered } => ear.hear(delivered),
                OnTheWay::Answer { inbox, heard } => {
                    if let Some((_, asker)) = self.inboxes.remove(&inbox) {
                        asker.send(heard).ok();
                    }
                }
            }
        }
    }

    /// What the server does with a message.
    fn route(&mut self, now: Moment, from: usize, delivered: Delivered) {
        let Delivered { message, reply, .. } = delivered;
        if message.subject.starts_with("_INBOX.") {
            if let Some((to, _)) = self.inboxes.get(&message.subject) {
                let (to, inbox) = (*to, message.subject.clone());
                let heard = Heard::Answer(message);
                self.forward(now, to, OnTheWay::Answer { inbox, heard });
            }
            return;
        }
        let heard = self.listeners(&message.subject);
        if heard.is_empty()
            && let Some(inbox) = reply
        {
            let what = OnTheWay::Answer { inbox, heard: Heard::NoResponders };
            return self.forward(now, from, what);
        }
        for id in heard {
            let Subscription { connection, ear, .. } = &self.subscriptions[&id];
            let (to, ear) = (*connection, ear.clone());
            let copy = Delivered { message: message.clone(), reply: reply.clone(), fault: None };
            self.forward(now, to, OnTheWay::Down { ear, delivered: copy });
        }
    }

    /// Everybody without a group, and one member of each group.
    fn listeners(&mut self, subject: &str) -> Vec<u64> {
        self.subscriptions.retain(|_, subscription| !subscription.ear.gone());
        let words: Vec<&str> = subject.split('.').collect();
        let mut all = Vec::new();
        let mut groups: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (id, Subscription { connection, pattern, group, .. }) in &self.subscriptions {
            if self.connections[*connection].broken || !matches(pattern, &words) {
                continue;
            }
            match group {
                Some(group) => groups.entry(group).or_default().push(*id),
                None => all.push(*id),
            }
        }
        for members in groups.into_values() {
            all.push(members[self.random.random_range(0..members.len())]);
        }
        all
    }
}

fn matches(pattern: &[String], words: &[&str]) -> bool {
    match (pattern.split_first(), words.split_first()) {
        (None, None) => true,
        (Some((first, [])), Some(_)) if first == ">" => true,
        (Some((first, rest)), Some((word, words))) => {
            (first == "*" || first == word) && matches(rest, words)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_on_the_server() {
        let check = |pattern: &str, subject: &str| {
            let pattern: Vec<String> = pattern.split('.').map(str::to_owned).collect();
            matches(&pattern, &subject.split('.').collect::<Vec<_>>())
        };
        assert!(check("a.*.c", "a.b.c") && check("a.>", "a.b.c") && check("a.b", "a.b"));
        assert!(!check("a.*", "a.b.c") && !check("a.>", "a") && !check("a.b", "a.c"));
    }
}
