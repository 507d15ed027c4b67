//! The crash proof over the steps of a verb, in a lab: the controller is killed in each of them, behind the intent and behind the effect,
//! by the fault of its journal (`src/journal/faults.rs`).

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::cli::{Said, Upgradectl};

/// Where verbs are struck.
pub trait Stage {
    /// The guest that they work on.
    fn guest(&self) -> &str;
    /// The product.
    fn product(&self) -> &Upgradectl;
    /// Where the fault says what it did.
    fn told(&self) -> &Path;
    /// What there is, as far as it has to be as before when all is given up.
    ///
    /// # Errors
    /// It cannot be looked at.
    fn world(&self) -> Result<String>;
}

/// Types a command whose journal has a fault; what it said, and at which write it struck: `N WHAT`.
fn with_fault(stage: &dyn Stage, line: &str, fault: &str) -> Result<(Said, String)> {
    let told = stage.told();
    let _ = fs::remove_file(told);
    let product = stage.product().clone().env("UPGRADECTL_JOURNAL_FAULT", &format!("{fault} {}", told.display()));
    let said = product.run(line.split(' '))?;
    Ok((said, fs::read_to_string(told).unwrap_or_default()))
}

fn says(stage: &dyn Stage, line: &str) -> Result<Said> {
    stage.product().run(line.split(' '))?.expect(0)
}

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
fn resume(stage: &dyn Stage, line: &str) -> String {
    format!("resume {}{}", stage.guest(), if line.ends_with("--yes") { " --yes" } else { "" })
}

/// Begins a verb and is killed when its plan is stored, and again before its first intent: which of the journal's plans it is, and how many
/// steps it has.
fn begun(stage: &dyn Stage, line: &str) -> Result<(u32, usize)> {
    let (said, told) = with_fault(stage, line, "1 kill-after=plan")?;
    ensure!(said.code == -1, "{line} was not killed: {said}");
    let number = |told: &str, at: usize| -> Option<usize> { told.split_whitespace().nth(at)?.parse().ok() };
    // `N plan VERB STEPS`, then `N intent PLAN STEP`.
    let steps = number(&told, 3).with_context(|| format!("a count of steps: {told}"))?;
    let (said, told) = with_fault(stage, &resume(stage, line), "1 kill-before=intent")?;
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
pub fn goes_on(stage: &dyn Stage, line: &str, places: impl Fn(usize) -> Vec<At>) -> Result<usize> {
    let resume = resume(stage, line);
    let (plan, steps) = begun(stage, line)?;
    let mut struck = 2;
    for step in 1..=steps {
        for at in places(step) {
            let (said, told) = with_fault(stage, &resume, &at.fault(plan, step))?;
            ensure!(said.code == -1, "{line} at {at:?} of step {step}: it was not killed ({told:?}): {said}");
            struck += 1;
        }
    }
    // The last effect may have been all that was left.
    let said = says(stage, &resume)?;
    eprintln!("{line}: killed {struck} times in {steps} steps; then {said}");
    Ok(struck)
}

/// Begins a verb again and again, is killed in every one of these steps at each of these points, and gives up: `abort` leads to the world as
/// before. `before`: what there was; `back`: to where the verb begins. How many points there were, and how often it was killed.
///
/// # Errors
/// It was not killed where it should have been, or the world is another one.
pub fn gives_up(
    stage: &dyn Stage,
    line: &str,
    before: &str,
    back: impl Fn() -> Result<()>,
    places: impl Fn(usize) -> Vec<At>,
) -> Result<(usize, usize)> {
    let aborted = |about: &str| -> Result<()> {
        let said = says(stage, &format!("abort {} --yes", stage.guest())).with_context(|| about.to_owned())?;
        let now = stage.world()?;
        ensure!(now == before, "{about}, then {said}: not as before:\n{now}");
        Ok(())
    };
    back()?;
    let (_, steps) = begun(stage, line)?;
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
            let (said, told) = with_fault(stage, line, &fault)?;
            ensure!(said.code == -1, "{about}: it was not killed ({told:?}): {said}");
            aborted(&about)?;
            struck += 1;
        }
    }
    eprintln!("{line}: killed {struck} times in {steps} steps, and given up");
    Ok((2 * steps, struck))
}
