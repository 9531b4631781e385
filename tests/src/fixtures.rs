//! What the conformance suite of the Model Context Protocol wants a server to have: tools, prompts
//! and resources with fixed names and fixed answers. They stand in front of the real face, over
//! the same HTTP, and never in the program itself.

use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult,
    ContentBlock, ErrorData, GetPromptRequestParams, GetPromptResponse, GetPromptResult,
    InputRequiredResult, InputResponses, JsonObject, ListPromptsResult,
    ListResourceTemplatesResult, ListResourcesResult, ListToolsResult, PaginatedRequestParams,
    ProgressNotificationParam, Prompt, PromptArgument, PromptMessage, ReadResourceRequestParams,
    ReadResourceResponse, ReadResourceResult, Resource, ResourceContents, ResourceTemplate, Role,
    ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{RoleServer, ServerHandler};
use sandpit::mcp::Face;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One red point.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFAAH/VscvDQAAAABJRU5ErkJggg==";
/// No sound.
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";
/// What states are sealed with.
const SECRET: &[u8] = b"a secret of the tests";

type Asked = RequestContext<RoleServer>;
type Answer<T> = Result<T, ErrorData>;

/// The face with the fixtures before it.
#[derive(Clone, Debug)]
pub(crate) struct Fixtures(pub(crate) Face);

const TOOLS: [&str; 19] = [
    "test_simple_text",
    "test_image_content",
    "test_audio_content",
    "test_embedded_resource",
    "test_multiple_content_types",
    "test_error_handling",
    "test_tool_with_progress",
    "test_tool_with_logging",
    "test_logging_tool",
    "test_missing_capability",
    "test_streaming_elicitation",
    "test_input_required_result_elicitation",
    "test_input_required_result_sampling",
    "test_input_required_result_list_roots",
    "test_input_required_result_request_state",
    "test_input_required_result_multiple_inputs",
    "test_input_required_result_multi_round",
    "test_input_required_result_tampered_state",
    "test_input_required_result_capabilities",
];

const PROMPTS: [(&str, &[&str]); 5] = [
    ("test_simple_prompt", &[]),
    ("test_prompt_with_arguments", &["arg1", "arg2"]),
    ("test_prompt_with_embedded_resource", &["resourceUri"]),
    ("test_prompt_with_image", &[]),
    ("test_input_required_result_prompt", &[]),
];

impl ServerHandler for Fixtures {
    fn get_info(&self) -> ServerConfig {
        self.0.get_info()
    }

    async fn list_tools(
        &self,
        page: Option<PaginatedRequestParams>,
        context: Asked,
    ) -> Answer<ListToolsResult> {
        let mut listed = self.0.list_tools(page, context).await?;
        let schema = JsonObject::from_iter([("type".to_owned(), "object".into())]);
        let tools = TOOLS.map(|name| Tool::new(name, "A fixture.", schema.clone()));
        listed.tools.extend(tools);
        Ok(listed)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: Asked,
    ) -> Answer<CallToolResponse> {
        if TOOLS.contains(&&*request.name) {
            return call(request, &context).await;
        }
        self.0.call_tool(request, context).await
    }

    async fn list_resources(
        &self,
        page: Option<PaginatedRequestParams>,
        context: Asked,
    ) -> Answer<ListResourcesResult> {
        let mut listed = self.0.list_resources(page, context).await?;
        listed.resources.extend(["test://static-text", "test://static-binary"].map(|uri| {
            Resource::new(uri, uri).with_description("A fixture.").with_mime_type("text/plain")
        }));
        Ok(listed)
    }

    async fn list_resource_templates(
        &self,
        page: Option<PaginatedRequestParams>,
        context: Asked,
    ) -> Answer<ListResourceTemplatesResult> {
        let mut listed = self.0.list_resource_templates(page, context).await?;
        let template = ResourceTemplate::new("test://template/{id}/data", "template");
        listed.resource_templates.push(template);
        Ok(listed)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: Asked,
    ) -> Answer<ReadResourceResponse> {
        let uri = request.uri.clone();
        let words: Vec<&str> = uri.split('/').collect();
        let contents = match words[..] {
            ["test:", "", "static-text"] => {
                ResourceContents::text("This is the content of the static text resource.", &uri)
            }
            ["test:", "", "static-binary"] => {
                ResourceContents::blob(PNG, &uri).with_mime_type("image/png")
            }
            ["test:", "", "template", id, "data"] => {
                let data =
                    json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
                ResourceContents::text(data.to_string(), &uri).with_mime_type("application/json")
            }
            _ => return self.0.read_resource(request, context).await,
        };
        Ok(ReadResourceResult::new(vec![contents]).into())
    }

    async fn list_prompts(
        &self,
        page: Option<PaginatedRequestParams>,
        context: Asked,
    ) -> Answer<ListPromptsResult> {
        let mut listed = self.0.list_prompts(page, context).await?;
        listed.prompts.extend(PROMPTS.map(|(name, arguments)| {
            let arguments =
                arguments.iter().map(|name| PromptArgument::new(*name).with_required(true));
            Prompt::new(name, Some("A fixture."), Some(arguments.collect()))
        }));
        Ok(listed)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: Asked,
    ) -> Answer<GetPromptResponse> {
        if PROMPTS.iter().any(|(name, _)| *name == request.name) {
            return prompt(&request);
        }
        self.0.get_prompt(request, context).await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: Asked,
    ) -> Answer<CompleteResult> {
        self.0.complete(request, context).await
    }
}

async fn call(request: CallToolRequestParams, context: &Asked) -> Answer<CallToolResponse> {
    let responses = request.input_responses.unwrap_or_default();
    let state = request.request_state;
    let embedded = |uri: &str, kind: &str, text: &str| {
        ContentBlock::resource(ResourceContents::text(text, uri).with_mime_type(kind))
    };
    let content = match &*request.name {
        "test_simple_text" => {
            vec![ContentBlock::text("This is a simple text response for testing.")]
        }
        "test_image_content" => vec![ContentBlock::image(PNG, "image/png")],
        "test_audio_content" => vec![ContentBlock::audio(WAV, "audio/wav")],
        "test_embedded_resource" => vec![embedded(
            "test://embedded-resource",
            "text/plain",
            "This is an embedded resource content.",
        )],
        "test_multiple_content_types" => vec![
            ContentBlock::text("Multiple content types test:"),
            ContentBlock::image(PNG, "image/png"),
            embedded(
                "test://mixed-content-resource",
                "application/json",
                r#"{"test":"data","value":123}"#,
            ),
        ],
        "test_error_handling" => {
            let text = "This tool intentionally returns an error for testing";
            return Ok(CallToolResult::error(vec![ContentBlock::text(text)]).into());
        }
        "test_tool_with_progress" => {
            for done in [0.0, 50.0, 100.0] {
                if let Some(token) = context.meta.get_progress_token() {
                    let param = ProgressNotificationParam::new(token, done).with_total(100.0);
                    // Who asked and left does not hear it.
                    drop(context.peer.notify_progress(param).await);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            vec![ContentBlock::text("done")]
        }
        // The protocol is giving logging up, and nothing here tells it.
        "test_tool_with_logging" | "test_logging_tool" | "test_streaming_elicitation" => {
            vec![ContentBlock::text("done")]
        }
        "test_missing_capability" => {
            let mut needed = rmcp::model::ClientCapabilities::default();
            needed.sampling = Some(Default::default());
            if context.client_capabilities().is_none_or(|own| own.sampling.is_none()) {
                return Err(ErrorData::missing_required_client_capability(needed));
            }
            vec![ContentBlock::text("done")]
        }
        name => return rounds(name, &responses, state.as_deref(), context),
    };
    Ok(CallToolResult::success(content).into())
}

/// Tools that ask back.
fn rounds(
    name: &str,
    responses: &InputResponses,
    state: Option<&str>,
    context: &Asked,
) -> Answer<CallToolResponse> {
    let done = |text: String| Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into());
    let text_of = |key: &str, field: &str| {
        let content = &responses.get(key)?["content"];
        content[field].as_str().map(str::to_owned)
    };
    match name.trim_start_matches("test_input_required_result_") {
        "elicitation" => match text_of("user_name", "name") {
            Some(name) => done(format!("Hello, {name}!")),
            None => Ok(required(json!({ "user_name": ask_name() }), None)),
        },
        "sampling" => match responses.get("capital_question") {
            Some(answer) => done(answer.to_string()),
            None => Ok(required(json!({ "capital_question": ask_model() }), None)),
        },
        "list_roots" => match responses.get("client_roots") {
            Some(roots) => done(format!("roots: {}", roots["roots"])),
            None => Ok(required(json!({ "client_roots": ask_roots() }), None)),
        },
        "request_state" | "tampered_state" => match state {
            Some(state) => {
                opened(state)?;
                done("state-ok".to_owned())
            }
            None => Ok(required(
                json!({ "confirm": ask_for("Please confirm", "ok", "boolean") }),
                Some("confirm"),
            )),
        },
        "multiple_inputs" => {
            let all = ["user_name", "greeting", "client_roots"];
            if let Some(state) = state
                && all.iter().all(|key| responses.contains_key(*key))
            {
                opened(state)?;
                return done("all of them".to_owned());
            }
            let asked = json!({
                "user_name": ask_name(), "greeting": ask_model(), "client_roots": ask_roots(),
            });
            Ok(required(asked, Some("several")))
        }
        "multi_round" => {
            let round = state.map(opened).transpose()?;
            match round.as_deref() {
                Some("first") if responses.contains_key("step1") => {
                    let color = ask_for("Step 2: What is your favorite color?", "color", "string");
                    Ok(required(json!({ "step2": color }), Some("second")))
                }
                Some("second") if responses.contains_key("step2") => done("both".to_owned()),
                _ => {
                    let name = ask_for("Step 1: What is your name?", "name", "string");
                    Ok(required(json!({ "step1": name }), Some("first")))
                }
            }
        }
        "capabilities" => {
            let own = context.client_capabilities().unwrap_or_default();
            let mut asked = serde_json::Map::new();
            if own.sampling.is_some() {
                asked.insert("model".to_owned(), ask_model());
            }
            if own.elicitation.is_some() {
                asked.insert("person".to_owned(), ask_name());
            }
            Ok(required(Value::Object(asked), None))
        }
        other => Err(ErrorData::invalid_params(format!("no fixture {other}"), None)),
    }
}

fn ask_for(message: &str, field: &str, kind: &str) -> Value {
    json!({
        "method": "elicitation/create",
        "params": {
            "message": message,
            "requestedSchema": {
                "type": "object", "properties": { field: { "type": kind } }, "required": [field],
            },
        },
    })
}

fn ask_name() -> Value {
    ask_for("What is your name?", "name", "string")
}

fn ask_model() -> Value {
    let content = json!({ "type": "text", "text": "What is the capital of France?" });
    let messages = json!([{ "role": "user", "content": content }]);
    json!({
        "method": "sampling/createMessage", "params": { "messages": messages, "maxTokens": 100 },
    })
}

fn ask_roots() -> Value {
    json!({ "method": "roots/list", "params": {} })
}

fn required(asked: Value, state: Option<&str>) -> CallToolResponse {
    input(asked, state).into()
}

fn input(asked: Value, state: Option<&str>) -> InputRequiredResult {
    let mut result = json!({ "resultType": "input_required", "inputRequests": asked });
    if let Some(state) = state {
        result["requestState"] = sealed(state).into();
    }
    serde_json::from_value(result).expect("requests as the protocol has them")
}

fn sealed(state: &str) -> String {
    let digest = Sha256::new().chain_update(SECRET).chain_update(state).finalize();
    let seal: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{state}.{seal}")
}

fn opened(text: &str) -> Answer<String> {
    let state = text.split('.').next().unwrap_or_default();
    if sealed(state) == text {
        return Ok(state.to_owned());
    }
    Err(ErrorData::invalid_params("the state is not one of ours", None))
}

fn prompt(request: &GetPromptRequestParams) -> Answer<GetPromptResponse> {
    let given = |name: &str| {
        let value = request.arguments.as_ref().and_then(|all| all.get(name));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let user = |content| PromptMessage::new(Role::User, content);
    let messages = match request.name.as_str() {
        "test_simple_prompt" => {
            vec![user(ContentBlock::text("This is a simple prompt for testing."))]
        }
        "test_prompt_with_arguments" => {
            let (one, two) = (given("arg1"), given("arg2"));
            let text = format!("Prompt with arguments: arg1='{one}', arg2='{two}'");
            vec![user(ContentBlock::text(text))]
        }
        "test_prompt_with_embedded_resource" => {
            let text = "Embedded resource content for testing.";
            let resource = ResourceContents::text(text, given("resourceUri"));
            vec![
                user(ContentBlock::resource(resource)),
                user(ContentBlock::text("Please process the embedded resource above.")),
            ]
        }
        "test_prompt_with_image" => vec![
            user(ContentBlock::image(PNG, "image/png")),
            user(ContentBlock::text("Please analyze the image above.")),
        ],
        _ => {
            let responses = request.input_responses.clone().unwrap_or_default();
            let Some(context) = responses.get("user_context") else {
                let what = "What context should the prompt use?";
                let asked = json!({ "user_context": ask_for(what, "context", "string") });
                return Ok(input(asked, None).into());
            };
            vec![user(ContentBlock::text(context["content"].to_string()))]
        }
    };
    Ok(GetPromptResult::new(messages).into())
}
