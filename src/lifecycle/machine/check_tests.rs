use hypervisors::Power;
use hypervisors::machines::{Machine, Tools};

use super::*;
use crate::lifecycle::preflight::Verdict;

const UUID: &str = "564d1f5a-8b3c-0e6d-9f10-0123456789ab";

fn machine(bios: Option<&str>, addresses: &[&str]) -> MachineFacts {
    let machine = Machine { uuid: "52000000-0000-4000-8000-000000000001".into(), path: "/DC0/vm/web1".into(), name: "web1".into() };
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
        same("web1", machine, uuid, IpAddr::from([10, 0, 5, 12]), &mut found);
        assert_eq!(found.0.len(), 1);
        found.0.remove(0).verdict
    };
    let (here, elsewhere) = (&["10.0.5.12", "fe80::1"][..], &["10.0.5.13"][..]);
    for own in [UUID, "5A1F4D56-3C8B-6D0E-9F10-0123456789AB", "564D1F5A-8B3C-0E6D-9F10-0123456789AB"] {
        assert_eq!(verdict(Some(own), &machine(Some(UUID), elsewhere)), Verdict::Passed, "behind another address: {own}");
    }
    for own in ["564d1f5a-8b3c-0e6d-9f10-0123456789ac", "", "Not Settable", "\u{e9}\u{e9}", "564d"] {
        assert_eq!(verdict(Some(own), &machine(Some(UUID), here)), Verdict::Refused, "{own}");
    }
    assert_eq!(verdict(None, &machine(Some(UUID), here)), Verdict::Passed);
    assert_eq!(verdict(Some(UUID), &machine(None, here)), Verdict::Passed);
    assert_eq!(verdict(None, &machine(Some(UUID), elsewhere)), Verdict::Refused);
    assert_eq!(verdict(None, &machine(None, &[])), Verdict::Warning);
}
