use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use opentelemetry::Context;
use opentelemetry::trace::{SpanKind, TracerProvider};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};
use sandpit_actors::bus::gate::Limits;
use sandpit_actors::bus::memory::MemoryBus;
use sandpit_actors::bus::{
    Arrived, Bus, Endpoint, Handler, Headers, Message, Reply, Service, VerbInfo,
};
use sandpit_actors::clock::Clock;
use sandpit_messages::envelope::TRACEPARENT;
use sandpit_messages::subject::{REQUESTS, Verb};
use tracing_subscriber::layer::SubscriberExt;

/// Keeps what ended.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Kept {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().expect("nobody panicked").push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[derive(Debug)]
struct Works;

impl Handler for Works {
    fn handle(&self, request: Arrived) -> BoxFuture<'static, Reply> {
        async move {
            drop(tracing::info_span!("work").entered());
            Reply { headers: Headers::new(), body: request.message.body, error: None }
        }
        .boxed()
    }
}

fn service() -> Service {
    let work = Verb::new("work");
    let verb = VerbInfo {
        name: work.to_string(),
        subject: work.subject(),
        request_schema: "{}".to_owned(),
        response_schema: "{}".to_owned(),
        patience_default: Duration::from_secs(1),
        patience_max: Duration::from_secs(1),
    };
    let group = Some("entry".to_owned());
    Service {
        name: "works".to_owned(),
        version: "0.1.0".to_owned(),
        description: "Works.".to_owned(),
        metadata: Default::default(),
        endpoints: vec![Endpoint { subject: REQUESTS.to_owned(), group, verbs: vec![verb] }],
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_its_processing_and_its_work_are_one_trace_and_the_answer_names_it() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_span_processor(kept.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let collecting = tracing_subscriber::registry().with(layer);
    let _collecting = tracing::subscriber::set_default(collecting);

    let clock = Clock::start();
    let bus = MemoryBus::new(clock, 1);
    let _serving = bus.serve(service(), Limits::default(), Arc::new(Works)).await.unwrap();
    let subject = Verb::new("work").subject();
    let question = Message { subject: subject.clone(), ..Message::default() };
    let answer = bus.connect().ask(question, clock.now() + Duration::from_secs(1)).await.unwrap();
    // The span of the processing ends a moment after its answer is here.
    tokio::time::sleep(Duration::from_millis(1)).await;

    let kept = kept.0.lock().unwrap();
    let named = |name: &str| {
        kept.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}: {kept:#?}"))
    };
    let asked = named(&format!("request {subject}"));
    let processed = named(&format!("process {subject}"));
    let worked = named("work");
    assert_eq!((&asked.span_kind, &processed.span_kind), (&SpanKind::Client, &SpanKind::Consumer));
    let trace = asked.span_context.trace_id();
    for span in [processed, worked] {
        assert_eq!(span.span_context.trace_id(), trace, "{}", span.name);
    }
    assert_eq!(processed.parent_span_id, asked.span_context.span_id());
    assert!(processed.parent_span_is_remote);
    let linked: Vec<_> = processed.links.iter().map(|link| link.span_context.span_id()).collect();
    assert_eq!(linked, [asked.span_context.span_id()]);
    assert_eq!(worked.parent_span_id, processed.span_context.span_id());
    let attribute = |name: &str| {
        let found = processed.attributes.iter().find(|attribute| attribute.key.as_str() == name);
        found.map(|attribute| attribute.value.to_string())
    };
    assert_eq!(attribute("messaging.system").as_deref(), Some("nats"));
    assert_eq!(attribute("messaging.operation.type").as_deref(), Some("process"));
    assert_eq!(attribute("messaging.destination.template"), Some(subject));
    assert_eq!(attribute("messaging.consumer.group.name").as_deref(), Some("entry"));
    let told = answer.headers.get(TRACEPARENT).unwrap();
    assert_eq!(told, format!("00-{trace}-{}-01", processed.span_context.span_id()));
}
