//! The journal as steps see it.

use std::sync::Arc;

use serde_json::Value;

use crate::engine::history;
use crate::journal::{Journal, JournalError};
use crate::steps::{Memory, StepError, StepRef};

/// What a run remembers, from its journal.
pub struct RunMemory {
    journal: Arc<dyn Journal>,
    run: String,
}

impl RunMemory {
    /// Of this run.
    pub fn new(journal: Arc<dyn Journal>, run: &str) -> Self {
        Self { journal, run: run.to_owned() }
    }

    fn history(&self, step: StepRef) -> Result<history::StepHistory, StepError> {
        let events = self.journal.events(&self.run).map_err(memory)?;
        Ok(history::of_plan(&events, step.plan, step.index + 1).pop().unwrap_or_default())
    }
}

fn memory(error: JournalError) -> StepError {
    StepError::Memory(error.to_string())
}

impl Memory for RunMemory {
    fn keep(&self, bytes: &[u8]) -> Result<String, StepError> {
        self.journal.put_blob(bytes).map_err(memory)
    }
    fn recall(&self, sha256: &str) -> Result<Vec<u8>, StepError> {
        self.journal.blob(sha256).map_err(memory)
    }
    fn found(&self, step: StepRef) -> Result<Option<Value>, StepError> {
        Ok(self.history(step)?.found)
    }
    fn done(&self, step: StepRef) -> Result<Option<Value>, StepError> {
        Ok(self.history(step)?.done.map(|done| done["done"].clone()))
    }
}
