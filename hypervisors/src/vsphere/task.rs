//! Waiting for the server's tasks: looked at again and again, ever less often, until they have ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;
use vim_rs::types::structs::ManagedObjectReference;

use super::props::Seen;
use super::session::Session;
use super::{Trouble, props, wrong};
use crate::host::printable;
use crate::{Cause, Error, Result};

/// First pause between two looks, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// How long it may be looked in vain: the server's restart takes minutes, and its tasks are the hosts'.
const BLIND: Duration = Duration::from_secs(300);
/// How often it is looked whether the machine waits for an answer.
const ASKING: Duration = Duration::from_secs(30);
/// Longest that a task is waited for. Folding large disks takes hours.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Waits for the end of a task that was begun; its result, if it has one. Progress goes to the trace.
pub(super) async fn ended(
    session: &Arc<Session>,
    doing: &str,
    task: Result<ManagedObjectReference, Trouble>,
) -> Result<Value> {
    let task = task.map_err(|trouble| wrong(doing, trouble))?;
    let begun = Instant::now();
    let (mut seen_at, mut asked_at, mut pause, mut last) = (begun, begun, PAUSE.0, None);
    loop {
        let paths = ["info.state", "info.progress", "info.error", "info.result", "info.entity"];
        match props::of(session, &task, &paths).await.map_err(|trouble| wrong(doing, trouble)) {
            Ok(Some(seen)) => {
                if let Some(result) = end(doing, &seen)? {
                    return Ok(result);
                }
                let progress = seen.get::<u64>("info.progress");
                if progress != last {
                    tracing::info!(task = task.value, percent = progress, "{doing}");
                    last = progress;
                }
                if asked_at.elapsed() >= ASKING {
                    asked_at = Instant::now();
                    answerable(session, doing, &seen).await?;
                }
                seen_at = Instant::now();
            }
            Ok(None) => return Err(Error::unknown(doing, format!("its task {} is forgotten", task.value))),
            Err(error) if error.is_unknown() && seen_at.elapsed() < BLIND => {
                tracing::debug!(task = task.value, %error, "looked in vain");
            }
            // It goes on without us.
            Err(error) => {
                return Err(Error::unknown(doing, format!("its task {} cannot be looked at: {error}", task.value)));
            }
        }
        if begun.elapsed() >= PATIENCE {
            let hours = PATIENCE.as_secs() / 3600;
            return Err(Error::unknown(doing, format!("its task {} still runs after {hours} h", task.value)));
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(PAUSE.1);
    }
}

/// The result of a task that has ended; `None`: it has not.
fn end(doing: &str, seen: &Seen) -> Result<Option<Value>> {
    match seen.text("info.state") {
        Some("success") => Ok(Some(seen.properties.get("info.result").cloned().unwrap_or_default())),
        Some("error") => {
            let fault = seen.properties.get("info.error").cloned().unwrap_or_default();
            Err(Error::new(doing, super::cause(&fault)))
        }
        Some("queued" | "running") => Ok(None),
        other => Err(Error::new(doing, Cause::Malformed(format!("its task is {other:?}")))),
    }
}

/// A machine that asks something holds its task up until a person has answered (`VirtualMachineRuntimeInfo.question`).
async fn answerable(session: &Arc<Session>, doing: &str, task: &Seen) -> Result<()> {
    let entity = task.properties.get("info.entity").and_then(|of| props::typed::<ManagedObjectReference>(of).ok());
    match entity.filter(|of| of.r#type.as_str() == "VirtualMachine") {
        Some(machine) => answered(session, doing, &machine).await,
        None => Ok(()),
    }
}

/// Whether a machine asks nothing.
pub(super) async fn answered(session: &Arc<Session>, doing: &str, machine: &ManagedObjectReference) -> Result<()> {
    match props::of(session, machine, &["runtime.question"]).await {
        Ok(Some(machine)) => question(&machine).map_or(Ok(()), |text| {
            Err(Error::unknown(doing, format!("the machine asks: {text}"))
                .help("answer it in the platform's own client: the task goes on then"))
        }),
        // The next look at the task tells more.
        _ => Ok(()),
    }
}

fn question(machine: &Seen) -> Option<String> {
    let text = machine.properties.get("runtime.question")?.get("text")?.as_str()?;
    Some(printable(text).chars().take(300).collect())
}

/// Whether a task is queued or runs on an object (`ManagedEntity.recentTask`: those that operate on it, or did of late).
pub(super) async fn works_on(session: &Arc<Session>, doing: &str, of: &ManagedObjectReference) -> Result<bool> {
    let seen = props::of(session, of, &["recentTask"]).await.map_err(|trouble| wrong(doing, trouble))?;
    let tasks: Vec<ManagedObjectReference> =
        seen.and_then(|seen| props::typed(seen.properties.get("recentTask")?).ok()).unwrap_or_default();
    match props::of_each(session, &tasks, "Task", &["info.state"]).await {
        Ok(tasks) => Ok(tasks.iter().any(|task| matches!(task.text("info.state"), Some("queued" | "running")))),
        // One was forgotten meanwhile: it is to be looked again.
        Err(trouble) if trouble.is("ManagedObjectNotFound") => Ok(true),
        Err(trouble) => Err(wrong(doing, trouble)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;
    use vim_rs::types::enums::MoTypesEnum;

    use super::*;

    fn seen(properties: Value) -> Seen {
        let Value::Object(properties) = properties else { panic!("{properties}") };
        Seen { reference: props::reference(MoTypesEnum::Task, "task-1"), properties }
    }

    #[test]
    fn how_a_task_stands() {
        assert_eq!(end("x", &seen(json!({"info.state": "running"}))).unwrap(), None);
        assert_eq!(end("x", &seen(json!({"info.state": "success", "info.result": 7}))).unwrap(), Some(json!(7)));
        // Another task may well be an earlier one of ours, whose answer was lost.
        let fault = json!({"fault": {"_typeName": "TaskInProgress"}, "localizedMessage": "busy"});
        let error = end("x", &seen(json!({"info.state": "error", "info.error": fault}))).unwrap_err();
        assert!(error.is_unknown(), "{error}");
        assert!(matches!(end("x", &seen(json!({}))).unwrap_err().cause, Cause::Malformed(_)));
    }

    #[test]
    fn what_a_machine_asks() {
        let asks = json!({"runtime.question": {"id": "1", "text": "Did you move it,\u{1b}[2J or copy it?"}});
        assert!(question(&seen(asks)).unwrap().starts_with("Did you move it,"));
        assert_eq!(question(&seen(json!({"runtime.question": null}))), None);
        assert_eq!(question(&seen(json!({}))), None);
    }
}
