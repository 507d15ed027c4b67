#![expect(clippy::unwrap_used, reason = "tests")]
use std::path::Path;
use std::slice::from_ref;
use std::sync::Arc;

use hypervisors::Power;
use hypervisors::host::LocalHost;
use hypervisors::machines::{MachineFacts, MachineNic, Tools};
use serde_json::json;

use super::*;
use crate::engine::history::{Status, StepHistory};
use crate::engine::{Op, Plan};
use crate::inventory::GuestSpec;
use crate::lifecycle::back::Past;
use crate::lifecycle::preflight::{Findings, Verdict};
use crate::recipe::yum::Seen;
use crate::recipe::yum::tests::seen;
use crate::steps::Action;

const INSTANCE: &str = "52000000-0000-4000-8000-000000000001";
const UUID: &str = "564d1f5a-8b3c-0e6d-9f10-0123456789ab";

fn machine(bios: Option<&str>, addresses: &[&str]) -> MachineFacts {
    let machine =
        hypervisors::machines::Machine { uuid: INSTANCE.into(), path: "/DC0/vm/web1".into(), name: "web1".into() };
    MachineFacts {
        machine,
        bios: bios.map(str::to_owned),
        power: Power::On,
        memory_bytes: 1 << 30,
        cpus: 1,
        disks: Vec::new(),
        nics: Vec::new(),
        tools: Tools::default(),
        snapshots: Vec::new(),
        current_snapshot: None,
        mark: None,
        addresses: addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        needs_consolidation: false,
        template: false,
    }
}

/// A snapshot of another machine leads nowhere.
#[test]
fn the_machine_is_the_one_behind_ssh() {
    let verdict = |uuid: Option<&str>, machine: &MachineFacts| {
        let mut found = Findings::default();
        check::same("web1", machine, uuid, IpAddr::from([10, 0, 5, 12]), &mut found);
        assert_eq!(found.0.len(), 1);
        found.0.remove(0).verdict
    };
    let (here, elsewhere) = (&["10.0.5.12", "fe80::1"][..], &["10.0.5.13"][..]);
    for own in [UUID, "5A1F4D56-3C8B-6D0E-9F10-0123456789AB", "564D1F5A-8B3C-0E6D-9F10-0123456789AB"] {
        assert_eq!(
            verdict(Some(own), &machine(Some(UUID), elsewhere)),
            Verdict::Passed,
            "behind another address: {own}"
        );
    }
    for own in ["564d1f5a-8b3c-0e6d-9f10-0123456789ac", "", "Not Settable", "\u{e9}\u{e9}", "564d"] {
        assert_eq!(verdict(Some(own), &machine(Some(UUID), here)), Verdict::Refused, "{own}");
    }
    assert_eq!(verdict(None, &machine(Some(UUID), here)), Verdict::Passed);
    assert_eq!(verdict(Some(UUID), &machine(None, here)), Verdict::Passed);
    assert_eq!(verdict(None, &machine(Some(UUID), elsewhere)), Verdict::Refused);
    assert_eq!(verdict(None, &machine(None, &[])), Verdict::Warning);
}

fn spec(host: &str) -> GuestSpec {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "version = 1\n[hosts]\ncloud = {{ {host} }}\n[guests.web1]\nhost = \"cloud\"\nssh = {{ address = \"10.0.5.12\" }}\n\
         clone = {{ strategy = \"in-place\" }}\nupgrade = {{ recipe = \"yum-kernel\" }}\n"
    );
    std::fs::write(file.path(), text).unwrap();
    crate::inventory::load(file.path()).unwrap().guests.remove("web1").unwrap()
}

/// A run on a guest itself: its inventory, and what is remembered of it.
fn run(seen: Seen, of: Option<MachineFacts>) -> (GuestSpec, RunFacts) {
    let spec = spec("hypervisor = \"none\"");
    let facts = Facts {
        spec: spec.clone(),
        guest: Arc::new(LocalHost::new("web1")),
        address: IpAddr::from([10, 0, 5, 12]),
        hostname: "web1".into(),
        host_keys: Vec::new(),
        seen,
        machine: of,
    };
    let record = facts.record(Path::new("/x"), Path::new("/x"));
    (spec, record)
}

fn upgrade(seen: &Seen, spec: &GuestSpec, record: &RunFacts) -> Plan {
    let look = plan::Look { seen: seen.clone(), newer: true, older: std::collections::BTreeMap::new() };
    plan::upgrade(spec, record, record.of_machine().unwrap(), &look, 2).0
}

/// All steps of a plan that were done.
fn past(id: i64, plan: Plan) -> Past {
    let done = StepHistory { found: Some(json!(null)), status: Status::Done, done: None };
    Past { id, histories: vec![done; plan.steps.len()], plan, finished: true }
}

fn kinds(plan: &Plan) -> Vec<String> {
    let word = |op: &Op| match op {
        Op::Do(action) => action.kind().to_owned(),
        Op::Undo(_, action) => format!("-{}", action.kind()),
    };
    plan.steps.iter().map(|step| word(&step.op)).collect()
}

/// Whatever the inventory calls it: somebody else's machine may have that name.
#[test]
fn what_is_started_again_is_the_machine_itself() {
    for (vm, linked) in [(true, false), (true, true), (false, false)] {
        let (spec, mut record) = run(seen(), vm.then(|| machine(None, &[])));
        let clone = Linked {
            uuid: UUID.into(),
            original: Vec::new(),
            clone: Vec::new(),
            addresses: Vec::new(),
            disks: Vec::new(),
        };
        record.machine.as_mut().unwrap().linked = linked.then_some(clone);
        let expected = match (vm, linked) {
            (_, true) => Some(UUID),
            (true, _) => Some(INSTANCE),
            _ => None,
        };
        let plan = upgrade(&seen(), &spec, &record);
        let uuids: Vec<Option<&str>> = plan
            .steps
            .iter()
            .filter_map(|step| match step.op.action() {
                Action::Reboot(step) => Some(step.vm.as_deref()),
                Action::Settle(step) => Some(step.vm.as_deref()),
                Action::YumUpdate(step) => Some(step.vm.as_deref()),
                _ => None,
            })
            .collect();
        assert_eq!(uuids, [expected; 3]);
    }
}

/// Two cards of one address in a network break both.
#[test]
fn a_hardware_address_that_another_machine_has_is_drawn_again() {
    let nic = |mac: &str| MachineNic {
        key: 4000,
        label: "Network adapter 1".into(),
        mac: mac.parse().ok(),
        mac_type: None,
        network: "VM Network".into(),
        connected: true,
        start_connected: true,
    };
    let with = |macs: &[String]| MachineFacts { nics: macs.iter().map(|mac| nic(mac)).collect(), ..machine(None, &[]) };
    let spec = spec("hypervisor = \"none\"");
    let own = with(&["00:50:56:8f:00:01".to_owned(), "00:50:56:8f:00:02".to_owned()]);
    let drawn = |all: &[MachineFacts], given: &[String]| linked::macs(&spec, &own, all, given);
    let first = drawn(from_ref(&own), &[]).unwrap();
    assert!(first.iter().all(|mac| mac.0[..3] == [0, 0x50, 0x56] && mac.0[3] < 0x40) && first[0] != first[1]);
    assert_eq!(drawn(from_ref(&own), &[]).unwrap(), first, "planning again draws the same");
    let taken = with(&[first[0].to_string()]);
    let again = drawn(&[own.clone(), taken.clone()], &[]).unwrap();
    assert!(again[0] != first[0] && again[1] == first[1], "{again:?}");
    // A given one is for the first card, and nobody else's.
    let free = "00:50:56:00:00:07".to_owned();
    assert_eq!(drawn(from_ref(&own), from_ref(&free)).unwrap()[0].to_string(), free);
    let refused = drawn(&[own.clone(), taken], &[first[0].to_string()]).unwrap_err().0;
    assert!(refused.causes[0].contains("/DC0/vm/web1"), "{refused:?}");
}

/// Nothing that was accepted is lost or done twice: queues are fetched before their guest is shut down, and put where they came from
/// before anything works on them; the clone has none when its services start.
#[test]
fn queues_come_back_between_the_originals_start_and_that_of_its_services() {
    let (spec, mut record) = run(seen(), Some(machine(None, &[])));
    let (uuid, disks) = (UUID.into(), Vec::new());
    let clone = Linked { uuid, original: Vec::new(), clone: Vec::new(), addresses: Vec::new(), disks };
    record.machine.as_mut().unwrap().linked = Some(clone);
    let taken_back = |queues: &[&str]| {
        let queues = queues.iter().map(|path| (*path).to_owned()).collect();
        let rewrite = crate::steps::StepRef { plan: 1, index: 0 };
        let now = linked::Now { rewrite, restored: Vec::new(), services: vec!["postfix.service".into()], queues };
        let past = past(3, linked::promote(&spec, &record, &now, 1).unwrap().0);
        let plan = crate::lifecycle::back::rollback(&spec, &record, &past, &[]).unwrap().0;
        kinds(&plan)
            .into_iter()
            .zip(plan.steps)
            .map(|(kind, step)| (kind, step.outage_begins, step.outage_ends))
            .collect::<Vec<_>>()
    };
    let with = taken_back(&["var/spool/postfix/deferred"]);
    let at = |kind: &str| with.iter().position(|(other, ..)| other == kind).unwrap();
    let order = [
        "machine.fetch_queues",
        "-machine.on",
        "-machine.off",
        "-machine.return_queues",
        "-server.services",
        "-machine.identity",
        "-machine.queues",
        "-machine.services",
    ];
    let places: Vec<usize> = order.iter().map(|kind| at(kind)).collect();
    assert!(places.is_sorted(), "{places:?} of {with:?}");
    assert!(with[at("machine.fetch_queues")].1 && with[..=at("-server.services") + 1].iter().any(|step| step.2));
    assert!(taken_back(&[]).iter().all(|(kind, ..)| !kind.ends_with("queues")));
}

/// Without its snapshot a machine goes back as one that never had any.
#[test]
fn a_lost_snapshot_leaves_the_way_back_by_the_old_kernel() {
    let (spec, record) = run(seen(), Some(machine(None, &[])));
    let own = record.of_machine().unwrap();
    let cloned = past(1, plan::clone(&spec, &record, own, &seen()).0);
    assert!(!plan::touched(std::slice::from_ref(&cloned)));
    let pasts = [cloned, past(2, upgrade(&seen(), &spec, &record))];
    assert!(plan::touched(&pasts));
    let (plan, _) = plan::abort(&spec, &record, own, &pasts, "2.6.18-238.9.1.el5").unwrap();
    let expected = [
        "-kernel.boot_once",
        "-tools.hook",
        "-yum.update",
        "-machine.snapshot",
        "guest.reboot",
        "guest.settle",
        "kernel.prove",
        "guest.forget",
    ];
    assert_eq!(kinds(&plan), expected);
}

/// A kernel without an initial ramdisk is not booted, whatever is known of the root's driver.
#[test]
fn that_there_is_an_initial_ramdisk_is_always_looked_at() {
    for drivers in [vec![], vec!["pvscsi".to_owned()]] {
        let seen = Seen { drivers: drivers.into_iter().collect(), ..seen() };
        let (spec, record) = run(seen.clone(), None);
        let kinds = kinds(&upgrade(&seen, &spec, &record));
        let at = |kind: &str| kinds.iter().position(|other| other == kind).unwrap();
        assert!(at("yum.update") < at("kernel.initramfs") && at("kernel.initramfs") < at("kernel.boot_once"));
    }
}

/// Every machine has those: nobody is told from another by them.
#[test]
fn loopback_is_no_address_that_goes_over() {
    let dir = tempfile::tempdir().unwrap();
    let scripts = dir.path().join("etc/sysconfig/network-scripts");
    std::fs::create_dir_all(&scripts).unwrap();
    let lo = "DEVICE=lo\nIPADDR=127.0.0.1\nNETMASK=255.0.0.0\nONBOOT=yes\nNAME=loopback\n";
    std::fs::write(scripts.join("ifcfg-lo"), lo).unwrap();
    let eth = "DEVICE=eth0\nBOOTPROTO=none\nIPADDR=10.0.5.12\nPREFIX=24\nONBOOT=yes\nIPV6INIT=yes\nIPV6ADDR=fe80::12/64\n\
               IPV6ADDR_SECONDARIES=2001:db8::12/64\n";
    std::fs::write(scripts.join("ifcfg-eth0"), eth).unwrap();
    let own = linked::addresses(&crate::guest::Tree::open(dir.path()).unwrap()).unwrap();
    let told: Vec<String> = own.iter().map(|(interface, ip)| format!("{interface} {ip}")).collect();
    assert_eq!(told, ["eth0 10.0.5.12", "eth0 2001:db8::12"]);
}

fn nic(connected: bool, network: &str, mac_type: &str) -> hypervisors::machines::MachineNic {
    hypervisors::machines::MachineNic {
        key: 4000,
        label: "Network adapter 1".into(),
        mac: "00:50:56:8f:00:01".parse().ok(),
        mac_type: Some(mac_type.into()),
        network: network.into(),
        connected,
        start_connected: true,
    }
}

fn linked(macs: &[&str], disks: &[&str]) -> Linked {
    let card = |mac: &&str| Card { mac: mac.parse().ok(), ..Card::default() };
    let cards: Vec<Card> = macs.iter().map(card).collect();
    let disks = disks.iter().map(|file| (*file).to_owned()).collect();
    Linked { uuid: UUID.into(), original: cards.clone(), clone: cards, addresses: Vec::new(), disks }
}

/// What would be seen only while production is down.
#[test]
fn cards_that_could_not_be_given_back_are_refused() {
    let verdicts = |nic, mac: &str| {
        let mut found = Findings::default();
        check::cards(&MachineFacts { nics: vec![nic], ..machine(None, &[]) }, &linked(&[mac], &[]), &mut found);
        found.0.into_iter().map(|finding| finding.verdict).collect::<Vec<_>>()
    };
    let free = "00:50:56:3f:00:01";
    assert_eq!(verdicts(nic(true, "net", "manual"), free), []);
    assert_eq!(verdicts(nic(true, "net", "assigned"), free), [Verdict::Warning]);
    assert_eq!(verdicts(nic(false, "net", "manual"), free), [Verdict::Refused]);
    assert_eq!(verdicts(nic(true, "", "manual"), free), [Verdict::Refused]);
    for mac in ["00:50:56:40:00:01", "00:0c:29:00:00:01", "01:50:56:00:00:01"] {
        assert_eq!(verdicts(nic(true, "net", "manual"), mac), [Verdict::Refused], "{mac}");
    }
}

#[test]
fn machines_that_changed_since_clone_are_not_promoted() {
    let with = |cards: usize, files: &[&str]| {
        let nic = |connected, network, kind| hypervisors::machines::MachineNic {
            mac: "00:50:56:00:00:01".parse().ok(),
            ..nic(connected, network, kind)
        };
        let disk = |file: &&str| hypervisors::machines::MachineDisk {
            key: 2000,
            label: "Hard disk 1".into(),
            file: (*file).to_owned(),
            parents: Vec::new(),
            bytes: 1,
            independent: false,
            raw: false,
            shared: false,
        };
        let nics = vec![nic(true, "net", "manual"); cards];
        MachineFacts { nics, disks: files.iter().map(disk).collect(), ..machine(None, &[]) }
    };
    let refused = |original: &MachineFacts, clone: &MachineFacts, disks: &[&str]| {
        let mut found = Findings::default();
        check::unchanged(&linked(&["00:50:56:00:00:01"], disks), original, clone, &mut found);
        found.0.len()
    };
    let clone = with(1, &["[a] run/run.vmdk"]);
    assert_eq!(refused(&with(1, &["[a] w/w.vmdk"]), &clone, &["[a] w/w.vmdk"]), 0);
    assert_eq!(refused(&with(1, &["[a] w/w.vmdk"]), &clone, &[]), 0);
    assert_eq!(refused(&with(1, &["[a] w/w.vmdk", "[a] w/late.vmdk"]), &clone, &["[a] w/w.vmdk"]), 1);
    assert_eq!(refused(&with(2, &["[a] w/w.vmdk"]), &with(2, &[]), &["[a] w/w.vmdk"]), 2);
    let moved = MachineFacts { nics: vec![nic(true, "net", "manual")], ..with(1, &["[a] w/w.vmdk"]) };
    assert_eq!(refused(&moved, &clone, &["[a] w/w.vmdk"]), 1, "another hardware address");
}
