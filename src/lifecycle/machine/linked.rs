//! Strategy `linked`: a clone of the machine on disks of differences, which gets its identity while it has no network, is upgraded like
//! the machine itself would be, and takes its place.
//!
//! What is exchanged at promotion is names, hardware addresses and networks; what is done in a system is done by its tools, while its
//! cards are unplugged, and counts from its next start. The machine is `Which` by its instance UUID all along.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use hypervisors::machines::{MachineFacts, MachineNic};
use hypervisors::{MacAddr, Mark, Role};
use sha2::{Digest as _, Sha256};

use super::{Facts, Linked, Machine, Vm};
use crate::engine::{OnFailure, Op, Plan, PlanStep, Stage, Undo, outages};
use crate::guest::{self, AddressChange, CloneSpec, FileEdit, Tree};
use crate::inventory::values::{AddressTo, AddressWish, complete_ip};
use crate::inventory::{CarryRule, GuestSpec, MacRule, NetworkRule, Strategy, Verb};
use crate::lifecycle::back::Past;
use crate::lifecycle::clone::{machine_id, settle, uuid};
use crate::lifecycle::error::{Failure, exit};
use crate::lifecycle::facts::link_local;
use crate::lifecycle::hooks::Hooks;
use crate::lifecycle::page::{Page, Row};
use crate::lifecycle::preflight::Findings;
use crate::lifecycle::production::look;
use crate::lifecycle::record::RunFacts;
use crate::lifecycle::state::State;
use crate::steps::machine::SnapshotMachine;
use crate::steps::machine::across::{CarryAcross, EmptyQueues, StopInside};
use crate::steps::machine::cards::{Card, NameMachine, SetCards};
use crate::steps::machine::inside::{RestoreInside, RewriteInside};
use crate::steps::machine::linked::{
    CloneMachine, MachineQuiet, OwnDisks, RemoveMachine, StartMachine, StopMachine, Which,
};
use crate::steps::machine::queues::{CarryQueues, FetchQueues, ReturnQueues};
use crate::steps::server::{Server, StopServices};
use crate::steps::upgrade::Settle;
use crate::steps::{Action, StepRef, files, upgrade, verify};
use crate::verify::Side;

/// What a hardware address is that is set by hand (`VirtualEthernetCardMacType`).
const MANUAL: &str = "manual";
/// How long a system may take to shut down, in seconds.
const PATIENCE_S: u64 = 180;
/// How long its tools may take to answer after a start, in seconds.
const TOOLS_S: u64 = 600;

/// The clone's files as they are planned on the original's, and which of its services are held.
#[derive(Debug)]
pub struct Adapted {
    spec: CloneSpec,
    edits: Vec<FileEdit>,
    /// Units that are switched off in the clone.
    pub held: Vec<String>,
}

fn refuse(name: &str, why: impl Into<String>, place: &str, help: impl Into<String>) -> Failure {
    Failure::new(exit::REFUSED, format!("choose an address for the clone of {name}"))
        .cause(why.into())
        .place(place)
        .help(help)
}

/// The clone's address, by the one wish there is.
fn address(facts: &Facts, wishes: &[AddressWish]) -> Result<IpAddr, Failure> {
    let name = &facts.spec.name;
    let help = "give one, such as --ip .16, or set clone.ip in the inventory";
    let [wish] = wishes else {
        let why =
            if wishes.is_empty() { "no address was given for the clone" } else { "a machine is cloned at one address" };
        return Err(refuse(name, why, "--ip", help));
    };
    let ip = match (&wish.to, facts.address) {
        (AddressTo::Partial(tail), IpAddr::V4(own)) => {
            complete_ip(tail, own).map(IpAddr::V4).map_err(|why| refuse(name, why, "--ip", help))?
        }
        (AddressTo::Full(ip), own) if ip.is_ipv4() == own.is_ipv4() => *ip,
        _ => return Err(refuse(name, "its clone has a fixed address like its own", "--ip", help)),
    };
    if ip == facts.address {
        return Err(refuse(name, format!("{ip} is its own address"), "--ip", "choose a free address"));
    }
    Ok(ip)
}

/// Hardware addresses of the clone's cards: given, or drawn so that planning again draws the same, from those that VMware leaves to be
/// set by hand (00:50:56:00:00:00 to 00:50:56:3f:ff:ff). None that another card of the platform's has: `all` are its machines.
///
/// # Errors
/// A given one is none, or taken.
pub fn macs(
    spec: &GuestSpec,
    machine: &MachineFacts,
    all: &[MachineFacts],
    wishes: &[String],
) -> Result<Vec<MacAddr>, Failure> {
    let wish = wishes.first().map(|wish| wish.parse().map(|mac| (mac, "--mac"))).transpose();
    let wish = wish.map_err(|why: String| {
        refuse(&spec.name, why, "--mac", "give it as 00:50:56:xx:xx:xx, up to 00:50:56:3f:ff:ff")
    })?;
    let fixed = match spec.clone.mac {
        MacRule::Fixed(mac) => Some((mac, "clone.mac")),
        _ => None,
    };
    let given = wish.or(fixed);
    let of = |one: &MachineFacts| one.nics.iter().filter_map(|nic| nic.mac).collect::<Vec<_>>();
    if let Some((mac, place)) = given
        && let Some(other) = all.iter().find(|one| of(one).contains(&mac))
    {
        let why = format!("{mac} is a network card's of {}", other.machine.path);
        return Err(refuse(&spec.name, why, place, "choose a free one, or leave it out: one is drawn"));
    }
    let mut taken: BTreeSet<MacAddr> = all.iter().flat_map(of).chain(given.map(|(mac, _)| mac)).collect();
    let draw = |(at, nic): (usize, &MachineNic)| {
        let drawn = (0_u32..).map(|again| {
            let hash = Sha256::digest(format!("{} {at} {:?} {again}", machine.machine.uuid, nic.mac).as_bytes());
            MacAddr([0x00, 0x50, 0x56, hash[0] & 0x3f, hash[1], hash[2]])
        });
        // There are four million.
        let mut free = drawn.take(1000).filter(|mac| taken.insert(*mac));
        let drawn = given.map(|(mac, _)| mac).filter(|_| at == 0).or_else(|| free.next());
        drawn.ok_or_else(|| refuse(&spec.name, "no free hardware address was drawn", "--mac", "choose one"))
    };
    machine.nics.iter().enumerate().map(draw).collect()
}

/// The fixed addresses of a system that tell it from others, with their interfaces.
pub(super) fn addresses(tree: &Tree) -> Result<Vec<(String, IpAddr)>, Failure> {
    let interfaces = guest::network::inspect(tree)?;
    let real = interfaces.iter().filter(|interface| interface.name != "lo");
    let own = real.flat_map(|one| one.addresses.iter().map(move |own| (one.name.clone(), own.ip)));
    Ok(own.filter(|(_, ip)| !link_local(*ip)).collect())
}

/// The machine as the platform tells of it.
///
/// # Errors
/// It knows no such machine.
pub fn of_machine(facts: &Facts) -> Result<&MachineFacts, Failure> {
    facts.machine.as_ref().ok_or_else(|| {
        let why = format!("{} has no API for whole machines", facts.spec.host);
        refuse(&facts.spec.name, why, "clone.strategy", "\"in-place\"")
    })
}

/// What is remembered of a run by this strategy, with `GUEST--RUN` for its id; `record` is that of a run on the machine itself, `drawn`
/// are the hardware addresses of the clone's cards.
///
/// # Errors
/// An address that does not fit; the platform knows no such machine.
pub fn record(
    facts: &Facts,
    tree: &Tree,
    record: RunFacts,
    wishes: &[AddressWish],
    drawn: Vec<MacAddr>,
) -> Result<RunFacts, Failure> {
    let machine = of_machine(facts)?;
    let (new, old) = (address(facts, wishes)?, facts.address);
    let own = addresses(tree)?.into_iter();
    let changes: Vec<AddressChange> =
        own.map(|(interface, ip)| AddressChange { interface, old: ip, new: (ip == old).then_some(new) }).collect();
    let pairs = machine.nics.iter().zip(&drawn);
    let network = |own: &str| Some(facts.spec.clone.portgroup.clone().unwrap_or_else(|| own.to_owned()));
    let linked = Linked {
        uuid: uuid(&record.clone.name),
        original: machine.nics.iter().map(Card::of).collect(),
        clone: pairs
            .clone()
            .map(|(nic, mac)| Card {
                mac: Some(*mac),
                mac_type: Some(MANUAL.to_owned()),
                network: network(&nic.network),
                connected: nic.start_connected,
            })
            .collect(),
        addresses: changes.iter().map(|change| change.old).collect(),
        disks: machine.disks.iter().map(|disk| disk.base().to_owned()).collect(),
    };
    let mut record = RunFacts { strategy: Strategy::Linked, ..record };
    record.addressing.macs = pairs.filter_map(|(nic, mac)| Some((nic.mac?.to_string(), *mac))).collect();
    record.addressing.by_card = drawn.into_iter().map(Some).collect();
    (record.addressing.changes, record.addressing.clone) = (changes, new);
    record.clone.address = new;
    if let Some(machine) = &mut record.machine {
        machine.linked = Some(linked);
    }
    Ok(record)
}

/// What becomes of the clone's files.
///
/// # Errors
/// Files that are not understood.
pub fn adapt(facts: &Facts, tree: &Tree, record: &RunFacts) -> Result<Adapted, Failure> {
    let off = &facts.spec.quarantine.off;
    let spec = CloneSpec {
        addresses: record.addressing.changes.clone(),
        macs: record.addressing.macs.clone(),
        hostname: facts.spec.clone.hostname.clone(),
        quarantine: off.clone(),
        machine_id: machine_id(&record.clone.name),
        ..CloneSpec::default()
    };
    let held = guest::quarantine::planned(tree, off)?.units.into_iter().map(|held| held.unit).collect();
    Ok(Adapted { edits: guest::clone_edits(tree, &spec)?, spec, held })
}

/// What is refused of a machine that is to be cloned.
///
/// # Errors
/// The guest cannot be asked.
pub async fn check(facts: &Facts, tree: &Tree, record: &RunFacts, findings: &mut Findings) -> Result<(), Failure> {
    let (spec, name) = (&facts.spec, &facts.spec.name);
    if spec.guest_login.is_none() {
        findings.refuse(
            "guest_login",
            "the clone gets its identity by its tools before it has a network: that wants a login of its system",
            format!("guest_login = {{ file = \"/etc/upgradectl/{name}\" }}, two lines: user, password"),
        );
    }
    if let Some(machine) = &facts.machine {
        if !machine.tools.running {
            findings.refuse(
                "tools",
                format!("the tools of {name} do not answer the platform: its clone's would not either"),
                "install open-vm-tools, and start them",
            );
        }
        if machine.nics.iter().any(|nic| nic.mac.is_none()) {
            findings.refuse("cards", "a network card has no hardware address yet", "start the machine once");
        }
    }
    if let (Some(machine), Some(linked)) = (&facts.machine, record.of_machine()?.linked.as_ref()) {
        super::check::cards(machine, linked, findings);
    }
    let configured = record.addressing.changes.iter().any(|change| change.old == facts.address);
    match configured {
        true => findings.pass("address", format!("{} is a fixed address of {name}", facts.address)),
        false => findings.refuse(
            "address",
            format!("{} does not stand in the network configuration of {name} as a fixed address", facts.address),
            "give it a fixed one, or name it by the address that it has itself: ssh = { address = … }",
        ),
    }
    // As far as the controller hears.
    let here = crate::lifecycle::world::controller();
    match crate::steps::server::answers(&*here, record.addressing.clone).await {
        Ok(Some(said)) => findings.refuse(
            "address",
            format!("{} is taken: {said}", record.addressing.clone),
            "choose a free one (--ip, or clone.ip in the inventory)",
        ),
        Ok(None) => findings.pass("address", format!("nobody answers for {}", record.addressing.clone)),
        Err(error) => return Err(super::run::failed(name, &error)),
    }
    if !guest::container::has_systemd(tree)? {
        super::check::without_systemd(facts, findings).await?;
    }
    if spec.clone.network != NetworkRule::Open {
        findings.refuse(
            "network",
            "a machine's clone is not fenced from here",
            "leave clone.network out; clone.portgroup names a network that leads nowhere else",
        );
    }
    Ok(())
}

fn original(spec: &GuestSpec, record: &RunFacts, vm: &Vm) -> Which {
    Which { host: record.host.clone(), uuid: vm.uuid.clone(), shown: spec.name.clone() }
}

fn clone_of(record: &RunFacts, linked: &Linked) -> Which {
    Which { host: record.host.clone(), uuid: linked.uuid.clone(), shown: record.clone.name.clone() }
}

fn unplugged(cards: &[Card]) -> Vec<Card> {
    cards.iter().map(|card| Card { connected: false, ..card.clone() }).collect()
}

fn of(record: &RunFacts) -> Result<(&Machine, &Vm, &Linked), Failure> {
    let machine = record.of_machine()?;
    match (&machine.vm, &machine.linked) {
        (Some(vm), Some(linked)) => Ok((machine, vm, linked)),
        _ => Err(Failure::new(exit::JOURNAL, format!("read {}", record.clone.name))
            .cause("nothing is remembered of its clone")),
    }
}

fn start(of: &Which, tools: bool) -> StartMachine {
    StartMachine { of: of.clone(), tools_s: tools.then_some(TOOLS_S), patience_s: PATIENCE_S, force: true }
}

fn stop(of: &Which, tools: bool) -> StopMachine {
    StopMachine { of: of.clone(), patience_s: PATIENCE_S, tools_s: tools.then_some(TOOLS_S), force: true }
}

/// `clone`.
///
/// # Errors
/// Nothing is remembered of the machines.
pub fn clone(spec: &GuestSpec, record: &RunFacts, adapted: Adapted) -> Result<(Plan, Page), Failure> {
    let (machine, vm, linked) = of(record)?;
    let (name, run) = (&spec.name, &record.clone.name);
    let (ours, theirs) = (clone_of(record, linked), original(spec, record, vm));
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Clone);
    let baseline = verify::TakeBaseline::new(&record.host, &record.original, &record.hostname, &spec.checks);
    steps.push(PlanStep::new(Stage::Announce, baseline, 5.0).undo(Undo::Nothing));
    let snapshot = SnapshotMachine {
        host: record.host.clone(),
        uuid: vm.uuid.clone(),
        guest: name.clone(),
        run: run.clone(),
        quiesce: vm.quiesce,
    };
    steps.push(PlanStep::new(Stage::Duplicate, snapshot, 20.0));
    let cloned = CloneMachine { of: theirs, run: run.clone(), uuid: linked.uuid.clone() };
    steps.push(PlanStep::new(Stage::Duplicate, cloned, 20.0));
    let mut needles: Vec<String> = record.addressing.changes.iter().map(|change| change.old.to_string()).collect();
    needles
        .extend(adapted.spec.hostname.as_ref().filter(|new| **new != record.hostname).map(|_| record.hostname.clone()));
    let rewrite = RewriteInside {
        of: ours.clone(),
        guest: name.clone(),
        expected: files::expected(&adapted.edits),
        diff: adapted.edits.iter().map(guest::diff).collect(),
        spec: adapted.spec,
        needles,
    };
    // It goes as a whole.
    let with = |stage, action: Action, estimate_s| PlanStep::new(stage, action, estimate_s).undo(Undo::WithClone);
    let unplugged = SetCards { of: ours.clone(), cards: unplugged(&linked.clone) };
    steps.push(with(Stage::Adapt, unplugged.into(), 2.0));
    steps.push(with(Stage::Adapt, start(&ours, true).into(), 60.0));
    steps.push(with(Stage::Adapt, rewrite.into(), 5.0));
    let emptied = EmptyQueues { of: ours.clone(), guest: name.clone() };
    steps.push(with(Stage::Adapt, emptied.into(), 1.0));
    steps.push(with(Stage::Adapt, stop(&ours, true).into(), 10.0));
    steps.push(with(Stage::Adapt, SetCards { of: ours.clone(), cards: linked.clone.clone() }.into(), 2.0));
    steps.push(with(Stage::Start, start(&ours, false).into(), 2.0));
    let settled = Settle { vm: Some(linked.uuid.clone()), ..settle(&record.host, &record.clone) };
    steps.push(PlanStep::new(Stage::Settle, settled, 60.0).undo(Undo::Nothing));
    steps.extend(hooks.after(Verb::Clone));

    let mut page = Page::new(format!("Clone {name} by linked ({}, {}).", record.host, machine.release));
    let side = |word: &str, ip: IpAddr, cards: &[Card], what: String| {
        let mac = cards.first().and_then(|card| card.mac).map(|mac| mac.to_string()).unwrap_or_default();
        vec![word.to_owned(), ip.to_string(), mac, what]
    };
    page.sides.push(side(
        "original",
        record.addressing.original,
        &linked.original,
        format!("{}, keeps serving", vm.path),
    ));
    let network = linked.clone.first().and_then(|card| card.network.clone()).unwrap_or_default();
    page.sides.push(side(
        "clone",
        record.addressing.clone,
        &linked.clone,
        format!("on disks of differences, in {network}"),
    ));
    let held = if adapted.held.is_empty() { "nothing".to_owned() } else { adapted.held.join(", ") };
    page.rows.push(Row::new("quarantine", held));
    page.rows.push(Row::new("identity", "by its tools, with its cards unplugged; then it is started again"));
    page.rows.push(Row::new("outage", "none"));
    page.rows.push(Row::new("way back", format!("upgradectl abort {name}: clone and snapshot go")));
    let plan =
        Plan { failure_closes: true, ..record.plan("clone", [State::Cloning, State::Cloned, State::Aborted], steps) };
    Ok((plan, page))
}

/// The step of `clone` that put the clone's identity on.
///
/// # Errors
/// The journal does not have it.
pub fn rewriting(pasts: &[Past]) -> Result<StepRef, Failure> {
    let steps = pasts
        .iter()
        .flat_map(|past| past.plan.steps.iter().enumerate().map(move |(index, step)| (past.id, index, step)));
    let mut found = steps.filter(|(.., step)| matches!(&step.op, Op::Do(Action::RewriteInside(_))));
    let (plan, index, _) =
        found.next().ok_or_else(|| Failure::new(exit::JOURNAL, "find what clone changed in the guest's files"))?;
    Ok(StepRef { plan, index })
}

/// What promotion rests on, as it is now.
pub struct Now {
    /// The step that put the clone's identity on.
    pub rewrite: StepRef,
    /// What giving the identity back changes.
    pub restored: Vec<FileEdit>,
    /// Services of the original that run.
    pub services: Vec<String>,
    /// Queues that are brought over, relative to the root.
    pub queues: Vec<String>,
}

/// `promote`. `number` counts the verifications.
///
/// # Errors
/// Nothing is remembered of the machines.
pub fn promote(spec: &GuestSpec, record: &RunFacts, now: &Now, number: usize) -> Result<(Plan, Page), Failure> {
    let (_, vm, linked) = of(record)?;
    let (name, run) = (&spec.name, &record.clone.name);
    let (ours, theirs) = (clone_of(record, linked), original(spec, record, vm));
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Promote);
    let carry = |path: &str, exclude: &[String], last: bool| CarryAcross {
        host: record.host.clone(),
        from: record.original.clone(),
        to: record.clone.clone(),
        path: path.trim_matches('/').to_owned(),
        exclude: exclude.to_vec(),
        last,
    };
    let rules = || spec.carry.iter().map(|CarryRule::Rsync { path, exclude }| (path.to_string_lossy(), exclude));
    let early = rules().map(|(path, exclude)| carry(&path, exclude, false));
    steps.extend(
        early.map(|step| PlanStep::new(Stage::Carry, step, 10.0).undo(Undo::WithClone).on_failure(OnFailure::Warn)),
    );
    let settled = |link, of: &Which| {
        look(Stage::Settle, Settle { vm: Some(of.uuid.clone()), ..settle(&record.host, link) }, 60.0)
    };
    let up = || settled(&record.original, &theirs).on_failure(OnFailure::Stop).outage_ends();
    let mut outage_from = None;
    // The last of what is carried comes from services that have stopped, to services that have stopped.
    if !spec.carry.is_empty() || !now.queues.is_empty() {
        outage_from = Some(steps.len());
        let server = Server {
            host: record.host.clone(),
            source: record.original.clone(),
            parking: None,
            run: run.clone(),
            container: None,
        };
        let services = StopServices { server, services: now.services.clone() };
        steps.push(PlanStep::new(Stage::Fence, services, 5.0).outage_begins().undone_between(Vec::new(), vec![up()]));
        // On the way back they are put into the original between its start and that of its services.
        let returned = (!now.queues.is_empty()).then(|| ReturnQueues {
            host: record.host.clone(),
            to: record.original.clone(),
            paths: now.queues.clone(),
            services: now.services.clone(),
        });
        steps.extend(returned.map(|step| PlanStep::new(Stage::Fence, step, 0.1)));
        let inside = StopInside { host: record.host.clone(), link: record.clone.clone() };
        // A clone that was stopped is another one than was verified.
        steps.push(PlanStep::new(Stage::Fence, inside, 3.0).clone_side().undo_late().undone_to("upgraded"));
        let last = rules().map(|(path, exclude)| carry(&path, exclude, true));
        steps.extend(last.map(|step| PlanStep::new(Stage::FinalCarry, step, 3.0).undo(Undo::WithClone)));
        let queues = (!now.queues.is_empty()).then(|| CarryQueues {
            of: ours.clone(),
            from: record.original.clone(),
            to: record.clone.clone(),
            paths: now.queues.clone(),
        });
        steps.extend(queues.map(|step| PlanStep::new(Stage::FinalCarry, step, 3.0).clone_side().undo_late()));
    }
    // Its way back waits until production serves again.
    let side = |stage, action: Action, estimate_s| PlanStep::new(stage, action, estimate_s).clone_side().undo_late();
    // A system that runs keeps the address it was started with: on the way back it is stopped before it is plugged in.
    let stops = look(Stage::Restore, stop(&ours, false), 10.0).clone_side();
    let starts = look(Stage::Restore, start(&ours, false), 2.0).clone_side();
    steps.push(
        side(Stage::Fence, SetCards { of: ours.clone(), cards: unplugged(&linked.clone) }.into(), 2.0)
            .undone_between(
                vec![stops],
                vec![starts, settled(&record.clone, &ours).on_failure(OnFailure::Warn).clone_side()],
            )
            // A clone that was unplugged and started again is another one than was verified.
            .undone_to("upgraded"),
    );
    let identity = RestoreInside {
        of: ours.clone(),
        guest: name.clone(),
        rewrite: now.rewrite,
        expected: files::expected(&now.restored),
        diff: now.restored.iter().map(guest::diff).collect(),
    };
    steps.push(side(Stage::Adopt, identity.into(), 5.0));
    steps.push(side(Stage::Adopt, stop(&ours, true).into(), 10.0));
    // Two owners would break both: on the way back, too.
    let given_up = MachineQuiet { of: ours.clone(), addresses: linked.addresses.clone(), back: Some(theirs.clone()) };
    let given_up = look(Stage::Fence, given_up, 4.0).on_failure(OnFailure::Stop);
    // Production is not ended as by a power cut, whichever of the two it is.
    let down = PlanStep::new(Stage::Fence, StopMachine { force: false, ..stop(&theirs, false) }, 10.0);
    steps.push(match outage_from {
        Some(_) => {
            down.undone_between(vec![given_up], vec![settled(&record.original, &theirs).on_failure(OnFailure::Stop)])
        }
        None => {
            outage_from = Some(steps.len());
            down.outage_begins().undone_between(vec![given_up], vec![up()])
        }
    });
    // Hardware addresses change hands: at no time do two machines that can be heard have one.
    let away = linked.original.iter().zip(&linked.clone);
    let away =
        away.map(|(own, other)| Card { network: own.network.clone(), connected: false, ..other.clone() }).collect();
    steps.push(PlanStep::new(Stage::Fence, SetCards { of: theirs.clone(), cards: away }, 2.0));
    let quiet = MachineQuiet { of: theirs.clone(), addresses: linked.addresses.clone(), back: None };
    steps.push(PlanStep::new(Stage::Fence, quiet, 4.0).undo(Undo::Nothing));
    let mark = |role| Some(Mark { run: run.clone(), role });
    let named = NameMachine { of: theirs, name: format!("{run}.original"), mark: mark(Role::Original) };
    steps.push(PlanStep::new(Stage::Define, named, 2.0));
    let named = NameMachine { of: ours.clone(), name: vm_name(vm), mark: mark(Role::Production) };
    steps.push(PlanStep::new(Stage::Define, named, 2.0));
    steps.push(PlanStep::new(Stage::Define, SetCards { of: ours.clone(), cards: linked.original.clone() }, 2.0));
    let live = StartMachine { force: false, ..start(&ours, false) };
    let fetched = (!now.queues.is_empty()).then(|| FetchQueues {
        of: ours.clone(),
        from: record.original.clone(),
        paths: now.queues.clone(),
    });
    let fetched = fetched.map(|step| look(Stage::Fence, step, 5.0).outage_begins());
    steps
        .push(PlanStep::new(Stage::Start, live, 2.0).goes_live().undone_between(fetched.into_iter().collect(), vec![]));
    let checks = crate::lifecycle::verify::checks(spec, record, Side::Promoted, number);
    steps.push(
        PlanStep::new(Stage::Prove, checks, 60.0).undo(Undo::Nothing).on_failure(OnFailure::Unproven).outage_ends(),
    );
    let outage_s: f64 = steps.iter().skip(outage_from.unwrap_or_default()).map(|step| step.estimate_s).sum();
    steps.extend(hooks.after(Verb::Promote));
    debug_assert_eq!(outages(&steps, name).len(), 1);

    let mut page = Page::new(format!("Promote {run} to {name}"));
    if let Some(verification) = &record.verification {
        let text = format!("{}: {}", crate::lifecycle::local_time(verification.time), verification.summary);
        page.rows.push(Row::new("verified", text));
    }
    page.rows.push(Row::new("outage", format!("about {outage_s:.0} s")));
    let addresses: Vec<String> = linked.addresses.iter().map(IpAddr::to_string).collect();
    page.rows.push(Row::new("taken over", addresses.join(", ")));
    let mut carried: Vec<String> = rules().map(|(path, _)| path.into_owned()).collect();
    carried.extend(now.queues.iter().map(|path| format!("/{path}")));
    let all = if carried.is_empty() { "all" } else { "all else" };
    let stays = if now.queues.is_empty() { "what the clone got since" } else { "what else the clone got since" };
    if !carried.is_empty() {
        page.rows.push(Row::new("carried", carried.join(", ")));
    }
    page.rows.push(Row::new("left behind", format!("{all} that {name} wrote since the clone was made")));
    page.rows.push(Row::new("the original", format!("becomes {run}.original, off, with its cards unplugged")));
    page.rows.push(Row::new("way back", format!("rollback, about {outage_s:.0} s; {stays} stays with it")));
    page.rows.push(Row::new("commit", "no second outage; then the old system is gone"));
    page.confirm = Some(name.clone());
    Ok((record.plan("promote", [State::Promoting, State::Promoted, State::Verified], steps), page))
}

/// The machine's own name: the last part of its path, in which `/`, `\` and `%` stand as `%2f`, `%5c` and `%25`.
pub(super) fn vm_name(vm: &Vm) -> String {
    let last = Path::new(&vm.path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    last.replace("%2f", "/").replace("%5c", "\\").replace("%25", "%")
}

/// `commit`: the promoted machine gets disks of its own; then the original goes.
///
/// # Errors
/// Nothing is remembered of the machines.
pub fn commit(spec: &GuestSpec, record: &RunFacts) -> Result<(Plan, Page), Failure> {
    let (machine, vm, linked) = of(record)?;
    let (name, run) = (&spec.name, &record.clone.name);
    let ours = Which { shown: name.clone(), ..clone_of(record, linked) };
    let theirs = Which { shown: format!("{run}.original"), ..original(spec, record, vm) };
    let hooks = Hooks::of(spec, record);
    let mut steps = hooks.before(Verb::Commit);
    let stays = |step: PlanStep| step.undo(Undo::None).on_failure(OnFailure::Stop);
    steps.push(stays(PlanStep::new(Stage::Fold, OwnDisks { of: ours.clone() }, 300.0)));
    let remove = RemoveMachine { of: theirs, run: run.clone(), heir: linked.uuid.clone(), disks: linked.disks.clone() };
    steps.push(stays(PlanStep::new(Stage::Fold, remove, 10.0)));
    let unmarked = NameMachine { of: ours, name: vm_name(vm), mark: None };
    steps.push(stays(PlanStep::new(Stage::Tidy, unmarked, 1.0)));
    let forget = upgrade::Forget {
        host: record.host.clone(),
        link: record.original.clone(),
        jobs: upgrade::job_word(&record.clone),
    };
    steps.push(PlanStep::new(Stage::Tidy, forget, 0.5).undo(Undo::Nothing).on_failure(OnFailure::Warn));
    steps.extend(hooks.after(Verb::Commit));
    let mut page = Page::new(format!("Commit the promotion of {name}."));
    page.rows.push(Row::new("disks", "become its own: what it shares with the original is copied, while it runs"));
    page.rows
        .push(Row::new("removed", format!("{run}.original, with its disks and snapshots; {} with it", machine.kernel)));
    page.rows.push(Row::new("lost", "the way back by upgradectl"));
    page.rows.push(Row::new("outage", "none"));
    page.confirm = Some(name.clone());
    let plan =
        Plan { closes: true, ..record.plan("commit", [State::Committing, State::Committed, State::Promoted], steps) };
    Ok((plan, page))
}
