//! Contexts of the code interpreter.

use async_trait::async_trait;
use reqwest::Method;
use sandpit_messages::id::SandboxId;

use super::http::{Answer, ask, json};
use super::wire::INTERPRETER_PORT;
use super::wire::interpreter::{Context as Told, NewContext};
use super::{Cloud, E2b};
use crate::ProviderError;
use crate::provider::contexts::{Context, ContextId, Contexts};

/// The language of our cells.
const LANGUAGE: &str = "python";

impl Cloud {
    async fn context(
        &self,
        sandbox: SandboxId,
        method: Method,
        path: &str,
        body: Option<&NewContext>,
    ) -> Result<Answer, ProviderError> {
        let remote = self.open(sandbox).await?;
        let request = self.data(&remote, INTERPRETER_PORT, method, path);
        ask(match body {
            Some(body) => json(request, body),
            None => request,
        })
        .await
    }

    fn about_context(
        &self,
        sandbox: SandboxId,
        context: &ContextId,
        answer: &Answer,
    ) -> Result<(), ProviderError> {
        match answer.status {
            200..300 => Ok(()),
            404 => Err(ProviderError::NoSuchContext(context.clone())),
            _ => Err(self.noted(sandbox, answer.fault(Some(sandbox)))),
        }
    }
}

fn read(told: Told, is_default: bool) -> Context {
    Context { id: ContextId(told.id), language: told.language, cwd: told.cwd, is_default }
}

/// Names of contexts go into paths as they are.
fn path(context: &ContextId, rest: &str) -> Result<String, ProviderError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if context.0.is_empty() || !context.0.bytes().all(plain) {
        return Err(ProviderError::NoSuchContext(context.clone()));
    }
    Ok(format!("/contexts/{context}{rest}"))
}

#[async_trait]
impl Contexts for E2b {
    async fn create(
        &self,
        sandbox: SandboxId,
        cwd: Option<&str>,
    ) -> Result<Context, ProviderError> {
        let language = Some(LANGUAGE.to_owned());
        let body = NewContext { language, cwd: cwd.map(str::to_owned) };
        let answer = self.0.context(sandbox, Method::POST, "/contexts", Some(&body)).await?;
        if !answer.is_success() {
            return Err(self.0.noted(sandbox, answer.fault(Some(sandbox))));
        }
        Ok(read(answer.read()?, false))
    }

    async fn list(&self, sandbox: SandboxId) -> Result<Vec<Context>, ProviderError> {
        let answer = self.0.context(sandbox, Method::GET, "/contexts", None).await?;
        if !answer.is_success() {
            return Err(self.0.noted(sandbox, answer.fault(Some(sandbox))));
        }
        let told: Vec<Told> = answer.read()?;
        // The defaults come first; ours is the first that understands our cells.
        let first = told.iter().position(|context| context.language == LANGUAGE);
        let all = told.into_iter().enumerate();
        let mut all: Vec<_> = all.map(|(at, told)| read(told, Some(at) == first)).collect();
        all.sort_by_key(|context| !context.is_default);
        Ok(all)
    }

    async fn restart(&self, sandbox: SandboxId, context: &ContextId) -> Result<(), ProviderError> {
        let path = path(context, "/restart")?;
        let answer = self.0.context(sandbox, Method::POST, &path, None).await?;
        self.0.about_context(sandbox, context, &answer)
    }

    async fn remove(&self, sandbox: SandboxId, context: &ContextId) -> Result<(), ProviderError> {
        let path = path(context, "")?;
        let answer = self.0.context(sandbox, Method::DELETE, &path, None).await?;
        self.0.about_context(sandbox, context, &answer)
    }
}
