//! What goes with an operation beside its arguments and its result: why it is done, in words that a platform may keep with what
//! it changes (the message of a commit), and what the platform has to tell people although it succeeded.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

/// An occasion for operations.
#[derive(Debug, Default)]
pub struct Occasion {
    reason: Option<String>,
    notices: Mutex<Vec<String>>,
}

tokio::task_local! {
    static OCCASION: Arc<Occasion>;
}

impl Occasion {
    /// An occasion with its reason: `mercure--k3f9: change the definition of mercure`.
    pub fn new(reason: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { reason: Some(reason.into()), notices: Mutex::default() })
    }
    /// Does `work` on this occasion. A task that `work` spawns has none.
    pub async fn during<F: Future>(self: Arc<Self>, work: F) -> F::Output {
        OCCASION.scope(self, work).await
    }
    /// What was told since this was last asked.
    pub fn notices(&self) -> Vec<String> {
        std::mem::take(&mut self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The reason of the current occasion, if there is one.
pub(crate) fn reason() -> Option<String> {
    OCCASION.try_with(|occasion| occasion.reason.clone()).ok().flatten()
}

/// Tells something to whoever gave the occasion, and the log.
pub(crate) fn notice(words: String) {
    tracing::warn!("{words}");
    let _ = OCCASION.try_with(|occasion| {
        occasion.notices.lock().unwrap_or_else(PoisonError::into_inner).push(words.clone());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reasons_go_in_and_notices_come_out() {
        assert_eq!(reason(), None);
        notice("to nobody".into());
        let occasion = Occasion::new("why");
        let seen = Arc::clone(&occasion)
            .during(async {
                notice("one".into());
                reason()
            })
            .await;
        assert_eq!(seen.as_deref(), Some("why"));
        assert_eq!((occasion.notices(), occasion.notices()), (vec!["one".to_owned()], Vec::new()));
    }
}
