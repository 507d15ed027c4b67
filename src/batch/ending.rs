//! What the end of a controller's work means: exit code, and what to type next. Pure.

use std::path::Path;

use super::run::{Controller, End};
use super::schedule::Halt;
use crate::lifecycle::error::exit;

/// Exit code, and why the batch did not come to its end, with the command to go on with. `file`: as it was typed.
pub fn verdict(end: End, controller: &Controller, file: &Path) -> (u8, Option<String>) {
    let (total, (wave, tally)) = (controller.total(), controller.wave());
    let resume = format!("upgradectl batch resume {}", file.display());
    match end {
        End::Over if total.well < total.guests => (exit::SOME_FAILED, None),
        End::Over => (exit::DONE, None),
        End::Gate => (exit::UNDECIDED, Some(format!("wave {} waits for an approval: {resume} --yes", wave + 1))),
        End::NotWell => {
            let bad = tally.guests - tally.well;
            (
                exit::SOME_FAILED,
                Some(format!(
                    "{bad} of wave {wave} did not end well: the next one does not begin. {resume} --yes begins it all the same"
                )),
            )
        }
        End::Halted(halt) => {
            let why = match halt {
                Halt::Failure(index) => format!("the failure of {} stopped the batch", controller.guest(index)),
                Halt::Share(wave) => format!("too many of wave {} failed", wave + 1),
            };
            (exit::SOME_FAILED, Some(format!("{why}: {resume} goes on all the same")))
        }
        End::Hours => {
            let why = format!("what is left does not fit before the window closes: {resume} in the next one");
            (exit::PARTWAY, Some(why))
        }
        End::Closed => (exit::PARTWAY, Some("the batch was given up: nothing of it begins any more".to_owned())),
        End::Stopped => (exit::PARTWAY, Some(format!("stopped: {resume}"))),
    }
}
