//! What of the marked machines and snapshots of a platform that runs machines whole may go, and why the rest may not. Pure.
//!
//! A machine's mark is its own; a snapshot has none, and is told by its description ([`run_of`]). Never removed: what production runs on;
//! what an open run works on; what another machine stands on, unless that goes as well; a machine that is not the one its run made.
//! Machines that the user who logs in may not see are not seen here.

use std::collections::BTreeSet;

use hypervisors::machines::{MachineFacts, SnapshotFacts};
use hypervisors::{Mark, Power, Role};

use super::clone::uuid;
use super::judge::{Judged, Kind, OfMachine};
use crate::steps::machine::run_of;

/// The machines of a platform.
#[derive(Debug, Default)]
pub(super) struct Machines {
    /// All that it has, templates too.
    pub all: Vec<MachineFacts>,
    /// UUIDs of those that open runs work on.
    pub held: BTreeSet<String>,
}

impl Machines {
    /// Everything that bears a mark.
    pub fn marked(&self) -> Vec<Judged> {
        let mut found = Vec::new();
        for one in &self.all {
            let of = |snapshot: Option<&SnapshotFacts>| {
                Some(OfMachine { uuid: one.machine.uuid.clone(), snapshot: snapshot.cloned() })
            };
            if let Some(mark) = &one.mark {
                found.push(Judged {
                    kind: Kind::Machine,
                    object: one.machine.path.clone(),
                    run: mark.run.clone(),
                    role: Some(mark.role),
                    volume: None,
                    machine: of(None),
                    fit: self.judge_machine(one, mark),
                });
            }
            for (snapshot, run) in one.snapshots.iter().filter_map(|snapshot| Some((snapshot, run_of(snapshot)?))) {
                found.push(Judged {
                    kind: Kind::Snapshot,
                    object: format!("{} of {}", snapshot.id, one.machine.path),
                    run: run.to_owned(),
                    role: None,
                    volume: None,
                    machine: of(Some(snapshot)),
                    fit: self.judge_snapshot(one, run),
                });
            }
        }
        found
    }

    /// Machines that cannot be without this one.
    fn upon<'a>(&'a self, one: &'a MachineFacts) -> impl Iterator<Item = &'a MachineFacts> {
        self.all.iter().filter(|other| other.stands_on(one))
    }

    fn is_free(&self, one: &MachineFacts) -> Result<(), String> {
        match self.held.contains(&one.machine.uuid) {
            true => Err("an open run works on that machine".into()),
            false => Ok(()),
        }
    }

    fn judge_machine(&self, one: &MachineFacts, mark: &Mark) -> Result<(), String> {
        let adopt = "--adopt makes it an ordinary machine";
        let heir = uuid(&mark.run);
        self.is_free(one)?;
        let made = match mark.role {
            Role::Production => return Err(format!("production runs on it; {adopt}")),
            Role::Detached | Role::Displaced => return Err("it is not a clone's".into()),
            Role::Clone => one.machine.name == mark.run && one.machine.uuid == heir,
            Role::Original => one.machine.name == format!("{}.original", mark.run),
        };
        if !made || one.template {
            return Err(format!("it is not as its run made it; {adopt}"));
        }
        if let Some(other) = self.upon(one).next() {
            return Err(format!("{} stands on its disks", other.machine.path));
        }
        if mark.role == Role::Original {
            let serves = |other: &&MachineFacts| {
                other.machine.uuid == heir && other.mark.as_ref().is_none_or(|its| its.role == Role::Production)
            };
            return match self.all.iter().find(serves) {
                Some(_) if one.power == Power::Off => Ok(()),
                Some(_) => Err("it is on".into()),
                None => Err(format!("it may be all that is left of its guest; {adopt}")),
            };
        }
        match one.disks.iter().find(|disk| disk.parents.is_empty()) {
            Some(disk) => Err(format!("its {} ({}) is not of the run", disk.label, disk.file)),
            None => Ok(()),
        }
    }

    fn judge_snapshot(&self, one: &MachineFacts, run: &str) -> Result<(), String> {
        self.is_free(one)?;
        let goes = |other: &MachineFacts| {
            let its = other.mark.as_ref().filter(|mark| mark.run == run && mark.role == Role::Clone);
            its.is_some_and(|mark| self.judge_machine(other, mark).is_ok())
        };
        match self.upon(one).find(|other| !goes(other)) {
            Some(other) => Err(format!("{} stands on its disks", other.machine.path)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use hypervisors::machines::{Machine, MachineDisk, Tools};

    use super::*;

    const RUN: &str = "web1--k3f9";

    /// A machine with a disk in a directory of its name, upon files of others.
    fn machine(name: &str, uuid: &str, mark: Option<&str>, parents: &[&str]) -> MachineFacts {
        let disk = MachineDisk {
            key: 2000,
            label: "Hard disk 1".into(),
            file: format!("[ds] {name}/{name}.vmdk"),
            parents: parents.iter().map(|file| (*file).to_owned()).collect(),
            bytes: 1 << 30,
            independent: false,
            raw: false,
            shared: false,
        };
        MachineFacts {
            machine: Machine { uuid: uuid.into(), path: format!("/DC0/vm/{name}"), name: name.into() },
            bios: None,
            power: Power::Off,
            memory_bytes: 1 << 30,
            cpus: 1,
            disks: vec![disk],
            nics: Vec::new(),
            tools: Tools::default(),
            snapshots: Vec::new(),
            current_snapshot: None,
            mark: mark.map(|mark| mark.parse().unwrap()),
            addresses: Vec::new(),
            needs_consolidation: false,
            template: false,
        }
    }

    fn snapshot(id: &str, description: &str) -> SnapshotFacts {
        SnapshotFacts {
            id: id.into(),
            name: RUN.into(),
            description: description.into(),
            created: String::new(),
            parent: None,
            quiesced: false,
        }
    }

    /// An original with the run's snapshot and another's, its clone, and a machine that nobody marked.
    fn world() -> Machines {
        let mut original = machine("web1", "o", None, &["[ds] web1/web1-base.vmdk"]);
        original.snapshots = vec![
            snapshot("snapshot-1", &format!("upgradectl {RUN}: leads back; removed by commit or abort")),
            snapshot("snapshot-2", &format!("upgradectl {RUN}: mine")),
            snapshot("snapshot-3", "upgradectl : "),
        ];
        let clone = machine(RUN, &uuid(RUN), Some("web1--k3f9.clone"), &["[ds] web1/web1-base.vmdk"]);
        Machines { all: vec![original, clone, machine("mail", "m", None, &[])], held: BTreeSet::new() }
    }

    /// What is found, and why it stays if it does.
    fn told(machines: &Machines) -> Vec<(String, String)> {
        machines.marked().into_iter().map(|one| (one.object, one.fit.err().unwrap_or_default())).collect()
    }

    fn why(machines: &Machines, object: &str) -> String {
        told(machines).into_iter().find(|(name, _)| name.ends_with(object)).unwrap().1
    }

    #[test]
    fn a_clone_and_the_snapshot_it_stands_on_go_together_and_nothing_unmarked_is_found() {
        let all = ["snapshot-1 of /DC0/vm/web1", "/DC0/vm/web1--k3f9"].map(|name| (name.to_owned(), String::new()));
        assert_eq!(told(&world()), all);
    }

    #[test]
    fn what_another_machine_stands_on_stays() {
        let mut it = world();
        it.all.push(machine("mine", "x", None, &["[ds] web1/web1-base.vmdk"]));
        assert_eq!(why(&it, "of /DC0/vm/web1"), "/DC0/vm/mine stands on its disks");
        assert_eq!(why(&it, RUN), "");
        // A template counts, and a disk that was plugged into another machine.
        let mut it = world();
        let mut other = machine("mine", "x", None, &[]);
        other.template = true;
        other.disks[0].file = format!("[ds] {RUN}/{RUN}.vmdk");
        it.all.push(other);
        assert_eq!(why(&it, RUN), "/DC0/vm/mine stands on its disks");
        // The clone stays, so what it stands on does.
        assert_eq!(why(&it, "of /DC0/vm/web1"), "/DC0/vm/web1--k3f9 stands on its disks");
    }

    #[test]
    fn what_is_not_as_the_run_made_it_stays() {
        type Change = fn(&mut MachineFacts);
        let changes: [(&str, Change); 5] = [
            ("not as its run made it", |clone| clone.machine.name = "web2".into()),
            ("not as its run made it", |clone| clone.machine.uuid = "another".into()),
            ("not as its run made it", |clone| clone.template = true),
            ("Hard disk 1 ([ds] web1--k3f9/web1--k3f9.vmdk) is not of the run", |clone| clone.disks[0].parents.clear()),
            ("not a clone's", |clone| clone.mark = "web1--k3f9.detached".parse().ok()),
        ];
        for (reason, change) in changes {
            let mut it = world();
            change(&mut it.all[1]);
            let told = told(&it).pop().unwrap().1;
            assert!(told.contains(reason), "{told}");
        }
        for (held, object) in [("o", "of /DC0/vm/web1"), (&uuid(RUN), RUN)] {
            let it = Machines { held: BTreeSet::from([held.to_owned()]), ..world() };
            assert_eq!(why(&it, object), "an open run works on that machine");
        }
    }

    #[test]
    fn production_stays_and_its_original_until_nothing_stands_on_it() {
        let mut it = world();
        let (original, clone) = (&mut it.all[0], "web1--k3f9.production".parse().ok());
        (original.machine.name, original.mark) = (format!("{RUN}.original"), "web1--k3f9.original".parse().ok());
        original.machine.path = format!("/DC0/vm/{RUN}.original");
        (it.all[1].mark, it.all[1].machine.path) = (clone, "/DC0/vm/web1".into());
        assert!(why(&it, "/vm/web1").starts_with("production runs on it"));
        assert_eq!(why(&it, "/web1--k3f9.original"), "/DC0/vm/web1 stands on its disks");
        // Disks of its own.
        it.all[1].disks[0].parents.clear();
        assert_eq!(why(&it, "/web1--k3f9.original"), "");
        it.all[0].power = Power::On;
        assert_eq!(why(&it, "/web1--k3f9.original"), "it is on");
        it.all.remove(1);
        assert!(why(&it, "/web1--k3f9.original").starts_with("it may be all that is left"));
    }
}
