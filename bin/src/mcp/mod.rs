//! The face for assistants: tools, resources and prompts over the Model Context Protocol.
//!
//! It does nothing by itself. A call becomes a request on the bus under the tool's own name, and
//! what comes back is handed on; who asks over NATS gets the same.

mod answer;
mod call;
mod catalogue;
pub mod http;
mod kept;
mod pace;
mod prompts;
mod resources;
pub mod stdio;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult,
    GetPromptRequestParams, GetPromptResponse, Implementation, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities, ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use sandpit_actors::bus::nats::NatsBus;
use sandpit_actors::bus::{AskError, Bus, SendError};
use sandpit_actors::clock::Clock;
use sandpit_config::BusConfig;
use sandpit_messages::time::Moment;
use tokio::sync::{OnceCell, watch};

use crate::client::Client;
use crate::session::Endpoint;
use catalogue::Catalogue;
use kept::Kept;

/// How long a list of tools or prompts stays as it is: until the node is another version.
const LIST_TTL_MS: u64 = 60_000;

/// Longest the end of a session waits for the end of what it was doing.
const SETTLE_MAX: Duration = Duration::from_secs(6);

/// What an assistant is told when it connects.
const INSTRUCTIONS: &str = "Isolated sandboxes to run code in. Begin with \
    create_e2b_sandbox and keep the sandbox_id it answers; run code with execute_e2b_process \
    (`code` is a Python cell whose variables stay, `command` a shell line); end with \
    terminate_e2b_sandbox. An answer with isError says in `detail` which argument was wrong, what \
    is accepted and what to do next. Agents trade on paper only.";

/// The face. Clone it freely: whatever it knows is shared.
#[derive(Clone)]
pub struct Face(Arc<Shared>);

struct Shared {
    line: Line,
    catalogue: Catalogue,
    kept: Mutex<Kept>,
    closing: watch::Sender<bool>,
    /// Calls that are being answered or stopped.
    under_way: watch::Sender<usize>,
}

impl fmt::Debug for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Face({:?})", self.0.line.endpoint.urls)
    }
}

impl Face {
    /// A face of whatever answers at `endpoint`. It connects when it is first needed.
    pub fn new(endpoint: Endpoint, config: BusConfig) -> Self {
        let clock = Clock::start();
        let line = Line { endpoint, config, clock, client: OnceCell::new() };
        let (closing, under_way) = (watch::Sender::new(false), watch::Sender::new(0));
        let (catalogue, kept) = (Catalogue::new(), Mutex::default());
        Self(Arc::new(Shared { line, catalogue, kept, closing, under_way }))
    }

    /// Ends what is still being done for somebody: nobody will hear of it.
    pub fn close(&self) {
        self.0.closing.send_replace(true);
    }

    /// Waits until nothing is being done for anybody, in bounded time.
    async fn settled(&self) {
        let mut under_way = self.0.under_way.subscribe();
        let none = under_way.wait_for(|calls| *calls == 0);
        if tokio::time::timeout(SETTLE_MAX, none).await.is_err() {
            tracing::warn!("calls that were given up are still being stopped");
        }
    }

    async fn client(&self) -> Result<&Client, AskError> {
        self.0.line.client().await
    }

    /// One call more, until what this answers is dropped.
    fn begin(&self) -> UnderWay {
        self.0.under_way.send_modify(|calls| *calls += 1);
        UnderWay(Arc::clone(&self.0))
    }

    fn now(&self) -> Moment {
        self.0.line.clock.now()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whoever panicked here did so between two whole steps.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is under way.
struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|calls| *calls -= 1);
    }
}

/// The connection to the bus, made by whoever needs it first.
struct Line {
    endpoint: Endpoint,
    config: BusConfig,
    clock: Clock,
    client: OnceCell<Client>,
}

impl Line {
    async fn client(&self) -> Result<&Client, AskError> {
        let connect = || async {
            let options = self.endpoint.options(&self.config, "sandpit-mcp", self.clock);
            let bus: Arc<dyn Bus> = Arc::new(NatsBus::connect(options).await.map_err(|error| {
                tracing::warn!(%error, "the bus is not to be reached");
                AskError::NotSent(SendError::NotConnected)
            })?);
            Ok(Client::new(bus, self.clock))
        };
        self.client.get_or_try_init(connect).await
    }
}

type Asked = RequestContext<RoleServer>;

impl ServerHandler for Face {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_prompts()
            .enable_completions()
            .build();
        ServerConfig::new(capabilities)
            .with_server_info(
                Implementation::new("sandpit", env!("CARGO_PKG_VERSION")).with_title("sandpit"),
            )
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Asked,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = ListToolsResult::with_all_items(self.0.catalogue.listed());
        Ok(tools.with_ttl_ms(LIST_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: Asked,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(known) = self.0.catalogue.named(&request.name) else {
            let names = self.0.catalogue.names().join(", ");
            let name: String = request.name.chars().take(64).collect();
            let message = format!("there is no tool `{name}`; there are {names}");
            return Err(ErrorData::invalid_params(message, None));
        };
        let arguments = request.arguments.unwrap_or_default();
        Ok(self.call(known, arguments, context).await.into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Asked,
    ) -> Result<ListResourcesResult, ErrorData> {
        let resources = ListResourcesResult::with_all_items(self.resources());
        Ok(resources.with_ttl_ms(0).with_cache_scope(CacheScope::Private))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Asked,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let templates = ListResourceTemplatesResult::with_all_items(resources::templates());
        Ok(templates.with_ttl_ms(LIST_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _: Asked,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let read = self.read(&request.uri).await?;
        Ok(read.with_ttl_ms(0).with_cache_scope(CacheScope::Private).into())
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Asked,
    ) -> Result<ListPromptsResult, ErrorData> {
        let prompts = ListPromptsResult::with_all_items(prompts::all());
        Ok(prompts.with_ttl_ms(LIST_TTL_MS).with_cache_scope(CacheScope::Private))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _: Asked,
    ) -> Result<GetPromptResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        Ok(prompts::of(&request.name, &arguments)?.into())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _: Asked,
    ) -> Result<CompleteResult, ErrorData> {
        self.completed(&request.argument.name, &request.argument.value).await
    }
}
