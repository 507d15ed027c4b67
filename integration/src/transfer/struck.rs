//! The crash proof over the steps of a transfer: the controller is killed in each of them, behind the intent and behind the effect, by
//! the fault of its journal (`src/journal/faults.rs`).

use anyhow::{Context as _, Result, ensure};

use super::trial::Trial;
use crate::lab::jails::SERVER;

/// Where in a step it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// What it means to do is on disk; nothing is done yet.
    Intent,
    /// It is done; that it is, is not on disk.
    Effect,
}

/// Both of them.
pub const BOTH: [At; 2] = [At::Intent, At::Effect];

impl At {
    /// The fault that strikes at a step of a plan, counted from 1.
    fn fault(self, plan: u32, step: usize) -> String {
        match self {
            At::Intent => format!("1 kill-after=intent_{plan}_{step}"),
            At::Effect => format!("1 kill-before=done_{plan}_{step}"),
        }
    }
}

/// How one goes on with a verb that was begun so.
fn resume(line: &str) -> &'static str {
    if line.ends_with("--yes") { "resume ServerA --yes" } else { "resume ServerA" }
}

/// Begins a verb and is killed when its plan is stored, and again before its first intent: which of the journal's plans it is, and how many
/// steps it has.
fn begun(trial: &Trial, line: &str) -> Result<(u32, usize)> {
    let (said, told) = trial.with_fault(line, "1 kill-after=plan")?;
    ensure!(said.code == -1, "{line} was not killed: {said}");
    let number = |told: &str, at: usize| -> Option<usize> { told.split_whitespace().nth(at)?.parse().ok() };
    // `N plan VERB STEPS`, then `N intent PLAN STEP`.
    let steps = number(&told, 3).with_context(|| format!("a count of steps: {told}"))?;
    let (said, told) = trial.with_fault(resume(line), "1 kill-before=intent")?;
    ensure!(
        said.code == -1 && number(&told, 3) == Some(1),
        "{line} was not killed before its first step ({told:?}): {said}"
    );
    Ok((u32::try_from(number(&told, 2).context("a plan")?)?, steps))
}

/// Goes through a verb to its end, and is killed in every one of these steps at each of these points; every time the rest is gone on with.
/// How often it was killed.
///
/// # Errors
/// It was not killed where it should have been, or did not come to its end.
pub fn goes_on(trial: &Trial, line: &str, places: impl Fn(usize) -> Vec<At>) -> Result<usize> {
    let resume = resume(line);
    let (plan, steps) = begun(trial, line)?;
    let mut struck = 2;
    for step in 1..=steps {
        for at in places(step) {
            let (said, told) = trial.with_fault(resume, &at.fault(plan, step))?;
            ensure!(said.code == -1, "{line} at {at:?} of step {step}: it was not killed ({told:?}): {said}");
            struck += 1;
        }
    }
    // The last effect may have been all that was left.
    let said = trial.says(resume, 0)?;
    eprintln!("{line}: killed {struck} times in {steps} steps; then {said}");
    Ok(struck)
}

/// Begins a verb again and again, is killed in every one of these steps at each of these points, and gives up: `abort` leads to the world as
/// before. `before`: what there was on host and server; `back`: to where the verb begins. How many points there were, and how often it was killed.
///
/// # Errors
/// It was not killed where it should have been, or the world is another one.
pub fn gives_up(
    trial: &Trial,
    line: &str,
    before: &(String, String),
    back: impl Fn() -> Result<()>,
    places: impl Fn(usize) -> Vec<At>,
) -> Result<(usize, usize)> {
    let aborted = |about: &str| -> Result<()> {
        let said = trial.says("abort ServerA --yes", 0).with_context(|| about.to_owned())?;
        let now = (trial.host()?, trial.server(SERVER.host)?);
        ensure!(now == *before, "{about}, then {said}: not as before:\n{}\n{}", now.0, now.1);
        Ok(())
    };
    back()?;
    let (_, steps) = begun(trial, line)?;
    aborted(&format!("{line} before its first step"))?;
    let mut struck = 1;
    for step in 1..=steps {
        for at in places(step) {
            back()?;
            let fault = match at {
                At::Intent => format!("{step} kill-after=intent"),
                At::Effect => format!("{step} kill-before=done"),
            };
            let about = format!("{line} at {at:?} of step {step} of {steps}");
            let (said, told) = trial.with_fault(line, &fault)?;
            ensure!(said.code == -1, "{about}: it was not killed ({told:?}): {said}");
            aborted(&about)?;
            struck += 1;
        }
    }
    eprintln!("{line}: killed {struck} times in {steps} steps, and given up");
    Ok((2 * steps, struck))
}
