use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::prelude::*;
use sandpit_actors::clock::Clock;
use sandpit_actors::supervise::policy::Limits;
use sandpit_actors::supervise::{
    ActorRef, Asked, Incarnation, Life, NotAnswered, Question, Signal, Tree, heed,
};
use sandpit_messages::sandbox::Create;
use sandpit_sandbox::fake::Script;

use crate::rig::{Rig, SECOND, cell, fresh, limits, on_one_thread};

#[derive(Debug)]
struct Fragile {
    life: Life,
}

impl Actor for Fragile {
    type Context = Context<Self>;
}

impl Handler<Signal> for Fragile {
    type Result = ();

    fn handle(&mut self, signal: Signal, ctx: &mut Context<Self>) {
        heed(signal, ctx);
    }
}

#[derive(Clone, Debug)]
enum Poke {
    Hello,
    Panic,
    Fail,
    /// Takes nothing from its mailbox for so long.
    Hang(Duration),
}

impl Question for Poke {
    type Answer = Incarnation;
}

impl Handler<Asked<Poke>> for Fragile {
    type Result = ();

    fn handle(&mut self, asked: Asked<Poke>, ctx: &mut Context<Self>) {
        let (question, caller) = asked.open();
        match question {
            Poke::Hello => (),
            Poke::Hang(time) => {
                ctx.wait(wrap_future(tokio::time::sleep(time)));
            }
            Poke::Panic => panic!("a bug in a shell"),
            Poke::Fail => {
                self.life.fail();
                ctx.terminate();
            }
        }
        caller.answer(self.life.incarnation()).expect("the test waits");
    }
}

fn fragile() -> (Tree, ActorRef<Fragile>) {
    let mut tree = Tree::new(Clock::start(), 7, Limits::default());
    let fragile = tree.keep("fragile", 8, |life| Fragile { life });
    (tree, fragile)
}

async fn hello(fragile: &ActorRef<Fragile>) -> Incarnation {
    loop {
        match fragile.ask(Poke::Hello).await {
            Ok(life) => return life,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_panics_is_built_again_behind_the_same_reference() {
    on_one_thread(async {
        let (_tree, fragile) = fragile();
        assert_eq!(hello(&fragile).await, Incarnation { run: 7, life: 0 });
        assert_eq!(fragile.ask(Poke::Panic).await, Err(NotAnswered::Interrupted));
        assert_eq!(hello(&fragile).await, Incarnation { run: 7, life: 1 });
        let _ = fragile.ask(Poke::Fail).await;
        assert_eq!(hello(&fragile).await, Incarnation { run: 7, life: 2 });
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_behind_a_panic_is_told_that_nothing_was_done() {
    on_one_thread(async {
        let (_tree, fragile) = fragile();
        hello(&fragile).await;
        let (first, second) = tokio::join!(fragile.ask(Poke::Panic), fragile.ask(Poke::Hello));
        assert_eq!((first, second), (Err(NotAnswered::Interrupted), Err(NotAnswered::NotBegun)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_sixth_failure_in_a_minute_ends_the_node() {
    on_one_thread(async {
        let (mut tree, fragile) = fragile();
        let lives = Rc::new(RefCell::new(Vec::new()));
        let (seen, poked) = (Rc::clone(&lives), fragile.clone());
        tokio::task::spawn_local(async move {
            loop {
                let Incarnation { life, .. } = hello(&poked).await;
                seen.borrow_mut().push(life);
                let _ = poked.ask(Poke::Panic).await;
            }
        });
        let gave_up = tree.watch().await;
        assert_eq!(gave_up.to_string(), "fragile failed more than 5 times in 60s");
        assert_eq!(*lives.borrow(), [0, 1, 2, 3, 4, 5]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_full_actor_refuses_at_once() {
    on_one_thread(async {
        let (_tree, fragile) = fragile();
        hello(&fragile).await;
        let asks = (0..9).map(|_| {
            let fragile = fragile.clone();
            tokio::task::spawn_local(async move { fragile.ask(Poke::Hello).await })
        });
        let asks: Vec<_> = asks.collect();
        let mut busy = 0;
        for ask in asks {
            busy += usize::from(ask.await.unwrap() == Err(NotAnswered::Busy { waiting: 8 }));
        }
        assert_eq!(busy, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_question_behind_a_panic_is_asked_again_and_answered_by_the_next_life() {
    on_one_thread(async {
        let (_tree, fragile) = fragile();
        hello(&fragile).await;
        let (first, second) =
            tokio::join!(fragile.ask(Poke::Panic), fragile.ask_settled(Poke::Hello));
        assert_eq!(first, Err(NotAnswered::Interrupted));
        assert_eq!(second, Ok(Incarnation { run: 7, life: 1 }));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_question_that_had_begun_is_not_asked_again() {
    on_one_thread(async {
        let (_tree, fragile) = fragile();
        hello(&fragile).await;
        assert_eq!(fragile.ask_settled(Poke::Panic).await, Err(NotAnswered::Interrupted));
        assert_eq!(hello(&fragile).await, Incarnation { run: 7, life: 1 });
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_takes_nothing_is_reported_and_so_is_its_recovery() {
    on_one_thread(async {
        let (tree, fragile) = fragile();
        hello(&fragile).await;
        let mut hung = tree.hung();
        let _ = fragile.ask(Poke::Hang(20 * SECOND)).await;
        tokio::time::sleep(5 * SECOND).await;
        assert_eq!(*hung.borrow(), 0, "not yet");
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(*hung.borrow_and_update(), 1);
        tokio::time::sleep(15 * SECOND).await;
        assert_eq!(*hung.borrow(), 0, "it moves again");
    })
    .await;
}

#[tokio::test]
async fn a_thread_that_is_blocked_is_noticed_from_outside() {
    on_one_thread(async {
        let (mut tree, _fragile) = fragile();
        let (told, stalled) = std::sync::mpsc::channel();
        let stall_max = Duration::from_millis(200);
        tree.watch_thread(stall_max, move || told.send("stuck").unwrap());
        tokio::time::sleep(3 * stall_max).await;
        assert!(stalled.try_recv().is_err(), "it moves");
        // Nothing else runs on this thread meanwhile.
        assert_eq!(stalled.recv_timeout(Duration::from_secs(10)), Ok("stuck"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_is_stopped_leaves_no_actor() {
    on_one_thread(async {
        let (tree, fragile) = fragile();
        hello(&fragile).await;
        tree.stop(SECOND).await;
        assert_eq!(fragile.ask(Poke::Hello).await, Err(NotAnswered::NotBegun));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_pool_that_died_comes_back_empty_handed_and_serves() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let held = rig.create().await;
        assert!(rig.node.tree.hurt("pool"));
        tokio::time::sleep(SECOND).await;
        assert!(!rig.fake.alive().contains(&held), "nobody knows whose it was");
        let gone = rig.ask(&cell(held, "1")).await.unwrap_err();
        assert_eq!((gone.code, gone.message.contains("restarted")), (410, true), "{gone:?}");
        assert!(rig.ask(&Create::default()).await.is_ok());
        assert_eq!(rig.fake.alive().len(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_pool_that_dies_is_told_and_what_comes_later_is_served() {
    on_one_thread(async {
        let rig =
            Rig::start(limits(), Script { boot_takes: 5 * SECOND, ..Script::default() }).await;
        let ask = Create::default();
        let waits = rig.ask(&ask);
        let hurts = async {
            tokio::time::sleep(SECOND).await;
            rig.node.tree.hurt("pool")
        };
        let (waited, hurt) = tokio::join!(waits, hurts);
        assert!(hurt);
        let problem = waited.unwrap_err();
        assert_eq!((problem.kind.as_str(), problem.ran.as_str()), ("internal", "unknown"));
        assert!(rig.ask(&Create::default()).await.is_ok());
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(rig.fake.alive().len(), 3, "what the dead one asked for is not left behind");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn runs_of_executions_that_died_are_interrupted_and_the_sandbox_serves_on() {
    on_one_thread(async {
        let rig = Rig::start(limits(), Script::default()).await;
        let held = rig.create().await;
        let slow = cell(held, "sleep 20000");
        let hurts = async {
            tokio::time::sleep(SECOND).await;
            rig.node.tree.hurt("exec")
        };
        let (ran, hurt) = tokio::join!(rig.ask(&slow), hurts);
        assert!(hurt);
        assert_eq!(ran.unwrap_err().kind, "internal");
        assert_eq!(rig.fake.running(), 0, "nobody waits for it");
        assert_eq!(rig.ask(&cell(held, "value 1")).await.unwrap().exit_code, 0);
        assert_eq!(rig.ask(&fresh("value 1")).await.unwrap().exit_code, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_pool_keeps_dying_gives_up() {
    on_one_thread(async {
        let mut rig = Rig::start(limits(), Script::default()).await;
        for _ in 0..6 {
            while !rig.node.tree.hurt("pool") {
                tokio::time::sleep(SECOND / 100).await;
            }
            tokio::task::yield_now().await;
        }
        let gave_up = tokio::time::timeout(10 * SECOND, rig.node.tree.watch()).await.unwrap();
        assert_eq!(gave_up.to_string(), "pool failed more than 5 times in 60s");
    })
    .await;
}
