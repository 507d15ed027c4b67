//! Leased changes, as far as the lifecycle looks at them: whether a plan's machines can keep what it promises, and reversals
//! that stand on a machine without an open run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hypervisors::{GuestLink, Host, Hypervisor};

use super::app::App;
use super::gc::{Kind, Leftover};
use super::preflight::Findings;
use super::world;
use crate::engine::{Op, Plan};
use crate::journal::RunRecord;
use crate::steps::leased::{Leased, Standing, standing};
use crate::steps::place::Place;

/// Warns of machines that cannot take a leased change of the plan back by themselves. `original`: the way into it, where the
/// run's own is not known yet. What cannot be reached now is told when the change is made.
pub async fn check(
    plan: &Plan,
    hypervisors: &BTreeMap<String, Arc<dyn Hypervisor>>,
    original: Option<&GuestLink>,
    findings: &mut Findings,
) {
    let made = plan.steps.iter().filter(|step| matches!(step.op, Op::Do(_)));
    for leased in made.filter_map(|step| step.op.action().step().leased()) {
        let machine = match &leased.place {
            Place::Controller => Some(world::controller()),
            Place::Host(host) => hypervisors.get(host).map(|hypervisor| hypervisor.host()),
            Place::Guest { host, link } => {
                let link = original.filter(|original| original.name == link.name).unwrap_or(link);
                hypervisors.get(host).and_then(|hypervisor| hypervisor.guest(link).ok())
            }
        };
        let Some(machine) = machine else { continue };
        let place = leased.place.word();
        match Leased::possible(&*machine).await {
            Ok(Ok(keeper)) => findings.pass("lease", format!("{}: {place} takes it back by {keeper}", leased.name)),
            Ok(Err(why)) => findings.warn(
                "lease",
                format!(
                    "{}: {place} cannot take it back by itself ({why}): without the controller, nobody does",
                    leased.name
                ),
            ),
            Err(_) => {}
        }
    }
}

/// A reversal that stands on a machine and belongs to no open run.
#[derive(Clone, Debug)]
pub struct Left {
    /// `controller`, or a host of the inventory.
    pub place: String,
    /// The reversal.
    pub standing: Standing,
    /// The run is known here, and over.
    pub closed: bool,
}

impl Left {
    /// As what `gc` lists: a reversal that nobody will take away.
    pub(super) fn leftover(&self, from_world: bool) -> Leftover {
        let run = &self.standing.run;
        let what = if self.standing.about.is_empty() { "a leased change" } else { &self.standing.about };
        let known = match (self.closed, from_world) {
            (true, _) => format!("{run} is over"),
            (false, true) => format!("{run} is not known here"),
            (false, false) => format!("{run} is not known here: another controller's, or the state directory was lost"),
        };
        let soon = match self.standing.left_s {
            Some(left_s) => format!("carried out by itself in {} s", left_s.max(0)),
            None => "never carried out by itself: its timer is gone".to_owned(),
        };
        Leftover {
            host: self.place.clone(),
            kind: Kind::Reversal,
            object: self.standing.id.clone(),
            run: run.clone(),
            role: None,
            size_bytes: None,
            removable: self.closed || from_world,
            why: format!("{known}; {what}; {soon}"),
            volume: None,
            machine: None,
        }
    }
}

impl App {
    /// The machine that a [`Left::place`] names.
    pub(super) fn machine(&self, place: &str) -> Option<Arc<dyn Host>> {
        match place {
            CONTROLLER => Some(world::controller()),
            host => self.hypervisor(host).ok().map(|hypervisor| hypervisor.host()),
        }
    }

    /// Reversals of no open run on the controller and on the hosts. Two names of one machine tell of them once. A machine that
    /// cannot be looked at is told of by others.
    pub(super) async fn left_leased(&self, runs: &[RunRecord]) -> Vec<Left> {
        let mut all = Vec::new();
        let mut told: BTreeSet<String> = BTreeSet::new();
        for place in self.inventory.hosts.keys().map(String::as_str).chain([CONTROLLER]) {
            let Some(machine) = self.machine(place) else { continue };
            let found = standing(&*machine).await.unwrap_or_default();
            all.extend(
                of_no_open_run(place, found, runs).into_iter().filter(|one| told.insert(one.standing.id.clone())),
            );
        }
        all
    }
}

/// The word for the machine that upgradectl runs on.
pub const CONTROLLER: &str = "controller";

/// Those that belong to no open run.
pub fn of_no_open_run(place: &str, found: Vec<Standing>, runs: &[RunRecord]) -> Vec<Left> {
    let left = |standing: Standing| {
        let run = runs.iter().find(|run| run.id == standing.run);
        let closed = run.is_some_and(|run| run.closed.is_some());
        (run.is_none() || closed).then(|| Left { place: place.to_owned(), standing, closed })
    };
    found.into_iter().filter_map(left).collect()
}
