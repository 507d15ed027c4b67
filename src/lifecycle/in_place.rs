//! Strategy `in-place`: no clone; the guest itself is upgraded, and a covering snapshot taken beforehand leads back. `clone`
//! only makes the snapshot, `upgrade` is the outage and asks, `promote` and `rollback` do not exist, `commit` drops the
//! snapshot, `abort` merges it.

use hypervisors::Role;

use super::back::Past;
use super::clone;
use super::facts::Facts;
use super::page::{Page, Row};
use super::record::RunFacts;
use crate::engine::{Outage, Plan, PlanStep, Stage};
use crate::steps::Action;
use crate::steps::freeze::Freeze;

/// The snapshots, and what the guest is like before.
pub(super) fn clone(facts: &Facts, record: &RunFacts, freeze: Option<&Freeze>) -> Vec<PlanStep> {
    vec![clone::duplicate(facts, record, freeze, Role::Original), clone::baseline(facts, record)]
}

/// Whether the guest was changed, or may have been: only then a way back has to merge.
pub fn touched(pasts: &[Past]) -> bool {
    pasts.iter().filter(|past| past.plan.verb == "upgrade").any(|past| {
        let steps = past.plan.steps.iter().zip(&past.histories);
        steps.into_iter().any(|(step, past)| past.to_be_undone() && !matches!(step.op.action(), Action::Hook(_)))
    })
}

/// Makes an upgrade of a clone one of the guest itself: its reboot is production's outage, and it asks.
pub fn upgrade(plan: &mut Plan, page: &mut Page) {
    let Some(reboot) = plan.steps.iter().position(|step| step.stage == Stage::Reboot) else { return };
    plan.steps[reboot].outage_begins = true;
    plan.steps[reboot].outage_ends = true;
    let expected_s = plan.steps[reboot].estimate_s;
    plan.outages = vec![Outage { guest: plan.guest.clone(), expected_s }];
    page.rows.retain(|row| row.label != "production");
    page.rows.push(Row::new(
        "production",
        format!("{} itself is upgraded; its services restart as they are replaced", plan.guest),
    ));
    page.rows.push(Row::new(
        "outage",
        format!("about {expected_s:.0} s for the reboot, and what the upgrade takes from services"),
    ));
    page.rows.push(Row::new("way back", format!("upgradectl abort {}: the snapshot is merged back", plan.guest)));
    page.confirm = Some(plan.guest.clone());
}
