//! Answers, and what refusals become on each plane.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use sandpit_messages::problem::Ran;
use sandpit_messages::refusal::Refusal;
use sandpit_sandbox::ProviderError;
use sandpit_sandbox::e2b::wire::fault::{Code, ConnectError, PlainError, ProxyError, QUOTA};
use sandpit_sandbox::e2b::wire::{JSON, header as names};
use sandpit_sandbox::provider::files::FileFault;
use sandpit_sandbox::provider::processes::ProcessFault;
use serde::Serialize;

/// Seconds after which a client asks again that met a bound.
const RETRY_AFTER_S: u64 = 1;

/// An answer in JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).expect("text and numbers can be written");
    with_type(status, JSON, text.into())
}

/// An answer in plain text.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response {
    with_type(status, "text/plain; charset=utf-8", text.into().into())
}

/// An answer of some other kind.
pub(super) fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Done, and nothing to say about it.
pub(super) fn nothing() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// A failure of the control plane and of plain paths. Its number is said twice.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) status: StatusCode,
    pub(super) message: String,
    error_code: Option<&'static str>,
    retry: Retry,
}

/// Whether asking again may help.
#[derive(Clone, Copy, Debug)]
enum Retry {
    Unsaid,
    After(u64),
    Never,
}

impl Plain {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), error_code: None, retry: Retry::Unsaid }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Something that is not there, and what to use instead.
    pub(super) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// A key whose first request is still under way.
    pub(super) fn in_progress() -> Self {
        let message = "a request with this idempotency key is under way";
        Self {
            error_code: Some("idempotency_in_progress"),
            retry: Retry::After(RETRY_AFTER_S),
            ..Self::new(StatusCode::CONFLICT, message)
        }
    }

    fn retried(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }
}

impl From<Refusal> for Plain {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        let again = Retry::After(RETRY_AFTER_S);
        match refusal {
            Refusal::KeyReused => Self {
                error_code: Some("idempotency_request_mismatch"),
                ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, message).retried(Retry::Never)
            },
            Refusal::Quota { max, .. } | Refusal::OverQuota { max, .. } => {
                let message = format!("the {QUOTA} sandboxes is reached: {max}");
                Self::new(StatusCode::TOO_MANY_REQUESTS, message).retried(Retry::Never)
            }
            Refusal::Busy { retry_after, .. } | Refusal::Building { retry_after } => {
                let seconds = retry_after.as_secs().max(RETRY_AFTER_S);
                Self::new(StatusCode::TOO_MANY_REQUESTS, message).retried(Retry::After(seconds))
            }
            Refusal::WaitedTooLong { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, message).retried(again)
            }
            Refusal::Draining
            | Refusal::Unsettled { .. }
            | Refusal::Restarting
            | Refusal::Provider { ran: Ran::No, .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message).retried(again)
            }
            Refusal::Conflict { .. } | Refusal::Paused { .. } => {
                Self::new(StatusCode::CONFLICT, message)
            }
            Refusal::Unsupported { .. } => Self::missing(message),
            other => match other.problem().kind.as_str() {
                "not_found" | "gone" => Self::not_found(message),
                "invalid_argument" | "too_large" => Self::bad(message),
                _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
            },
        }
    }
}

impl From<ProviderError> for Plain {
    fn from(error: ProviderError) -> Self {
        let message = error.to_string();
        let status = match &error {
            ProviderError::Gone(_) | ProviderError::Paused(_) => StatusCode::BAD_GATEWAY,
            ProviderError::File { fault, .. } => match fault {
                FileFault::Missing => StatusCode::NOT_FOUND,
                FileFault::Full => StatusCode::INSUFFICIENT_STORAGE,
                FileFault::Denied => StatusCode::FORBIDDEN,
                FileFault::Exists
                | FileFault::NotDirectory
                | FileFault::IsDirectory
                | FileFault::NotRegular
                | FileFault::Invalid
                | FileFault::Loop => StatusCode::BAD_REQUEST,
            },
            ProviderError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ProviderError::NoSuchContext(_) => StatusCode::NOT_FOUND,
            ProviderError::Unsupported { .. } => StatusCode::NOT_IMPLEMENTED,
            ProviderError::Refused { .. } => StatusCode::BAD_REQUEST,
            ProviderError::Busy { .. }
            | ProviderError::Quota { .. }
            | ProviderError::Throttled { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, message)
    }
}

impl From<Plain> for Response {
    fn from(plain: Plain) -> Self {
        let Plain { status, message, error_code, retry } = plain;
        let body = PlainError {
            code: status.as_u16(),
            message,
            error_code: error_code.map(str::to_owned),
        };
        let mut response = json(status, &body);
        let headers = response.headers_mut();
        let should_retry = HeaderName::from_static(names::SHOULD_RETRY);
        match retry {
            Retry::Unsaid => {}
            Retry::Never => drop(headers.insert(should_retry, HeaderValue::from_static("false"))),
            Retry::After(seconds) => {
                headers.insert(header::RETRY_AFTER, seconds.into());
                headers.insert(should_retry, HeaderValue::from_static("true"));
            }
        }
        response
    }
}

/// A sandbox that cannot be reached.
pub(super) fn unreachable(error: &ProxyError) -> Response {
    json(StatusCode::BAD_GATEWAY, error)
}

/// A failed unary call.
pub(super) fn unary(error: &ConnectError) -> Response {
    let status = StatusCode::from_u16(error.code.http_status());
    json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), error)
}

/// What a failure of the provider is called by processes and files.
pub(super) fn connect(error: &ProviderError) -> ConnectError {
    let code = match error {
        ProviderError::Gone(_) | ProviderError::Paused(_) => return not_found(),
        ProviderError::File { fault, .. } => match fault {
            FileFault::Missing => Code::NotFound,
            FileFault::Exists => Code::AlreadyExists,
            FileFault::Denied => Code::PermissionDenied,
            FileFault::Full => Code::ResourceExhausted,
            FileFault::NotDirectory
            | FileFault::IsDirectory
            | FileFault::NotRegular
            | FileFault::Invalid
            | FileFault::Loop => Code::InvalidArgument,
        },
        ProviderError::Process { fault, .. } => match fault {
            ProcessFault::Missing => Code::NotFound,
            ProcessFault::NoInput | ProcessFault::NoTerminal | ProcessFault::HasTerminal => {
                Code::FailedPrecondition
            }
        },
        ProviderError::Unsupported { .. } => Code::Unimplemented,
        ProviderError::Throttled { .. }
        | ProviderError::Busy { .. }
        | ProviderError::Quota { .. } => Code::ResourceExhausted,
        ProviderError::Refused { .. } | ProviderError::TooLarge { .. } => Code::InvalidArgument,
        ProviderError::Timeout { .. } => Code::DeadlineExceeded,
        ProviderError::Denied { .. } => Code::PermissionDenied,
        _ => Code::Internal,
    };
    ConnectError::new(code, error.to_string())
}

/// The sandbox ended, or stands still.
pub(super) fn not_found() -> ConnectError {
    let message = ProxyError::not_found("").message;
    ConnectError::new(Code::Unavailable, message)
}
