//! `promote` of a transfer: the server gives up its services and its address, and the guest takes them. The server is down from the stop
//! of its first service until the guest's checks have passed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hypervisors::{Definition, Role};

use super::Transfer;
use crate::engine::{OnFailure, Plan, PlanStep, Stage, Undo, outages};
use crate::guest::FileEdit;
use crate::inventory::{CarryRule, GuestSpec, Verb};
use crate::lifecycle::clone::settle;
use crate::lifecycle::error::Failure;
use crate::lifecycle::hooks::Hooks;
use crate::lifecycle::page::{Page, Row};
use crate::lifecycle::production::look;
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::State;
use crate::steps::net::{self, Place};
use crate::steps::{Action, domain, server, storage};
use crate::verify::Side;

/// What promotion rests on, as it is now.
pub struct Now {
    /// The definition of the jail in the server's place.
    pub definition: Definition,
    /// Services of the server that run.
    pub services: Vec<String>,
    /// Queues that are brought over, relative to the root.
    pub queues: Vec<String>,
    /// How the server is configured while it is parked.
    pub parked: Parked,
    /// What gives the guest its identity back.
    pub identity: Action,
}

/// What becomes of the configuration of the server's network.
pub struct Parked {
    /// SHA-256 of its rc.conf, and what it becomes; of a Linux server, nothing.
    pub rc_conf: (String, String),
    /// The files of a Linux server.
    pub edits: Option<Vec<FileEdit>>,
    /// The difference, for people.
    pub diff: String,
}

fn quiet(record: &RunFacts, run: &Transfer, back: Option<(String, server::Server)>) -> server::ProveQuiet {
    let addresses: Vec<IpAddr> = run.old.iter().map(|old| old.ip).collect();
    let via = run.container.as_ref().map(|_| run.interface.clone());
    server::ProveQuiet { host: record.host.clone(), addresses, via, back }
}

/// The link is told who has the addresses now: the server again, or the container.
fn announced(record: &RunFacts, run: &Transfer, server: bool) -> Option<PlanStep> {
    let own = run.container.as_ref()?;
    let mac = if server { own.server_mac } else { Some(own.mac) };
    let places = record.addressing.original_places.iter().map(|place| Place { mac, ..place.clone() }).collect();
    let announce = net::Announce { host: record.host.clone(), places };
    Some(PlanStep::new(Stage::Start, announce, 0.1).undo(Undo::Nothing).on_failure(OnFailure::Warn))
}

/// What the rules bring over: in advance, or from the stopped server.
fn carries<'a>(spec: &'a GuestSpec, run: &'a Transfer, last: bool) -> impl Iterator<Item = PlanStep> + 'a {
    spec.carry.iter().map(move |CarryRule::Rsync { path, exclude }| {
        let step = server::CarryOver {
            server: run.server.clone(),
            root: run.root.clone(),
            scratch: run.scratch.clone(),
            path: path.to_string_lossy().trim_matches('/').to_owned(),
            exclude: exclude.clone(),
            last,
        };
        let stage = if last { Stage::FinalCarry } else { Stage::Carry };
        PlanStep::new(stage, step, if last { 3.0 } else { 10.0 }).undo(Undo::WithClone)
    })
}

/// The plan and its page. `number` counts the verifications.
///
/// # Errors
/// Nothing is remembered of the transfer.
pub fn plan(spec: &GuestSpec, record: &RunFacts, now: Now, number: usize) -> Result<(Plan, Page), Failure> {
    let run = record.transferred()?;
    let (name, host, clone) = (&spec.name, record.host.clone(), &record.clone.name);
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Promote);
    let settled = || look(Stage::Settle, settle(&host, &record.clone), 5.0).on_failure(OnFailure::Warn).clone_side();
    let stop = domain::Stop { host: host.clone(), guest: clone.clone(), patience_s: 60, force: true, link: None };
    steps.push(
        PlanStep::new(Stage::Fence, stop, 3.0)
            .clone_side()
            .undone_between(Vec::new(), vec![settled()])
            // A clone that was stopped is another one than was verified.
            .undone_to("upgraded"),
    );
    steps.push(PlanStep::new(Stage::Adopt, now.identity, 2.0).clone_side());
    let undefine = domain::Undefine { host: host.clone(), guest: clone.clone() };
    steps.push(PlanStep::new(Stage::Define, undefine, 0.5).clone_side());
    // The clone has stopped: nobody in it can lead astray what is written there from outside.
    let carry = |last| carries(spec, run, last);
    // When the server has stopped, with the last of what is carried.
    let queues = now.queues.clone();
    let queued = || {
        let step = server::MirrorQueues {
            server: run.server.clone(),
            root: run.root.clone(),
            scratch: run.scratch.clone(),
            paths: queues.clone(),
            services: now.services.clone(),
        };
        (!queues.is_empty()).then(|| PlanStep::new(Stage::FinalCarry, step, 3.0))
    };
    steps.extend(carry(false).map(|step| step.on_failure(OnFailure::Warn)));
    let outage_from = steps.len();
    let stop = server::StopServices { server: run.server.clone(), services: now.services.clone() };
    // The way back has ended when the server lets us in at its own address, with its services.
    let up = look(Stage::Settle, settle(&host, &record.original), 2.0).on_failure(OnFailure::Stop).outage_ends();
    // A Linux that takes an address tells nobody: its neighbours would look for it where the guest was.
    let mut after = Vec::new();
    after.extend(announced(record, run, true));
    after.push(up);
    steps.push(PlanStep::new(Stage::Fence, stop, 5.0).outage_begins().undone_between(Vec::new(), after));
    // A server that leaves the network cannot be asked any more; nothing runs on it that would still write.
    let leaves = run.parking.is_none();
    if leaves {
        steps.extend(carry(true).chain(queued()));
    }
    let Parked { rc_conf: (rc_before, rc_after), edits, diff } = now.parked;
    let park = server::Park {
        server: run.server.clone(),
        interface: run.server_interface.clone(),
        old: run.old.clone(),
        parking: run.parking,
        rc_before,
        rc_after,
        edits,
        diff,
    };
    // Two owners of an address would break both: this one is not only worth a warning.
    let given_up = look(Stage::Fence, quiet(record, run, Some((name.clone(), run.server.clone()))), 4.0)
        .on_failure(OnFailure::Stop);
    steps.push(PlanStep::new(Stage::Fence, park, 5.0).undone_between(vec![given_up], Vec::new()));
    steps.push(PlanStep::new(Stage::Fence, quiet(record, run, None), 4.0).undo(Undo::Nothing));
    if !leaves {
        steps.extend(carry(true).chain(queued()));
    }
    if let Some(own) = &run.container {
        let (volume, role) = (own.volume.clone(), Some(Role::Production));
        steps.push(PlanStep::new(Stage::Adopt, storage::MarkVolume { host: host.clone(), volume, role }, 0.1));
    }
    let define = domain::Define {
        host: host.clone(),
        definition: now.definition,
        replaces: None,
        disks_before: BTreeMap::new(),
    };
    steps.push(PlanStep::new(Stage::Define, define, 0.5));
    let start = domain::Start { host: host.clone(), guest: name.clone(), patience_s: 120, force: true };
    steps.push(PlanStep::new(Stage::Start, start, 5.0).goes_live());
    steps.extend(announced(record, run, false));
    let checks = crate::lifecycle::verify::checks(spec, record, Side::Promoted, number);
    steps.push(
        PlanStep::new(Stage::Prove, checks, 5.0).undo(Undo::Nothing).on_failure(OnFailure::Unproven).outage_ends(),
    );
    let outage_s: f64 = steps[outage_from..].iter().map(|step| step.estimate_s).sum();
    let autostart = domain::Autostart { host, guest: name.clone(), on: true };
    // A host that starts no jails has none to start with it: that is told.
    steps.push(PlanStep::new(Stage::Prove, autostart, 0.5).on_failure(OnFailure::Warn));
    steps.extend(hooks.after(Verb::Promote));
    debug_assert_eq!(outages(&steps, name).len(), 1);
    let page = page(record, run, &now.services, &queues, &spec.carry, outage_s);
    Ok((record.plan("promote", [State::Promoting, State::Promoted, State::Verified], steps), page))
}

fn page(
    record: &RunFacts,
    run: &Transfer,
    services: &[String],
    queues: &[String],
    carried: &[CarryRule],
    outage_s: f64,
) -> Page {
    let name = &record.original.name;
    let mut page = Page::new(format!("Promote {} to {name}", record.clone.name));
    if let Some(verification) = &record.verification {
        let text = format!("{}: {}", crate::lifecycle::local_time(verification.time), verification.summary);
        page.rows.push(Row::new("verified", text));
    }
    page.rows.push(Row::new("outage", format!("about {outage_s:.0} s")));
    let old: Vec<String> = run.old.iter().map(|old| old.ip.to_string()).collect();
    page.rows.push(Row::new("taken over", old.join(", ")));
    let goes = match &run.parking {
        Some(parking) => format!("to {}", parking.ip),
        None => "off the network; back at its console only".to_owned(),
    };
    let stopped = if services.is_empty() { "nothing".to_owned() } else { services.join(", ") };
    page.rows.push(Row::new("the server", format!("goes {goes}; stopped there: {stopped}")));
    what_comes_over(&mut page, carried, queues, &format!("{name} wrote since the transfer"));
    way_back(&mut page, outage_s);
    page.rows.push(Row::new("commit", "no second outage; the server stays as it is, fenced"));
    page.confirm = Some(name.clone());
    page
}

/// What is carried, what stays: `stays` says since when.
pub(in crate::lifecycle) fn what_comes_over(page: &mut Page, carried: &[CarryRule], queues: &[String], stays: &str) {
    let carried: Vec<String> = carried.iter().map(|CarryRule::Rsync { path, .. }| path.display().to_string()).collect();
    if !carried.is_empty() {
        page.rows.push(Row::new("carried", carried.join(", ")));
    }
    if !queues.is_empty() {
        let queues: Vec<String> = queues.iter().map(|path| format!("/{path}")).collect();
        page.rows.push(Row::new("queues", format!("{}: brought over, and back by rollback", queues.join(", "))));
    }
    let all = if carried.is_empty() { "all" } else { "all else" };
    page.rows.push(Row::new("left behind", format!("{all} that {stays}")));
}

/// What rollback costs.
pub(in crate::lifecycle) fn way_back(page: &mut Page, outage_s: f64) {
    page.rows
        .push(Row::new("way back", format!("rollback, about {outage_s:.0} s; what the clone got since stays with it")));
}
