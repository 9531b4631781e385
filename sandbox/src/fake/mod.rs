//! A provider that does what a script says, for tests everywhere. Time in it is tokio's, so that
//! a paused clock makes it virtual.

mod faces;
mod run;
mod script;
mod templates;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sandpit_messages::id::{ExecId, SandboxId};
use tokio::sync::{Notify, broadcast, mpsc, watch};

pub use script::Script;
use script::{LIMITS, MEMORY_MAX};

use crate::provider::contexts::Contexts;
use crate::provider::{
    Archive, Arrival, CreateRequest, Created, Descriptor, Destroyed, Ending, ExecRequest,
    ExecStream, ExportRequest, Layer, Lease, Pausing, Piece, Progress, Sample, SandboxInfo,
    TemplateInfo, Work,
};
use crate::{Provider, ProviderError};

/// Events of one execution that wait for whoever reads them.
const EVENTS_ROOM: usize = 64;

/// Endings that wait for whoever listens.
const ENDINGS_ROOM: usize = 64;

/// The provider, and what exists in it.
#[derive(Debug)]
pub struct Fake {
    script: Script,
    world: Arc<Mutex<World>>,
    endings: broadcast::Sender<Ending>,
}

#[derive(Debug, Default)]
struct World {
    draw: u64,
    boots: u64,
    adoptions: u64,
    ends: u64,
    prepared: BTreeSet<String>,
    alive: BTreeMap<SandboxId, Place>,
    /// What was alive when, for lists that lag behind.
    past: VecDeque<(tokio::time::Instant, Vec<SandboxInfo>)>,
    /// Executions that began.
    runs: u64,
    /// Templates that were built or came from elsewhere.
    built: BTreeSet<String>,
    /// What was written down.
    archives: Vec<Archive>,
    /// What is on its way here.
    uploads: BTreeMap<String, Vec<u8>>,
}

/// One sandbox.
#[derive(Clone, Debug)]
struct Place {
    template: String,
    lease: Option<Lease>,
    contexts: faces::Places,
    paused: Arc<watch::Sender<bool>>,
    running: BTreeMap<ExecId, Arc<Notify>>,
    ended: Arc<Notify>,
}

impl Fake {
    /// An empty world that follows `script`.
    pub fn new(script: Script) -> Self {
        let world = World { draw: script.seed, ..World::default() };
        let (endings, _) = broadcast::channel(ENDINGS_ROOM);
        Self { script, world: Arc::new(Mutex::new(world)), endings }
    }

    /// Sandboxes alive now.
    pub fn alive(&self) -> BTreeSet<SandboxId> {
        self.world().alive.keys().copied().collect()
    }

    /// What the holder of a sandbox was given, if anybody was.
    pub fn lease(&self, sandbox: SandboxId) -> Option<Lease> {
        self.world().alive.get(&sandbox)?.lease.clone()
    }

    /// Boots asked for so far.
    pub fn boots(&self) -> u64 {
        self.world().boots
    }

    /// Executions that began so far.
    pub fn runs(&self) -> u64 {
        self.world().runs
    }

    /// Executions that have begun and not ended.
    pub fn running(&self) -> usize {
        self.world().alive.values().map(|place| place.running.len()).sum()
    }

    /// Makes a sandbox that nobody asked for.
    pub fn plant(&self, sandbox: SandboxId, template: &str) {
        let place = Place::of(template);
        self.change(|world| drop(world.alive.insert(sandbox, place)));
    }

    /// Ends a sandbox as if it had ended by itself.
    pub fn kill(&self, sandbox: SandboxId) {
        end(&self.world, &self.endings, sandbox);
    }

    fn knows(&self, template: &str) -> bool {
        self.script.templates.contains(template) || self.world().built.contains(template)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is alive, and remembers what was.
    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world();
        if self.script.list_lag > Duration::ZERO {
            let before = world.list();
            world.past.push_back((now(), before));
        }
        change(&mut world)
    }
}

#[expect(clippy::disallowed_methods, reason = "the fake's world is made of tokio's time")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

impl Place {
    fn of(template: &str) -> Self {
        Self {
            template: template.to_owned(),
            lease: None,
            contexts: faces::Places::default(),
            paused: Arc::default(),
            running: BTreeMap::new(),
            ended: Arc::default(),
        }
    }
}

impl World {
    /// A random number, after Steele, Lea and Flood, "Fast splittable pseudorandom number
    /// generators" (SplitMix64).
    fn random(&mut self) -> u64 {
        self.draw = self.draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.draw;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn list(&self) -> Vec<SandboxInfo> {
        let all = self.alive.iter();
        let info = |(sandbox, place): (&SandboxId, &Place)| SandboxInfo {
            sandbox: *sandbox,
            template: place.template.clone(),
        };
        all.map(info).collect()
    }
}

/// Ends a sandbox that nobody asked to end.
fn end(world: &Mutex<World>, endings: &broadcast::Sender<Ending>, sandbox: SandboxId) {
    let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(place) = world.alive.remove(&sandbox) {
        place.ended.notify_waiters();
        // Nobody has to listen.
        let _ = endings.send(Ending { sandbox, why: "as scripted" });
    }
}

fn failed(why: &str, maybe_done: bool) -> ProviderError {
    ProviderError::Failed { why: why.to_owned(), maybe_done }
}

/// What a boot does, as drawn or scripted before it begins.
enum Fate {
    Born,
    Refused,
    Lost,
    Hung,
}

#[async_trait]
impl Provider for Fake {
    fn descriptor(&self) -> Descriptor {
        script::descriptor()
    }

    async fn prepare(
        &self,
        template: &str,
        progress: Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        let name = template.to_owned();
        if !self.knows(template) {
            return Err(ProviderError::NoSuchTemplate { name });
        }
        if self.script.broken.contains(template) {
            let why = "as scripted; mend the script".to_owned();
            return Err(ProviderError::TemplateBroken { name, why });
        }
        if !self.world().prepared.contains(template) {
            progress.say("preparing", Some(0.0));
            tokio::time::sleep(self.script.prepare_takes).await;
            progress.say("prepared", Some(1.0));
            self.world().prepared.insert(name.clone());
        }
        Ok(TemplateInfo { digest: format!("digest of {name}"), name, limits: LIMITS })
    }

    fn templates(&self) -> Vec<String> {
        self.script.templates.iter().chain(&self.world().built).cloned().collect()
    }

    fn resolve(&self, template: &str) -> Option<String> {
        templates::resolve(self, template)
    }

    fn title(&self, template: &str) -> String {
        templates::title(self, template)
    }

    async fn build(
        &self,
        layer: &Layer,
        progress: Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        templates::build(self, layer, &progress).await
    }

    async fn export(&self, request: ExportRequest) -> Result<Archive, ProviderError> {
        templates::export(self, request)
    }

    fn archives(&self) -> Vec<Archive> {
        self.world().archives.clone()
    }

    async fn read_archive(
        &self,
        id: &str,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Bytes, ProviderError> {
        templates::read(self, id, offset, bytes_max)
    }

    async fn import(&self, piece: Piece) -> Result<Arrival, ProviderError> {
        templates::import(self, piece)
    }

    async fn create(&self, request: CreateRequest) -> Result<Created, ProviderError> {
        assert!(!self.script.boot_panics, "this fake panics on purpose");
        let CreateRequest { sandbox, template } = request;
        let (fate, takes) = {
            let mut world = self.world();
            if !world.prepared.contains(&template) {
                return Err(ProviderError::NoSuchTemplate { name: template });
            }
            let digest = format!("digest of {template}");
            if world.alive.contains_key(&sandbox) {
                return Ok(Created { sandbox, digest });
            }
            world.boots += 1;
            let Script { boots_refused, boots_lost, boots_hung, .. } = self.script;
            let refused = world.random() % 100 < self.script.percent_refused;
            let fate = match world.boots {
                boot if boot <= boots_refused => Fate::Refused,
                boot if boot <= boots_refused + boots_lost => Fate::Lost,
                boot if boot <= boots_refused + boots_lost + boots_hung => Fate::Hung,
                _ if refused => Fate::Refused,
                _ => Fate::Born,
            };
            let spread = u64::try_from(self.script.boot_spread.as_nanos()).unwrap_or(u64::MAX);
            let spread = Duration::from_nanos(world.random() % spread.max(1));
            (fate, self.script.boot_takes + spread)
        };
        tokio::time::sleep(takes).await;
        match fate {
            Fate::Refused => Err(failed("as scripted", false)),
            Fate::Hung => std::future::pending().await,
            Fate::Lost => {
                self.plant(sandbox, &template);
                Err(failed("the answer was lost, as scripted", true))
            }
            Fate::Born => {
                self.plant(sandbox, &template);
                Ok(Created { sandbox, digest: format!("digest of {template}") })
            }
        }
    }

    async fn adopt(&self, sandbox: SandboxId, lease: Lease) -> Result<(), ProviderError> {
        let mut world = self.world();
        world.adoptions += 1;
        if world.adoptions <= self.script.adoptions_refused {
            return Err(failed("as scripted", false));
        }
        if let Some(limits) = lease.limits
            && limits.memory_mb > MEMORY_MAX
        {
            let what = format!("{} MiB of memory", limits.memory_mb);
            return Err(ProviderError::Unsupported { what });
        }
        let place = world.place(sandbox)?;
        place.lease = Some(lease);
        Ok(())
    }

    async fn destroy(&self, sandbox: SandboxId) -> Result<Destroyed, ProviderError> {
        tokio::time::sleep(self.script.destroy_takes).await;
        let mut world = self.world();
        world.ends += 1;
        if world.ends <= self.script.ends_refused {
            return Err(failed("as scripted", false));
        }
        drop(world);
        let place = self.change(|world| world.alive.remove(&sandbox));
        if let Some(place) = &place {
            place.ended.notify_waiters();
        }
        Ok(Destroyed { was_there: place.is_some() })
    }

    async fn list(&self) -> Result<Vec<SandboxInfo>, ProviderError> {
        let mut world = self.world();
        let shown = now().checked_sub(self.script.list_lag);
        // Of the changes since, the first one knows what was before it.
        let is_shown = |at: tokio::time::Instant| shown.is_some_and(|shown| at <= shown);
        while world.past.pop_front_if(|(at, _)| is_shown(*at)).is_some() {}
        Ok(world.past.front().map_or_else(|| world.list(), |(_, before)| before.clone()))
    }

    async fn exec(
        &self,
        sandbox: SandboxId,
        request: ExecRequest,
    ) -> Result<ExecStream, ProviderError> {
        let interrupt = Arc::new(Notify::new());
        let mut world = self.world();
        let place = world.place(sandbox)?;
        let context = match &request.work {
            Work::Cell { context, .. } => place.contexts.find(context.as_ref())?.clone(),
            Work::Line(_) | Work::Program(_) => faces::Place::default(),
        };
        place.running.insert(request.exec, Arc::clone(&interrupt));
        let place = place.clone();
        world.runs += 1;
        drop(world);
        let (events, stream) = mpsc::channel(EVENTS_ROOM);
        let run = run::Run {
            sandbox,
            place,
            life: context.life.subscribe(),
            context,
            interrupt,
            events,
            world: Arc::clone(&self.world),
            endings: self.endings.clone(),
            says: self.script.says.clone(),
        };
        tokio::spawn(run.play(request));
        Ok(ExecStream::new(stream))
    }

    async fn interrupt(&self, sandbox: SandboxId, exec: ExecId) -> Result<(), ProviderError> {
        let mut world = self.world();
        let place = world.place(sandbox)?;
        if let Some(running) = place.running.get(&exec) {
            running.notify_one();
        }
        Ok(())
    }

    fn contexts(&self) -> Result<&dyn Contexts, ProviderError> {
        Ok(self)
    }

    fn pausing(&self) -> Result<&dyn Pausing, ProviderError> {
        Ok(self)
    }

    async fn sample(&self, sandbox: SandboxId) -> Result<Sample, ProviderError> {
        assert!(!self.script.sample_panics, "this fake panics on purpose");
        let mut world = self.world();
        let place = world.place(sandbox)?;
        let processes = u32::try_from(place.running.len()).unwrap_or(u32::MAX);
        let cpu = Duration::from_millis(1);
        Ok(Sample {
            cpu,
            cpu_count: LIMITS.cpu_count,
            memory: 1 << 20,
            memory_cache: 0,
            memory_max: u64::from(LIMITS.memory_mb) << 20,
            disk: 0,
            disk_max: 1 << 28,
            processes,
            source: "fake",
        })
    }

    fn endings(&self) -> broadcast::Receiver<Ending> {
        self.endings.subscribe()
    }
}
