//! What the commands of each step printed: one file a step in the run's directory.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hypervisors::host::{CommandRecord, printable, shell_quote};

use crate::engine::event::StepInfo;

/// A step's log stops growing here.
const LIMIT: u64 = 4 << 20;

/// Writes step logs.
pub struct StepLog {
    dir: PathBuf,
}

/// The log of a step: `output/PLAN-STEP.log`, the step counted from 1.
pub fn path(run_dir: &Path, plan: i64, step: usize) -> PathBuf {
    run_dir.join("output").join(format!("{plan:04}-{step:02}.log"))
}

impl StepLog {
    /// Below this run directory.
    pub fn new(run_dir: &Path) -> Self {
        Self { dir: run_dir.to_owned() }
    }

    /// Adds a command. The log is a convenience: what cannot be written is dropped, the journal has the results.
    pub fn write(&self, step: Option<&StepInfo>, command: &CommandRecord) {
        let Some(step) = step else { return };
        let path = path(&self.dir, step.plan, step.index);
        if let Some(parent) = path.parent() {
            let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let Ok(mut file) = file else { return };
        if file.metadata().is_ok_and(|data| data.len() > LIMIT) {
            return;
        }
        let status = command.status.map_or_else(|| "did not end".to_owned(), |status| status.to_string());
        let mut text = format!(
            "{} {}$ {}\n",
            jiff::Timestamp::now().strftime("%FT%TZ"),
            command.host,
            shell_quote(&command.argv)
        );
        for bytes in [&command.stdout_tail, &command.stderr_tail] {
            for line in String::from_utf8_lossy(bytes).lines() {
                text.push_str("    ");
                text.push_str(&printable(line));
                text.push('\n');
            }
        }
        text.push_str(&format!("    status {status}, {:.2} s\n", command.elapsed.as_secs_f64()));
        let _ = file.write_all(text.as_bytes());
    }
}
