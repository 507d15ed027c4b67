//! Waiting for the server's tasks: looked at again and again, ever less often, until they have ended.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;
use vim_rs::types::structs::ManagedObjectReference;

use super::session::Session;
use super::{Trouble, props, wrong};
use crate::{Cause, Error, Result};

/// First pause between two looks, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Waits for the end of a task that was begun; its result, if it has one. Progress goes to the trace.
pub(super) async fn ended(
    session: &Arc<Session>,
    doing: &str,
    task: Result<ManagedObjectReference, Trouble>,
) -> Result<Value> {
    let task = task.map_err(|trouble| wrong(doing, trouble))?;
    let mut pause = PAUSE.0;
    let mut last = None;
    loop {
        let paths = ["info.state", "info.progress", "info.error", "info.result"];
        let seen = match props::of(session, &task, &paths).await {
            Ok(Some(seen)) => seen,
            Ok(None) => return Err(Error::unknown(doing, format!("its task {} is forgotten", task.value))),
            // It goes on without us.
            Err(trouble) => {
                let error = wrong(doing, trouble);
                return Err(Error::unknown(doing, format!("its task {} cannot be looked at: {error}", task.value)));
            }
        };
        match seen.text("info.state") {
            Some("success") => return Ok(seen.properties.get("info.result").cloned().unwrap_or_default()),
            Some("error") => {
                let fault = seen.properties.get("info.error").cloned().unwrap_or_default();
                return Err(Error::new(doing, super::cause(&fault)));
            }
            Some("queued" | "running") => {
                let progress = seen.get::<u64>("info.progress");
                if progress != last {
                    tracing::info!(task = task.value, percent = progress, "{doing}");
                    last = progress;
                }
            }
            other => return Err(Error::new(doing, Cause::Malformed(format!("its task is {other:?}")))),
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSE.1);
    }
}
