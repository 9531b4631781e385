//! Subscriptions of a service: they count what they delivered, so that they can be left without
//! losing anything.

use std::task::{Context, Poll};

use async_nats::Subscriber;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use rand::RngExt;
use tokio::sync::watch;

use super::super::service::{Delivered, Inflow, Leaving, Wire};
use super::super::{BusError, Message, SendError};
use super::{Inner, taken};
use crate::clock::Clock;

impl Wire for Inner {
    fn clock(&self) -> Clock {
        self.clock
    }

    fn random(&self) -> u128 {
        Self::random(self)
    }

    fn seed(&self) -> u64 {
        rand::rng().random()
    }

    fn send(&self, message: Message) -> BoxFuture<'_, Result<(), SendError>> {
        let until = self.clock.now() + self.enqueue_max;
        self.answer(message, until).boxed()
    }

    fn subscribe<'a>(
        &'a self,
        subject: &'a str,
        group: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Box<dyn Inflow>, BusError>> {
        async move {
            let connections = self.connections.clone();
            let connection = *connections.borrow();
            let subscriber = self.subscriber(subject, group).await?;
            let inflow = Subscribed { subscriber, delivered: 0, connection, connections };
            Ok(Box::new(inflow) as Box<dyn Inflow>)
        }
        .boxed()
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), BusError>> {
        self.barrier().boxed()
    }
}

struct Subscribed {
    subscriber: Subscriber,
    delivered: u64,
    /// The connection it was made on, and the one in use.
    connection: u64,
    connections: watch::Receiver<u64>,
}

impl Inflow for Subscribed {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivered>> {
        self.subscriber.poll_next_unpin(cx).map(|came| {
            let mut came = came?;
            self.delivered += 1;
            let reply = came.reply.take().map(async_nats::Subject::into_string);
            let (message, fault) = taken(came);
            Some(Delivered { message, reply, fault })
        })
    }

    /// By count, the server stops at exactly the message at which the client forgets, so nothing
    /// on the way is lost. After a reconnect the server counts from anew and the library does
    /// not; then the library's own drain is what is left, which may lose what is on the way.
    fn leave(&mut self, ahead: u64) -> BoxFuture<'_, Leaving> {
        async move {
            let same = *self.connections.borrow() == self.connection;
            if same && ahead > 0 {
                let count = self.delivered + ahead;
                if self.subscriber.unsubscribe_after(count).await.is_ok() {
                    return Leaving::ByCount;
                }
            }
            self.subscriber.drain().await.ok();
            Leaving::BySelf
        }
        .boxed()
    }
}
