//! From what a caller wrote to the message it means: at once where it is written as our types have
//! it, and by way of the dialects where it is not.

use sandpit_messages::envelope::IDEMPOTENCY_KEY;
use sandpit_messages::id::SandboxId;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::schema;
use sandpit_messages::subject::Request;
use sandpit_messages::tool::{self, Tool};
use schemars::JsonSchema;
use serde_json::{Map, Value};

use super::{Call, Entry, dialect};
use crate::bus::ingress::{self, Arguments};
use crate::pool::ListFacts;
use crate::pool::policy::Facts;

/// Sandboxes of one name that a refusal lists.
const SAME_NAME_MAX: usize = 16;

impl Entry {
    /// The request that a message makes.
    ///
    /// # Errors
    /// The refusals of [`ingress::read`] and of [`dialect::normalize`], and those of a name that
    /// is no sandbox's, or of more than one.
    pub(super) async fn read<R: Request + JsonSchema>(&self, call: &Call) -> Result<R, Refusal> {
        let ask = match ingress::read::<R>(&call.request.message, call.sandbox)? {
            Arguments::Plain(ask) => ask,
            Arguments::Other(fields) => self.read_closely(call, fields).await?,
        };
        match call.tool {
            Some(tool) if !tool.demands.is_empty() => demanded(tool, &ask)?,
            _ => (),
        }
        Ok(ask)
    }

    async fn read_closely<R: Request + JsonSchema>(
        &self,
        call: &Call,
        mut fields: Map<String, Value>,
    ) -> Result<R, Refusal> {
        let schema = schema::of::<R>();
        let asked = call.tool.map_or(R::VERB, |tool| tool.name);
        if tool::takes_key(R::VERB, R::REPLAY)
            && let Some(key) = fields.remove(tool::KEY)
        {
            lift_key(call, key)?;
        }
        let mut fields = dialect::normalize(asked.as_str(), &schema, fields)?;
        if let Some(Value::String(named)) = fields.get("sandbox_id")
            && named.parse::<SandboxId>().is_err()
        {
            let sandbox = self.called(call, named).await?;
            fields.insert("sandbox_id".to_owned(), Value::String(sandbox.to_string()));
        }
        let read = R::deserialize(&fields);
        read.map_err(|error| dialect::culprit::<R>(&fields, &error.to_string()))
    }

    /// The one sandbox that runs under this name.
    async fn called(&self, call: &Call, named: &str) -> Result<SandboxId, Refusal> {
        let facts = self.ports.pool.ask_settled(ListFacts(call.tenant.clone())).await?;
        let is_it = |fact: &&Facts| fact.ended.is_none() && fact.name == named;
        let ids: Vec<_> = facts.iter().filter(is_it).map(|fact| fact.sandbox).collect();
        let name: String = named.chars().take(128).collect();
        match ids[..] {
            [sandbox] => Ok(sandbox),
            [] => Err(Refusal::NoSuchName { name }),
            _ => {
                let ids = ids.into_iter().take(SAME_NAME_MAX).collect();
                Err(Refusal::AmbiguousName { name, ids })
            }
        }
    }
}

/// A key among the arguments counts as one in the headers, which win.
fn lift_key(call: &Call, key: Value) -> Result<(), Refusal> {
    match key {
        Value::Null => Ok(()),
        Value::String(key) => {
            let of_headers = call.request.message.headers.get(IDEMPOTENCY_KEY);
            if of_headers.is_some_and(|header| header != key) {
                return Err(Refusal::Argument {
                    field: tool::KEY.to_owned(),
                    came: key.chars().take(64).collect(),
                    expected: format!("the key of the {IDEMPOTENCY_KEY} header, or none"),
                });
            }
            // It is set once: a call is read once.
            call.key.set(key).ok();
            Ok(())
        }
        other => Err(Refusal::Argument {
            field: tool::KEY.to_owned(),
            came: other.to_string().chars().take(64).collect(),
            expected: "text".to_owned(),
        }),
    }
}

/// A tool may demand what its verb does not.
fn demanded<R: Request>(tool: &Tool, ask: &R) -> Result<(), Refusal> {
    let told = serde_json::to_value(ask).unwrap_or_default();
    match tool.demands.iter().find(|name| told[**name].is_null()) {
        None => Ok(()),
        Some(name) => Err(Refusal::Argument {
            field: (*name).to_owned(),
            came: "missing".to_owned(),
            expected: "text".to_owned(),
        }),
    }
}
