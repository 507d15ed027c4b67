//! What is refused before a guest is upgraded in place without anything that leads back, each with its remedy.

use hypervisors::Host;
use hypervisors::host::printable_tail;

use crate::inventory::{GuestSpec, HookPlace, Recipe, Strategy};
use crate::lifecycle::preflight::{Findings, recipe_finding};
use crate::recipe::yum::{Seen, findings, offered};

/// What `clone` looks at.
pub fn for_clone(spec: &GuestSpec, strategy: Option<Strategy>, accept_loss: bool, seen: &Seen, found: &mut Findings) {
    declared(spec, strategy, found);
    if !accept_loss {
        found.refuse(
            "loss",
            format!("{} has no hypervisor that could take a snapshot: what an upgrade makes of packages cannot be taken back", spec.host),
            "take a backup by whoever runs the machine; --accept-loss says that you have one",
        );
    }
    look(seen, found);
}

/// What the inventory asks for that cannot be done here.
fn declared(spec: &GuestSpec, strategy: Option<Strategy>, found: &mut Findings) {
    if strategy.is_some_and(|strategy| strategy != Strategy::InPlace) || strategy.is_none() {
        let what = format!("{} has no hypervisor that could make a clone", spec.host);
        found.refuse("strategy", what, "clone = { strategy = \"in-place\" }");
    }
    if !spec.upgrade.as_ref().is_some_and(|upgrade| matches!(upgrade.recipe, Recipe::YumKernel(_))) {
        let what = "only the recipe yum-kernel knows a way back on a guest without a snapshot".to_owned();
        found.refuse("recipe", what, "upgrade = { recipe = \"yum-kernel\" }");
    }
    for hook in spec.hooks.iter().filter(|hook| hook.on == HookPlace::Host) {
        let what = format!("the hook {:?} runs on the host, where nobody gets in", hook.name);
        found.refuse("hooks", what, "on = \"original\", or on = \"controller\"");
    }
}

/// What the guest itself stands in the way with.
pub fn look(seen: &Seen, found: &mut Findings) {
    found.0.extend(findings(seen).into_iter().map(recipe_finding));
}

/// Whether a newer kernel is offered: what the guest's repositories say, past its excludes.
///
/// # Errors
/// The guest does not answer.
pub async fn newer(guest: &dyn Host, seen: &Seen, found: &mut Findings) -> hypervisors::Result<bool> {
    Ok(match offered(guest, seen).await? {
        Ok(Some(true)) => {
            found.pass("yum.offered", "a newer kernel is offered");
            true
        }
        // One that was installed before, and not booted yet, is booted now.
        Ok(Some(false)) => {
            let waiting = seen.waiting();
            match &waiting {
                Some(kernel) => found.pass("yum.offered", format!("{kernel} is installed and was not booted yet")),
                None => found
                    .warn("yum.offered", "no newer kernel is offered: packages are updated, and nothing is rebooted"),
            }
            waiting.is_some()
        }
        Ok(None) => {
            found.pass("yum.offered", "what is offered is seen once the exclude is lifted");
            true
        }
        Err(said) => {
            let what = format!("the guest's repositories cannot be asked: {}", printable_tail(said.as_bytes(), 2));
            found.refuse(
                "yum.repositories",
                what,
                "make them reachable from the guest, or disable the one that is not",
            );
            false
        }
    })
}
