//! What of the marked objects on a host may go, and why the rest may not. Pure, but for looking whether disks exist.
//!
//! Never removed: what bears no mark, or the role *production*; what a definition names, other than that of a clone which
//! goes with it; what something stands on that stays; what is being merged; an original on which its guest may still depend;
//! a guest that is not a marked clone; and, unless the state directory is said to be lost, anything of a run that the journal
//! does not know. What is only half made, or half removed, is of use to nobody: no role protects it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hypervisors::machines::SnapshotFacts;
use hypervisors::{DiskSource, GuestFacts, Hypervisor, Mark, Role, VolumeRef};
use serde::Serialize;

use super::judge_machines::Machines;

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A guest's definition.
    Definition,
    /// A volume, or what is left of one.
    Volume,
    /// A whole machine of a platform's, with its disks.
    Machine,
    /// A snapshot of such a machine.
    Snapshot,
    /// What takes back a change that a run made of a host, and that is to be carried out.
    Reversal,
}

/// A marked object that belongs to no open run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// Inventory host.
    pub host: String,
    /// What it is.
    pub kind: Kind,
    /// Name of the guest, path of the volume or the machine, id of the reversal; `ID of PATH` of a snapshot.
    pub object: String,
    /// Run by its mark.
    pub run: String,
    /// Role by its mark; reversals and snapshots of machines have none.
    pub role: Option<Role>,
    /// Bytes in use, where that is cheap to know.
    pub size_bytes: Option<u64>,
    /// Whether `gc` removes it.
    pub removable: bool,
    /// Why it may, or may not, be removed.
    pub why: String,
    #[serde(skip)]
    pub(super) volume: Option<VolumeRef>,
    #[serde(skip)]
    pub(super) machine: Option<OfMachine>,
}

/// A machine, or a snapshot of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OfMachine {
    /// Instance UUID.
    pub uuid: String,
    /// The snapshot; `None`: the machine itself.
    pub snapshot: Option<SnapshotFacts>,
}

/// A volume that bears a mark, or is to bear one.
#[derive(Clone, Debug)]
pub(super) struct Marked {
    pub volume: VolumeRef,
    pub mark: Mark,
    /// It is being made or removed: nobody relies on it.
    pub half_made: bool,
    /// Names of its snapshots, where these cannot be without it.
    pub snapshots: Vec<String>,
    /// A merge into it, or into its origin, is under way.
    pub merging: bool,
    pub used_bytes: Option<u64>,
}

impl Marked {
    /// A volume of which nothing else is known: judged by its mark alone.
    pub fn new(volume: VolumeRef, mark: Mark) -> Self {
        Self { volume, mark, half_made: false, snapshots: Vec::new(), merging: false, used_bytes: None }
    }
}

/// What is known of a run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Open,
    Closed,
    No,
}

/// One host, as gc sees it.
pub(super) struct Survey {
    pub host: String,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub guests: Vec<GuestFacts>,
    pub volumes: Vec<Marked>,
    /// Whole machines of a platform that has such. They are not among its guests here.
    pub machines: Machines,
    /// Guests and marked volumes of the other hosts: a guest may run on one while another holds its volumes.
    pub elsewhere: (Vec<GuestFacts>, Vec<Marked>),
    /// Hosts that may run guests on this one's volumes, and could not be asked.
    pub silent: Vec<String>,
}

/// The place on the host that a disk names.
pub(super) fn place(source: &DiskSource) -> Option<&Path> {
    match source {
        DiskSource::Directory(path) | DiskSource::Block(path) | DiskSource::File(path) => Some(path),
        DiskSource::Other(_) => None,
    }
}

/// The path by which the system knows it, whatever links lead there.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Whether a guest's definition names a volume, something in it, or something it lies in.
fn names(guest: &GuestFacts, volume: &VolumeRef) -> bool {
    let volume = real(&volume.path);
    guest
        .disks
        .iter()
        .filter_map(|disk| place(&disk.source))
        .map(real)
        .any(|disk| disk.starts_with(&volume) || volume.starts_with(&disk))
}

/// Name of the guest a run belongs to.
pub(super) fn guest_of(run: &str) -> &str {
    run.rsplit_once("--").map_or(run, |(guest, _)| guest)
}

/// Why a definition may be removed, or why not.
fn judge_definition(guest: &GuestFacts, mark: &Mark, survey: &Survey) -> Result<(), String> {
    match mark.role {
        Role::Clone => {}
        Role::Production => return Err("production runs by it; --adopt makes it an ordinary definition".into()),
        Role::Original | Role::Detached | Role::Displaced => return Err("it is not a clone's".into()),
    }
    if guest.name != mark.run {
        return Err("it does not bear its run's name; --adopt makes it an ordinary definition".into());
    }
    for disk in &guest.disks {
        let Some(path) = place(&disk.source) else { return Err(format!("its disk {} is not of the run", disk.name)) };
        let mut known = survey.volumes.iter().chain(&survey.elsewhere.1);
        let ours = known.any(|one| one.volume.path == path && one.mark == *mark);
        if !ours && path.symlink_metadata().is_ok() {
            return Err(format!("its disk {} ({}) is not of the run", disk.name, path.display()));
        }
    }
    Ok(())
}

/// Why a volume may be removed, or why not.
fn judge_volume(marked: &Marked, survey: &Survey) -> Result<(), String> {
    let Marked { volume, mark, .. } = marked;
    if marked.merging {
        return Err("a merge is under way; look again when it has drained".into());
    }
    if mark.role == Role::Production && !marked.half_made {
        return Err("production stands on it; --adopt makes it an ordinary volume".into());
    }
    if let Some(host) = survey.silent.first() {
        return Err(format!("{host} cannot be asked whether a guest there stands on it"));
    }
    // Another host may know it by another path.
    let of_its_run = |guest: &&GuestFacts| {
        let its = guest.mark.as_ref().is_some_and(|its| its.run == mark.run && its.role == Role::Clone);
        its && mark.role == Role::Clone
    };
    let there = survey.elsewhere.0.iter().filter(|guest| names(guest, volume) || of_its_run(guest));
    for guest in survey.guests.iter().filter(|guest| names(guest, volume)).chain(there) {
        let goes = guest.mark.as_ref().is_some_and(|its| {
            its.run == mark.run && mark.role == Role::Clone && judge_definition(guest, its, survey).is_ok()
        });
        if !goes {
            return Err(format!("the definition of {} names it", guest.name));
        }
    }
    let stands = |name: &String| {
        let path = volume.path.with_file_name(name);
        let theirs = survey.volumes.iter().find(|one| one.volume.path == path);
        theirs.is_none_or(|one| judge_volume(one, survey).is_err())
    };
    if let Some(name) = marked.snapshots.iter().find(|name| stands(name)) {
        return Err(format!("its snapshot {name} stands on it"));
    }
    if marked.half_made {
        return Ok(());
    }
    // The data itself bears these marks while it is being restored, under a name that is not the run's.
    let ours =
        volume.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{}-", mark.run)));
    if matches!(mark.role, Role::Detached | Role::Displaced) && !ours {
        return Err("it does not bear its run's name; --adopt makes it an ordinary volume".into());
    }
    if matches!(mark.role, Role::Original | Role::Displaced) {
        let name = guest_of(&mark.run);
        let mut guests = survey.guests.iter().chain(&survey.elsewhere.0);
        let elsewhere = guests.find(|guest| guest.name == name).is_some_and(|guest| {
            let stands = |disk: &hypervisors::Disk| place(&disk.source).is_some_and(Path::exists);
            match mark.role {
                Role::Displaced => guest.disks.iter().all(stands),
                _ => guest.disks.iter().any(|disk| disk.root && stands(disk)),
            }
        });
        if !elsewhere {
            return Err(format!("it may be all that is left of {name}; --adopt makes it an ordinary volume"));
        }
    }
    Ok(())
}

/// Something marked.
pub(super) struct Judged {
    pub kind: Kind,
    pub object: String,
    pub run: String,
    pub role: Option<Role>,
    pub volume: Option<VolumeRef>,
    pub machine: Option<OfMachine>,
    /// Why it may not be removed, if it may not.
    pub fit: Result<(), String>,
}

/// Everything marked on a host, judged. Pure, but for looking whether disks exist. Objects of open runs are left out.
pub(super) fn judge(survey: &Survey, known: &dyn Fn(&str) -> Known, from_world: bool) -> Vec<Leftover> {
    let of = |kind, object: String, mark: &Mark, volume: Option<&VolumeRef>, fit| Judged {
        kind,
        object,
        run: mark.run.clone(),
        role: Some(mark.role),
        volume: volume.cloned(),
        machine: None,
        fit,
    };
    let definitions = survey.guests.iter().filter_map(|guest| {
        let mark = guest.mark.as_ref()?;
        Some(of(Kind::Definition, guest.name.clone(), mark, None, judge_definition(guest, mark, survey)))
    });
    let volumes = survey
        .volumes
        .iter()
        .map(|one| of(Kind::Volume, one.volume.to_string(), &one.mark, Some(&one.volume), judge_volume(one, survey)));
    let all = definitions.chain(volumes).chain(survey.machines.marked());
    all.filter_map(|one| {
        let Judged { kind, object, run, role, volume, machine, fit } = one;
        let fit = match (fit, known(&run)) {
            (_, Known::Open) => return None,
            (Ok(()), Known::No) if !from_world => Err(format!(
                "{run} is not known here: another controller's, or the state directory was lost (then: gc --from-world)"
            )),
            (Ok(()), Known::No) => Ok(format!("{run} is not known here")),
            (Ok(()), Known::Closed) => Ok(format!("{run} is over")),
            (Err(why), _) => Err(why),
        };
        let removable = fit.is_ok();
        let (Ok(why) | Err(why)) = fit;
        let host = survey.host.clone();
        Some(Leftover { host, kind, object, run, role, size_bytes: None, removable, why, volume, machine })
    })
    .collect()
}
