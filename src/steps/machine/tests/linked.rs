//! What belongs to a machine and its clone.

use hypervisors::machines::{MachineDisk, MachineNic};
use hypervisors::{MacAddr, Role};

use super::*;
use crate::steps::StepError;
use crate::steps::machine::cards::{Card, NameMachine, SetCards};
use crate::steps::machine::linked::{CloneMachine, MachineQuiet, RemoveMachine, StopMachine, Which};

/// What the platform chooses, whatever it is asked for.
const CHOSEN: MacAddr = MacAddr([0, 0x50, 0x56, 0x80, 0, 0xff]);
/// What it does not let be set.
const TAKEN: MacAddr = MacAddr([0, 0x50, 0x56, 0x80, 0, 0xee]);

fn mac(last: u8) -> MacAddr {
    MacAddr([0, 0x50, 0x56, 0, 0, last])
}

fn nic(key: i32, mac: MacAddr) -> MachineNic {
    MachineNic {
        key,
        label: format!("Network adapter {key}"),
        mac: Some(mac),
        mac_type: Some("assigned".into()),
        network: "net".into(),
        connected: false,
        start_connected: true,
    }
}

/// As the platform edits cards.
pub(super) fn edit(nics: &mut [MachineNic], edits: &[NicEdit]) {
    for edit in edits {
        let nic = nics.iter_mut().find(|nic| nic.key == edit.key).unwrap();
        if let Some(mac) = edit.mac {
            nic.mac = Some(if mac == TAKEN { CHOSEN } else { mac });
            nic.mac_type.clone_from(&edit.mac_type);
        }
        nic.start_connected = edit.start_connected.unwrap_or(nic.start_connected);
    }
}

fn which(uuid: &str) -> Which {
    Which { host: "vcenter".into(), uuid: uuid.into(), shown: uuid.into() }
}

fn facts(uuid: &str, power: Power) -> MachineFacts {
    let mut facts = Played::new(Vec::new()).facts.into_inner().unwrap();
    facts.machine.uuid = uuid.into();
    MachineFacts { power, ..facts }
}

fn played(power: Power, nics: Vec<MachineNic>) -> Played {
    let played = Played::new(Vec::new());
    *played.facts.lock().unwrap() = MachineFacts { nics, ..facts("u", power) };
    played
}

/// One that never went off, or that somebody started, answers for its own addresses.
#[tokio::test]
async fn on_a_way_back_the_machine_itself_may_run() {
    let quiet = |back: Option<&str>| MachineQuiet { of: which("u"), addresses: Vec::new(), back: back.map(which) };
    let with = |ours, theirs| Played { other: Some(facts("original", theirs)), ..played(ours, Vec::new()) };
    let back = Some("original");
    assert!(quiet(back).given_up(&with(Power::Off, Power::On)).await.unwrap());
    assert!(!quiet(back).given_up(&with(Power::Off, Power::Off)).await.unwrap());
    assert!(!quiet(None).given_up(&with(Power::Off, Power::On)).await.unwrap());
    // Two owners, though.
    assert!(quiet(back).given_up(&with(Power::On, Power::On)).await.is_err());
    // A plan of before this was asked.
    let old = json!({ "of": which("u"), "addresses": [] });
    assert_eq!(serde_json::from_value::<MachineQuiet>(old).unwrap(), quiet(None));
}

fn card(mac: MacAddr, connected: bool) -> Card {
    Card { mac: Some(mac), mac_type: Some("assigned".into()), network: None, connected }
}

#[tokio::test]
async fn cards_get_their_addresses_as_what_they_were() {
    let step =
        SetCards { of: which("u"), cards: vec![Card { mac_type: Some("manual".into()), ..card(mac(7), false) }] };
    let machines = played(Power::Off, vec![nic(4000, mac(1))]);
    let before = machines.facts.lock().unwrap().nics.clone();
    step.exchange(&machines).await.unwrap();
    let now = machines.facts.lock().unwrap().nics[0].clone();
    assert_eq!((now.mac, now.mac_type.as_deref()), (Some(mac(7)), Some("manual")));
    step.taken(&machines, &before.iter().map(Card::of).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(machines.facts.lock().unwrap().nics, before);
    // The platform may choose another one than it was told: not for production.
    let step = SetCards { of: which("u"), cards: vec![card(TAKEN, true)] };
    assert!(matches!(step.exchange(&machines).await, Err(StepError::Failed { .. })));
    assert_eq!(step.taken(&machines, &[card(TAKEN, true)]).await.unwrap().warnings.len(), 1);
}

#[tokio::test]
async fn a_promoted_machine_that_was_changed_or_is_gone_gives_everything_back() {
    // Production's address is on one of three cards by now, which had one.
    let step = SetCards { of: which("u"), cards: vec![card(mac(1), true)] };
    let machines = played(Power::Off, vec![nic(4000, mac(8)), nic(4001, mac(1)), nic(4002, mac(9))]);
    let done = step.taken(&machines, &[card(mac(7), false)]).await.unwrap();
    assert!(done.warnings[0].contains("3 network cards now, and had 1"), "{done:?}");
    let now = machines.facts.lock().unwrap().nics.clone();
    let told: Vec<_> = now.iter().map(|nic| (nic.mac, nic.start_connected)).collect();
    assert_eq!(told, [(Some(mac(8)), false), (Some(mac(7)), false), (Some(mac(9)), false)]);
    assert!(step.exchange(&machines).await.is_err(), "but it is not promoted so");

    let gone = SetCards { of: which("gone"), ..step };
    assert_eq!(gone.taken(&machines, &[card(mac(7), false)]).await.unwrap().change, Change::Unchanged);
    let mark = Mark { run: RUN.into(), role: Role::Clone };
    let name = |uuid: &str| NameMachine { of: which(uuid), name: "web1".into(), mark: None };
    assert_eq!(name("gone").taken(&machines, RUN, Some(&mark)).await.unwrap().change, Change::Unchanged);
    let done = name("u").taken(&machines, RUN, Some(&mark)).await.unwrap();
    assert!(done.warnings[0].contains("DuplicateName"), "{done:?}");
    assert_eq!(machines.facts.lock().unwrap().mark, Some(mark));
}

/// The original goes with all its disks, and what its heir stands on must not be among them.
#[test]
fn an_original_is_removed_only_with_what_was_cloned() {
    let disk = |file: &str, parents: &[&str]| MachineDisk {
        key: 2000,
        label: "Hard disk 1".into(),
        file: file.into(),
        parents: parents.iter().map(|file| (*file).to_owned()).collect(),
        bytes: 1,
        independent: false,
        raw: false,
        shared: false,
    };
    let with = |disks: &[MachineDisk]| MachineFacts { disks: disks.to_vec(), ..facts("u", Power::Off) };
    let step = |disks: &[&str]| {
        let disks = disks.iter().map(|file| (*file).to_owned()).collect();
        RemoveMachine { of: which("original"), run: RUN.into(), heir: "u".into(), disks }
    };
    let own = disk("[a] web1/web1-000001.vmdk", &["[a] web1/web1.vmdk"]);
    let original = with(std::slice::from_ref(&own));
    let heir = with(&[disk("[a] run/run.vmdk", &[])]);
    let cloned = ["[a] web1/web1.vmdk"];
    step(&cloned).removable(&original, &heir).unwrap();
    step(&[]).removable(&original, &heir).unwrap();
    for (original, heir, disks) in [
        (&original, &with(&[disk("[a] run/run.vmdk", &["[a] web1/web1.vmdk"])]), &cloned[..]),
        (&original, &with(&[]), &cloned[..]),
        (&original, &with(&[]), &[][..]),
        (&original, &heir, &["[a] web1/web1.vmdk", "[a] web1/web1_1.vmdk"][..]),
        (&with(&[own.clone(), disk("[a] other/data.vmdk", &[])]), &heir, &cloned[..]),
    ] {
        assert!(step(disks).removable(original, heir).is_err(), "{original:?} {heir:?} {disks:?}");
    }
}

/// A call whose answer was lost goes on at the platform: that no clone is there yet does not say that none comes.
#[tokio::test]
async fn a_clone_that_is_being_made_is_waited_for() {
    let step = CloneMachine { of: which("u"), run: RUN.into(), uuid: "clone".into() };
    let machines = played(Power::On, Vec::new()).making(3, None);
    step.waited(&machines, &|_, _| ()).await.unwrap();
    assert!(!machines.busy("u").await.unwrap());
    let endless = played(Power::On, Vec::new()).making(u32::MAX, None);
    assert!(step.waited(&endless, &|_, _| ()).await.unwrap_err().is_unknown());
    // An original that is gone makes nothing.
    let gone = CloneMachine { of: which("gone"), ..step };
    gone.waited(&endless, &|_, _| ()).await.unwrap();
}

/// One whose tools have ended is on its way down.
#[tokio::test]
async fn a_shutdown_that_comes_late_is_waited_for() {
    let stop = StopMachine { of: which("u"), patience_s: 0, force: false, tools_s: None };
    assert!(!stop.outlast(&played(Power::On, Vec::new())).await.unwrap());
    assert!(stop.outlast(&played(Power::Off, Vec::new())).await.unwrap());
    let late = StopMachine { patience_s: 60, ..stop };
    let machines = Arc::new(played(Power::On, Vec::new()));
    let goes = machines.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        goes.facts.lock().unwrap().power = Power::Off;
    });
    assert!(late.outlast(&*machines).await.unwrap());
}
