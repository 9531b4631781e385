//! What a caller says about a call without every signature on the way knowing of it.

use sandpit_messages::time::Moment;

use super::bulkhead::Urgency;

tokio::task_local! {
    static TERMS: Terms;
}

/// How long a call may take, how urgent it is, and whether it may be made twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Nothing is begun after this, and nothing waited for.
    pub deadline: Option<Moment>,
    /// Who goes first where not everybody can.
    pub urgency: Urgency,
    /// Whether an execution does the same when it runs twice. Without this, one that may have run
    /// is not sent again.
    pub repeatable: bool,
}

impl Terms {
    /// Makes calls on these terms.
    pub async fn over<T>(self, calls: impl Future<Output = T>) -> T {
        TERMS.scope(self, calls).await
    }

    /// Those of the call under way; the usual ones where nobody set any.
    pub fn current() -> Self {
        TERMS.try_with(|terms| *terms).unwrap_or_default()
    }
}
