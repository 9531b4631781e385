use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sandpit_actors::bus::gate::Limits;
use sandpit_actors::bus::{Arrived, Bus, Endpoint, Handler, Message, Reply, Service, VerbInfo};

use crate::support::Server;

#[derive(Debug)]
struct Echo;

impl Handler for Echo {
    fn handle(&self, request: Arrived) -> BoxFuture<'static, Reply> {
        let Message { headers, body, .. } = request.message;
        async move { Reply { headers, body, error: None } }.boxed()
    }
}

fn service() -> Service {
    let verb = VerbInfo {
        name: "echo".to_owned(),
        subject: "sandpit.v1.req.echo".to_owned(),
        request_schema: "{}".to_owned(),
        response_schema: "{}".to_owned(),
        patience_default: Duration::from_secs(2),
        patience_max: Duration::from_secs(10),
    };
    let endpoint = Endpoint {
        subject: "sandpit.v1.req.*".to_owned(),
        group: Some("entry".to_owned()),
        verbs: vec![verb],
    };
    Service {
        name: "sandpit".to_owned(),
        version: "0.1.0".to_owned(),
        description: "Echo.".to_owned(),
        metadata: Default::default(),
        endpoints: vec![endpoint],
    }
}

#[tokio::test]
async fn a_server_of_our_own_serves_an_echo_that_any_tool_discovers() {
    let server = Server::start().await;
    let (node, client) = (server.node().await, server.client().await);
    let _serving = node.serve(service(), Limits::default(), Arc::new(Echo)).await.unwrap();
    let soon = || server.clock.now() + Duration::from_secs(2);
    let ask = |subject: &str, body: &'static [u8]| {
        let message =
            Message { subject: subject.to_owned(), body: body.into(), ..Message::default() };
        client.ask(message, soon())
    };
    let answer = ask("sandpit.v1.req.echo", b"hello").await.unwrap();
    assert_eq!(answer.body, "hello");
    let info = ask("$SRV.INFO", b"").await.unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.body).unwrap();
    assert_eq!(info["type"], "io.nats.micro.v1.info_response");
    assert_eq!(info["endpoints"][0]["name"], "echo");
    server.embedded.stop().await;
}
