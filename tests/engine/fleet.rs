//! A deployment on the real engine and a real nats-server: its size changes while executions go on
//! in its instances, and none is lost; its workers are killed, and it heals.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sandpit_actors::bus::nats::NatsBus;
use sandpit_actors::bus::{AskError, Bus, Headers, Message};
use sandpit_actors::clock::Clock;
use sandpit_actors::node::{self, Limits, Patience, Ports};
use sandpit_actors::{crew, entry};
use sandpit_messages::codec::Codec;
use sandpit_messages::deployment::{
    Category, Configuration, Deploy, DeploymentView, GetDeployments, InstanceStatus, Scale, Scaled,
};
use sandpit_messages::exec::{Exec, Executed};
use sandpit_messages::id::{DeploymentId, SandboxId};
use sandpit_messages::problem::{Problem, Ran};
use sandpit_messages::subject::Request;
use sandpit_sandbox::local::LocalProvider;
use sandpit_sandbox::local::cgroup::none;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use crate::server::Server;
use crate::support::{launcher, now, options, since};

/// Callers who ask one execution after the other.
const CALLERS: usize = 8;

/// Longest anything here may take, on a machine that compiles at the same time.
const PATIENCE: Duration = Duration::from_secs(100);

/// A node, and a client of it.
struct Rig {
    node: node::Node,
    provider: LocalProvider,
    client: Client,
    _server: Server,
}

#[derive(Clone)]
struct Client {
    bus: Arc<NatsBus>,
    clock: Clock,
}

impl Client {
    async fn ask<R: Request>(&self, ask: &R) -> Result<R::Reply, Problem> {
        let (subject, headers) = (R::VERB.subject(), Headers::new());
        let body = Codec::Json.encode(ask).into();
        let message = Message { subject, headers, body };
        match self.bus.ask(message, self.clock.now() + PATIENCE).await {
            Ok(answer) => Ok(Codec::Json.decode(&answer.body).expect("a reply")),
            Err(AskError::Refused(problem)) => Err(*problem),
            Err(error) => panic!("no answer at all: {error}"),
        }
    }

    async fn exec(&self, sandbox: SandboxId, code: String) -> Result<Executed, Problem> {
        let (sandbox_id, code) = (Some(sandbox), Some(code));
        self.ask(&Exec { sandbox_id, code, ..Exec::default() }).await
    }

    async fn scale(&self, deployment_id: DeploymentId, count: i64) -> Scaled {
        let ask = Scale { deployment_id, instance_count: count, auto_scale: false };
        self.ask(&ask).await.expect("it changes its size")
    }

    async fn view(&self, id: DeploymentId) -> DeploymentView {
        let ask = GetDeployments { deployment_id: Some(id) };
        self.ask(&ask).await.expect("it is there").deployments.remove(0)
    }

    async fn running(&self, id: DeploymentId) -> Vec<SandboxId> {
        let view = self.view(id).await;
        let up = view.instances.iter().filter(|one| one.status == InstanceStatus::Running);
        up.map(|one| one.sandbox_id).collect()
    }
}

async fn start() -> Rig {
    let server = Server::start().await;
    let (bus, client) = (server.node().await, server.client().await);
    let options = options();
    let node = options.node;
    let provider = LocalProvider::start(options, launcher()).await.unwrap_or_else(|error| {
        panic!("no engine can be started here: {error}; `sandpit doctor` says more")
    });
    let clock = server.clock;
    let mut limits = Limits::default();
    limits.pool.targets = BTreeMap::from([("base".to_owned(), 2)]);
    limits.pool.total_max = 32;
    let ports = Ports {
        keys: Some(bus.kv(entry::bucket()).await.expect("a bucket")),
        records: Some(bus.kv(crew::bucket()).await.expect("a bucket")),
        bus,
        provider: Arc::new(provider.clone()),
        prices: None,
        clock,
        node,
        run: 1,
    };
    let node = Box::pin(node::start(ports, limits)).await.expect("it serves");
    Rig { node, provider, client: Client { bus: client, clock }, _server: server }
}

impl Rig {
    async fn deploy(&self, instances: i64) -> DeploymentId {
        let ask = Deploy {
            template_name: "under-load".to_owned(),
            category: Category::Custom,
            configuration: Configuration { instances: Some(instances), ..Configuration::default() },
        };
        loop {
            match self.client.ask(&ask).await {
                Ok(deployed) => break deployed.deployment_id,
                // The node has just started, and reads what was written down before.
                Err(problem) if problem.kind == "unsettled" => tokio::task::yield_now().await,
                Err(problem) => panic!("no deployment: {problem:?}"),
            }
        }
    }

    async fn end(self) {
        assert_eq!(self.node.drain(Patience::default()).await.sandboxes_left, 0);
        self.provider.close().await;
    }
}

/// What became of the executions that were asked for.
#[derive(Debug, Default)]
struct Tally {
    asked: u64,
    done: u64,
    /// Refused, and not run.
    refused: BTreeMap<String, u64>,
    /// Answered that the sandbox ended under them.
    lost: BTreeMap<SandboxId, u64>,
    /// Anything else.
    wrong: Vec<String>,
}

/// Executions that go on until they are told to stop.
struct Load {
    stop: Rc<Cell<bool>>,
    tally: Rc<RefCell<Tally>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(client: &Client, deployment: DeploymentId) -> Self {
        let (stop, tally) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Tally::default())));
        let tasks = (0..CALLERS).map(|caller| {
            let (client, stop, tally) = (client.clone(), Rc::clone(&stop), Rc::clone(&tally));
            spawn_local(async move {
                let mut number = caller;
                while !stop.get() {
                    for sandbox in client.running(deployment).await {
                        number += CALLERS;
                        let code = format!("import time; time.sleep(0.03); {number}");
                        tally.borrow_mut().asked += 1;
                        let answer = client.exec(sandbox, code).await;
                        tally.borrow_mut().count(sandbox, number, answer);
                    }
                    // A caller who finds nothing to ask must not keep the node from making it.
                    tokio::task::yield_now().await;
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, tasks, tally }
    }

    /// Waits until so many more are done.
    async fn more(&self, wanted: u64) {
        let until = self.tally.borrow().done + wanted;
        let waiting = async {
            while self.tally.borrow().done < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("executions go on");
    }

    async fn end(self) -> Tally {
        self.stop.set(true);
        for task in self.tasks {
            task.await.expect("a caller that ended");
        }
        self.tally.take()
    }
}

impl Tally {
    fn count(&mut self, sandbox: SandboxId, number: usize, answer: Result<Executed, Problem>) {
        match answer {
            Ok(ran) if ran.lost => *self.lost.entry(sandbox).or_default() += 1,
            Ok(ran) if ran.result == Some(number.to_string()) => self.done += 1,
            Ok(ran) => self.wrong.push(format!("{number}: {ran:?}")),
            Err(problem) if problem.ran == Ran::No => {
                *self.refused.entry(problem.kind).or_default() += 1;
            }
            Err(problem) => self.wrong.push(format!("{number}: {problem:?}")),
        }
    }

    /// Every execution was answered: it ran and says so, or it did not run and says so.
    fn expect_whole(&self) {
        let refused: u64 = self.refused.values().sum();
        let lost: u64 = self.lost.values().sum();
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        assert_eq!(self.asked, self.done + refused + lost, "{self:?}");
    }
}

#[tokio::test]
async fn a_deployment_that_goes_from_ten_to_two_to_six_under_load_loses_no_execution() {
    LocalSet::new()
        .run_until(Box::pin(async {
            let rig = start().await;
            let began = now();
            let deployment = rig.deploy(10).await;
            let up = since(began);
            let load = Load::begin(&rig.client, deployment);
            load.more(100).await;
            let began = now();
            let down = rig.client.scale(deployment, 2).await;
            let shrunk = since(began);
            assert_eq!((down.previous, down.stopped, down.total_instances), (10, 8, 2));
            assert_eq!(down.instances.len(), 2);
            load.more(50).await;
            let began = now();
            let six = rig.client.scale(deployment, 6).await;
            let grown = since(began);
            assert_eq!((six.started, six.total_instances), (4, 6));
            load.more(100).await;
            let tally = load.end().await;
            eprintln!("10 up in {up:?}, to 2 in {shrunk:?}, to 6 in {grown:?}: {tally:?}");
            tally.expect_whole();
            assert!(tally.lost.is_empty(), "{tally:?}");
            rig.end().await;
        }))
        .await;
}

#[tokio::test]
async fn a_deployment_of_which_three_workers_are_killed_heals_under_load() {
    LocalSet::new()
        .run_until(Box::pin(async {
            let rig = start().await;
            let deployment = rig.deploy(6).await;
            let before = rig.client.running(deployment).await;
            let mut victims = BTreeMap::new();
            for (number, sandbox) in before.iter().take(3).enumerate() {
                // Its name is how it is found from outside.
                let name = format!("victim-{number}-{}", std::process::id() % 10_000);
                const SET_NAME: u8 = 15;
                let code = format!("import ctypes\nctypes.CDLL(None).prctl({SET_NAME}, b'{name}')");
                rig.client.exec(*sandbox, code).await.expect("it runs");
                victims.insert(*sandbox, all_beside(pid_of(&name)));
            }
            let load = Load::begin(&rig.client, deployment);
            load.more(50).await;
            let began = now();
            for pid in victims.values().flatten() {
                // Those after the first may have ended with it.
                rustix::process::kill_process(*pid, rustix::process::Signal::KILL).ok();
            }
            let healed = async {
                loop {
                    let running = rig.client.running(deployment).await;
                    let fresh = running.iter().all(|sandbox| !victims.contains_key(sandbox));
                    if running.len() == 6 && fresh {
                        break since(began);
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let healed = tokio::time::timeout(PATIENCE, healed).await.expect("it heals");
            load.more(50).await;
            let tally = load.end().await;
            eprintln!("three workers killed, six up again in {healed:?}: {tally:?}");
            tally.expect_whole();
            assert!(tally.lost.keys().all(|sandbox| victims.contains_key(sandbox)), "{tally:?}");
            assert_eq!(rig.client.view(deployment).await.healed, 3);
            rig.end().await;
        }))
        .await;
}

/// Every process of the same sandbox, its first one included.
fn all_beside(worker: rustix::process::Pid) -> Vec<rustix::process::Pid> {
    let namespace = none::pid_namespace(worker.as_raw_nonzero().get().unsigned_abs());
    let mut survey = none::survey().expect("a survey");
    let found = survey.remove(&namespace.expect("a namespace")).expect("its processes").processes;
    found.into_iter().filter_map(|pid| rustix::process::Pid::from_raw(pid.cast_signed())).collect()
}

/// The process of that name, as this machine numbers it.
fn pid_of(name: &str) -> rustix::process::Pid {
    let all = fs::read_dir("/proc").expect("a list of processes").flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
    };
    let found = pids.find(is_it).and_then(rustix::process::Pid::from_raw);
    found.expect("it goes by that name")
}
