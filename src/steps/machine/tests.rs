//! Against a machine that does what it is told, in memory.
#![expect(clippy::unwrap_used, reason = "tests")]
use std::collections::BTreeMap;
use std::sync::Mutex;

use hypervisors::machines::{GuestLogin, Machine, MachineFacts, NewMachine, NicEdit, Tools};
use hypervisors::{Host, Mark, Result};

use super::*;

const RUN: &str = "web1--k3f9";

mod linked;

/// A machine, and perhaps another; a snapshot that is being made for so many looks.
#[derive(Debug)]
struct Played {
    facts: Mutex<MachineFacts>,
    other: Option<MachineFacts>,
    making: Mutex<(u32, Option<SnapshotFacts>)>,
}

fn snapshot(id: &str, run: &str) -> SnapshotFacts {
    SnapshotFacts {
        id: id.into(),
        name: run.into(),
        description: description(run),
        created: String::new(),
        parent: None,
        quiesced: false,
    }
}

impl Played {
    fn new(snapshots: Vec<SnapshotFacts>) -> Self {
        let facts = MachineFacts {
            machine: Machine { uuid: "u".into(), path: "/DC0/vm/web1".into(), name: "web1".into() },
            bios: None,
            power: Power::On,
            memory_bytes: 0,
            cpus: 1,
            disks: Vec::new(),
            nics: Vec::new(),
            tools: Tools::default(),
            snapshots,
            current_snapshot: None,
            mark: None,
            addresses: Vec::new(),
            needs_consolidation: false,
            template: false,
        };
        Self { facts: Mutex::new(facts), other: None, making: Mutex::default() }
    }
    fn making(self, looks: u32, made: Option<SnapshotFacts>) -> Self {
        Self { making: Mutex::new((looks, made)), ..self }
    }
}

#[async_trait]
impl Machines for Played {
    async fn find(&self, _: &str) -> Result<Machine> {
        unreachable!()
    }
    async fn machine(&self, uuid: &str) -> Result<Option<MachineFacts>> {
        let all = [Some(self.facts.lock().unwrap().clone()), self.other.clone()];
        Ok(all.into_iter().flatten().find(|facts| facts.machine.uuid == uuid))
    }
    async fn all(&self) -> Result<Vec<MachineFacts>> {
        unreachable!()
    }
    async fn busy(&self, _: &str) -> Result<bool> {
        let mut making = self.making.lock().unwrap();
        if making.0 == 0 {
            self.facts.lock().unwrap().snapshots.extend(making.1.take());
            return Ok(false);
        }
        making.0 -= 1;
        Ok(true)
    }
    async fn snapshot(&self, _: &str, _: &str, _: &str, _: bool) -> Result<String> {
        unreachable!()
    }
    async fn revert(&self, _: &str, _: &str) -> Result<Change> {
        unreachable!()
    }
    async fn remove_snapshot(&self, _: &str, id: &str) -> Result<Change> {
        self.facts.lock().unwrap().snapshots.retain(|one| one.id != id);
        Ok(Change::Removed)
    }
    async fn clone_linked(&self, _: &str, _: &str, _: &NewMachine) -> Result<Change> {
        unreachable!()
    }
    async fn clone_full(&self, _: &str, _: &str, _: &NewMachine) -> Result<Change> {
        unreachable!()
    }
    async fn edit_nics(&self, _: &str, edits: &[NicEdit]) -> Result<Change> {
        linked::edit(&mut self.facts.lock().unwrap().nics, edits);
        Ok(Change::Changed)
    }
    async fn set_mark(&self, _: &str, mark: Option<&Mark>) -> Result<Change> {
        self.facts.lock().unwrap().mark = mark.cloned();
        Ok(Change::Changed)
    }
    async fn rename(&self, _: &str, name: &str) -> Result<Change> {
        Err(hypervisors::Error::refused(format!("rename it to {name}"), "DuplicateName"))
    }
    async fn resize(&self, _: &str, _: Option<u64>, _: Option<u32>) -> Result<Change> {
        unreachable!()
    }
    async fn power_on(&self, _: &str) -> Result<Change> {
        unreachable!()
    }
    async fn power_off(&self, _: &str) -> Result<Change> {
        unreachable!()
    }
    async fn shutdown_guest(&self, _: &str, _: Duration) -> Result<Change> {
        unreachable!()
    }
    async fn promote_disks(&self, _: &str) -> Result<Change> {
        unreachable!()
    }
    async fn consolidate(&self, _: &str) -> Result<Change> {
        self.facts.lock().unwrap().needs_consolidation = false;
        Ok(Change::Changed)
    }
    async fn remove(&self, _: &str, _: &str) -> Result<Change> {
        unreachable!()
    }
    fn inside(&self, _: &str, _: GuestLogin) -> Arc<dyn Host> {
        unreachable!()
    }
    async fn enter(&self, _: &str, _: &str) -> Result<Arc<dyn Host>> {
        unreachable!()
    }
    fn calls(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A call whose answer was lost goes on at the platform: that nothing is there yet does not say that nothing was made.
#[tokio::test]
async fn a_snapshot_that_is_being_made_is_waited_for() {
    let step = SnapshotMachine {
        host: "cloud".into(),
        uuid: "u".into(),
        guest: "web1".into(),
        run: RUN.into(),
        quiesce: false,
    };
    let made = |machines: Played| {
        let step = step.clone();
        async move { step.made(&machines, &|_, _| ()).await }
    };
    assert_eq!(made(Played::new(Vec::new())).await.unwrap(), None);
    let ours = snapshot("snapshot-7", RUN);
    let being = Played::new(vec![snapshot("snapshot-1", "web1--aaaa")]).making(3, Some(ours.clone()));
    assert_eq!(made(being).await.unwrap(), Some(ours));
    assert_eq!(made(Played::new(Vec::new()).making(3, None)).await.unwrap(), None, "it was somebody else's");
    assert!(made(Played::new(Vec::new()).making(u32::MAX, None)).await.unwrap_err().is_unknown());
}

/// The platform gives new ids to a machine that it registers anew, and those it gave before to others.
#[test]
fn a_snapshot_is_found_whatever_its_id_has_become() {
    let (mine, other) = (snapshot("snapshot-7", RUN), snapshot("snapshot-1", "web1--aaaa"));
    let found = |all: &[&SnapshotFacts], id: Option<&str>| {
        ours(all.iter().map(|one| (*one).clone()).collect(), id, RUN).unwrap().map(|found| found.id)
    };
    for id in [Some("snapshot-7"), None, Some("snapshot-99"), Some("snapshot-1")] {
        assert_eq!(found(&[&other, &mine], id).as_deref(), Some("snapshot-7"), "{id:?}");
        assert_eq!(found(&[&other], id), None, "{id:?}");
    }
    let described = SnapshotFacts { description: "leave it".into(), ..mine.clone() };
    assert_eq!(found(&[&described], Some("snapshot-7")).as_deref(), Some("snapshot-7"));
    let twice = [mine.clone(), SnapshotFacts { id: "snapshot-8".into(), ..mine }];
    assert!(ours(twice.to_vec(), None, RUN).is_err());
    assert_eq!(ours(twice.to_vec(), Some("snapshot-8"), RUN).unwrap().unwrap().id, "snapshot-8");
}

/// One that is gone may have left disks that are not folded.
#[tokio::test]
async fn what_a_removed_snapshot_left_is_folded() {
    for snapshots in [vec![snapshot("snapshot-7", RUN)], Vec::new()] {
        let machines = Played::new(snapshots.clone());
        machines.facts.lock().unwrap().needs_consolidation = true;
        let done = remove(&machines, "u", snapshots.into_iter().next()).await.unwrap();
        assert_eq!(done.change, Change::Changed);
        let facts = machines.facts.lock().unwrap();
        assert!(!facts.needs_consolidation && facts.snapshots.is_empty());
    }
}
