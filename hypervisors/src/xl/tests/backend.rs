//! The backend against the Xen in memory, on real files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::fake::{FAR, FakeXen, Life};
use super::text::MERCURE;
use crate::net::RealNet;
use crate::xl::Xl;
use crate::xl::files::Places;
use crate::xl::shelf::Shelf;
use crate::{
    Cause, Change, Definition, DefinitionEdit, DiskEdit, DiskSource, Error, Host, Hypervisor, Mark, Power, Role,
    VolumeKind, VolumeRef,
};
use tokio::sync::OnceCell;

const SECONDS: Duration = Duration::from_secs(2);

/// A dom0 whose directories are a temporary one.
pub(super) struct Dom0 {
    pub xen: Arc<FakeXen>,
    pub xl: Xl,
    pub directory: tempfile::TempDir,
}

impl Dom0 {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("config")).unwrap();
        fs::create_dir(at("save")).unwrap();
        let places = Places {
            definitions: at("config"),
            auto: Some(at("auto")),
            saved: Some(at("save")),
            userdata: directory.path().to_owned(),
        };
        let xen = Arc::new(FakeXen::new());
        xen.with(|state| {
            for name in ["mercure", "mercure_swap", "mail", "mercure--k3f9-xvda1", "mercure--k3f9-xvda2"] {
                state.devices.insert(Path::new("/dev/vg1").join(name), format!("dm-{}", name.len()));
            }
        });
        let host: Arc<dyn Host> = xen.clone();
        let (net, there) = (Arc::new(RealNet), OnceCell::from(places.clone()));
        let shelf = Shelf::new(&host);
        let xl = Xl { host, net, storages: Vec::new(), places, there, shelf, in_service: false };
        Self { xen, xl, directory }
    }
    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
    pub fn with_mercure() -> Self {
        let dom0 = Self::new();
        fs::write(dom0.at("config/mercure.cfg"), MERCURE).unwrap();
        fs::set_permissions(dom0.at("config/mercure.cfg"), fs::Permissions::from_mode(0o640)).unwrap();
        dom0
    }
    pub fn definition(&self, name: &str) -> String {
        fs::read_to_string(self.at(&format!("config/{name}.cfg"))).unwrap()
    }
    pub fn commands(&self) -> Vec<String> {
        let all = self.xen.with(|state| std::mem::take(&mut state.commands));
        all.into_iter().map(|words| words.join(" ")).filter(|words| !words.starts_with("xl list")).collect()
    }
}

pub(super) fn clone_edit() -> DefinitionEdit {
    let volume = |name: &str| {
        DiskEdit::Source(VolumeRef {
            kind: VolumeKind::Sim,
            path: Path::new("/dev/vg1").join(format!("mercure--k3f9-{name}")),
        })
    };
    DefinitionEdit {
        name: Some("mercure--k3f9".into()),
        uuid: Some("11111111-2222-4333-8444-555555555555".into()),
        mark: Some(Some(Mark { run: "mercure--k3f9".into(), role: Role::Clone })),
        disks: [
            ("xvda1".to_owned(), volume("xvda1")),
            ("xvda2".to_owned(), volume("xvda2")),
            ("xvdb1".to_owned(), DiskEdit::Remove),
        ]
        .into(),
        macs: vec![Some("00:16:3e:00:05:10".parse().unwrap())],
        ..DefinitionEdit::default()
    }
}

fn refused(error: &Error, why: &str) {
    assert!(matches!(error.cause, Cause::Refused(_)), "{error:?}");
    assert!(error.to_string().contains(why), "{error}");
}

#[tokio::test]
async fn a_guest_lives_through_its_powers() {
    let dom0 = Dom0::with_mercure();
    let xl = &dom0.xl;
    assert_eq!(xl.power("mercure").await.unwrap(), Power::Off);
    assert_eq!(xl.start("mercure").await.unwrap(), Change::Changed);
    assert_eq!(xl.start("mercure").await.unwrap(), Change::Unchanged);
    assert_eq!(xl.pause("mercure").await.unwrap(), Change::Changed);
    assert_eq!(
        (xl.power("mercure").await.unwrap(), xl.pause("mercure").await.unwrap()),
        (Power::Paused, Change::Unchanged)
    );
    refused(&xl.shutdown("mercure", SECONDS).await.unwrap_err(), "paused");
    assert_eq!(xl.start("mercure").await.unwrap(), Change::Changed, "starting a paused guest resumes it");
    assert_eq!(xl.resume("mercure").await.unwrap(), Change::Unchanged);
    let file = dom0.at("config/mercure.cfg");
    assert_eq!(dom0.commands(), [format!("xl create {}", file.display()), "xl pause 1".into(), "xl unpause 1".into()]);
    // still listed for two looks after it has shut down
    assert_eq!(xl.shutdown("mercure", SECONDS).await.unwrap(), Change::Changed);
    assert_eq!(xl.power("mercure").await.unwrap(), Power::Off);
    assert_eq!(xl.shutdown("mercure", SECONDS).await.unwrap(), Change::Unchanged);
    assert_eq!(xl.destroy("mercure").await.unwrap(), Change::Unchanged);
    refused(&xl.pause("mercure").await.unwrap_err(), "off");
    xl.start("mercure").await.unwrap();
    assert_eq!(xl.destroy("mercure").await.unwrap(), Change::Changed);
    assert!(matches!(xl.start("nobody").await.unwrap_err().cause, Cause::NotFound(_)));
}

#[tokio::test]
async fn a_guest_that_does_not_go_down_is_uncertain_and_one_nobody_cleans_up_is_cleaned_up() {
    let dom0 = Dom0::with_mercure();
    dom0.xl.start("mercure").await.unwrap();
    dom0.xen.with(|state| state.deaf.insert("mercure".into()));
    let error = dom0.xl.shutdown("mercure", Duration::from_millis(30)).await.unwrap_err();
    assert!(error.is_unknown() && dom0.xl.power("mercure").await.unwrap() == Power::On, "{error}");
    // the xl that waits for it was killed
    dom0.xen.with(|state| {
        state.deaf.clear();
        state.lingers = None;
    });
    dom0.commands();
    assert_eq!(dom0.xl.shutdown("mercure", SECONDS).await.unwrap(), Change::Changed);
    assert_eq!(dom0.commands(), ["xl shutdown 1", "xl destroy 1"]);
    // what its definition wants kept is not destroyed, and a start does not take it for running
    let keeps = MERCURE.replace("on_poweroff = 'destroy'", "on_poweroff = 'preserve'");
    fs::write(dom0.at("config/mercure.cfg"), keeps).unwrap();
    dom0.xl.start("mercure").await.unwrap();
    let error = dom0.xl.shutdown("mercure", Duration::from_millis(200)).await.unwrap_err();
    assert!(error.is_unknown() && error.help.as_ref().unwrap().contains("on_poweroff"), "{error:?}");
    let error = dom0.xl.start("mercure").await.unwrap_err();
    refused(&error, "has shut down as domain 2");
    assert_eq!(error.help.as_deref(), Some("xl destroy 2"));
}

#[tokio::test]
async fn a_failed_start_says_why() {
    let dom0 = Dom0::with_mercure();
    let gone = dom0.xen.with(|state| state.devices.remove(Path::new("/dev/vg1/mercure")));
    let error = dom0.xl.start("mercure").await.unwrap_err();
    let said =
        "start mercure: xl exited with 3: Disk vdev=xvda1 failed to stat: /dev/vg1/mercure: No such file or directory";
    assert_eq!(error.to_string(), said);
    assert!(error.help.unwrap().contains("lvchange"));
    dom0.xen.with(|state| {
        state.devices.insert("/dev/vg1/mercure".into(), gone.unwrap());
        state.crashes = true;
    });
    let error = dom0.xl.start("mercure").await.unwrap_err();
    assert!(error.to_string().contains("gone again"), "{error}");
    dom0.xen.with(|state| state.crashes = false);
    fs::write(dom0.at("save/mercure"), "image").unwrap();
    let error = dom0.xl.start("mercure").await.unwrap_err();
    refused(&error, "saved memory image");
    assert!(dom0.xl.facts("mercure").await.unwrap().unwrap().managed_save);
}

#[tokio::test]
async fn a_guest_that_is_made_anew_is_not_paused() {
    let dom0 = Dom0::with_mercure();
    dom0.xl.start("mercure").await.unwrap();
    dom0.xen.with(|state| state.domains[0].life = Life::Made);
    assert_eq!(dom0.xl.power("mercure").await.unwrap(), Power::On);
    refused(&dom0.xl.pause("mercure").await.unwrap_err(), "coming up");
}

#[tokio::test]
async fn definitions_are_stored_whole_and_keep_mode_and_links() {
    let dom0 = Dom0::with_mercure();
    let xl = &dom0.xl;
    let original = xl.definition("mercure").await.unwrap().unwrap();
    assert_eq!(original.text, MERCURE);
    let clone = xl.derive(&original, &clone_edit()).unwrap();
    assert_eq!(xl.define(&clone).await.unwrap(), Change::Created);
    assert_eq!(xl.define(&clone).await.unwrap(), Change::Unchanged);
    let mode = |name: &str| fs::metadata(dom0.at(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("config/mercure--k3f9.cfg"), 0o600);
    let facts = xl.facts("mercure--k3f9").await.unwrap().unwrap();
    assert_eq!(facts.mark.unwrap().role, Role::Clone);
    let names: Vec<_> = xl.list().await.unwrap().into_iter().map(|guest| guest.name).collect();
    assert_eq!(names, ["mercure", "mercure--k3f9"]);
    // the definition is a link to where the files really are
    fs::rename(dom0.at("config/mercure.cfg"), dom0.at("real.cfg")).unwrap();
    symlink(dom0.at("real.cfg"), dom0.at("config/mercure.cfg")).unwrap();
    let edit = DefinitionEdit { memory_bytes: Some(256 << 20), ..Default::default() };
    assert_eq!(xl.define(&xl.derive(&original, &edit).unwrap()).await.unwrap(), Change::Changed);
    assert!(dom0.at("config/mercure.cfg").is_symlink());
    assert_eq!(fs::read_to_string(dom0.at("real.cfg")).unwrap(), MERCURE.replace("'512'", "'256'"));
    assert_eq!(mode("real.cfg"), 0o640);
    assert_eq!(xl.define(&original).await.unwrap(), Change::Changed);
    assert_eq!(dom0.definition("mercure"), MERCURE);
    refused(&xl.undefine("mercure").await.unwrap_err(), "link");

    assert_eq!(xl.undefine("mercure--k3f9").await.unwrap(), Change::Removed);
    assert_eq!(xl.undefine("mercure--k3f9").await.unwrap(), Change::Unchanged);
    let left: Vec<_> = fs::read_dir(dom0.at("config")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["mercure.cfg"], "no draft is left");
}

#[tokio::test]
async fn a_definition_of_another_guest_is_not_replaced() {
    let dom0 = Dom0::with_mercure();
    let define = |name: &str, text: &str| {
        let definition = Definition { name: name.into(), text: text.into() };
        let xl = &dom0.xl;
        async move { xl.define(&definition).await }
    };
    let error = define("echelon", MERCURE).await.unwrap_err();
    assert!(error.to_string().contains("that of \"mercure\""), "{error}");
    define("a", "name='a'\nuuid='00000000-0000-4000-8000-000000000001'\n").await.unwrap();
    let error = define("a", "name='a'\nuuid='00000000-0000-4000-8000-000000000002'\n").await.unwrap_err();
    refused(&error, "another guest has this name");
    for name in ["../x", "a b", "", ".x", "-x", "x/y"] {
        refused(&define(name, "name='a'\n").await.unwrap_err(), "characters");
    }
    dom0.xl.start("mercure").await.unwrap();
    refused(&dom0.xl.undefine("mercure").await.unwrap_err(), "on");
}

/// Recorded: after `xl config-update` a reboot from inside uses the file, otherwise what the guest was started with.
#[tokio::test]
async fn a_running_guests_next_reboot_is_by_its_new_definition() {
    let dom0 = Dom0::with_mercure();
    let xl = &dom0.xl;
    xl.start("mercure").await.unwrap();
    let original = xl.definition("mercure").await.unwrap().unwrap();
    let disk = |path: &str| {
        let volume = VolumeRef { kind: VolumeKind::Sim, path: path.into() };
        let disks = [("xvda1".to_owned(), DiskEdit::Source(volume))].into();
        xl.derive(&original, &DefinitionEdit { disks, ..Default::default() }).unwrap()
    };
    dom0.commands();
    xl.define(&disk("/dev/vg1/mercure--k3f9-xvda1")).await.unwrap();
    let commands = dom0.commands();
    assert!(commands.len() == 1 && commands[0].starts_with("xl config-update 1 /"), "{commands:?}");
    // the volume it was started with goes: without the update it would not come up
    dom0.xen.with(|state| {
        state.devices.remove(Path::new("/dev/vg1/mercure"));
        assert!(state.reboot("mercure"));
        assert!(state.domains[0].disks.contains(&"/dev/vg1/mercure--k3f9-xvda1".into()));
    });
    assert_eq!(xl.define(&disk("/dev/vg1/mercure--k3f9-xvda1")).await.unwrap(), Change::Unchanged);
    assert_eq!(dom0.commands(), Vec::<String>::new());
    // interrupted between update and file: the file still says the old, so it is done again
    fs::write(dom0.at("config/mercure.cfg"), MERCURE).unwrap();
    assert_eq!(xl.define(&disk("/dev/vg1/mercure--k3f9-xvda1")).await.unwrap(), Change::Changed);
    xl.destroy("mercure").await.unwrap();
    dom0.commands();
    xl.define(&original).await.unwrap();
    assert_eq!(dom0.commands(), Vec::<String>::new(), "a guest that is off has nothing in memory");
}

#[tokio::test]
async fn domains_of_others_are_listed_and_never_touched() {
    let dom0 = Dom0::with_mercure();
    let xl = &dom0.xl;
    // libvirt runs one that is not defined here
    dom0.xen.with(|state| {
        state.devices.insert("/dev/vg0/g2-a".into(), "dm-5".into());
        state
            .make(10, "name='g2'\nmemory=400\ndisk=['phy:/dev/vg0/g2-a,xvda,w']\nvif=['mac=00:16:3e:00:00:03']\n", true)
            .unwrap();
    });
    let guests = xl.list().await.unwrap();
    let other = guests.iter().find(|guest| guest.name == "g2").unwrap();
    assert_eq!((other.power, other.memory_bytes, &other.mark), (Power::On, 400 << 20, &None));
    assert_eq!(other.disks[0].source, DiskSource::Block("/dev/vg0/g2-a".into()));
    assert_eq!(other.nics[0].mac, Some("00:16:3e:00:00:03".parse().unwrap()));
    assert_eq!((xl.facts("g2").await.unwrap(), xl.definition("g2").await.unwrap()), (None, None));
    for error in [
        xl.destroy("g2").await.unwrap_err(),
        xl.shutdown("g2", SECONDS).await.unwrap_err(),
        xl.pause("g2").await.unwrap_err(),
    ] {
        refused(&error, "no definition");
    }
    assert!(matches!(xl.start("g2").await.unwrap_err().cause, Cause::NotFound(_)));
    assert!(dom0.commands().is_empty());
    // one of ours would write to its disk
    fs::write(dom0.at("config/thief.cfg"), "name='thief'\ndisk=['phy:/dev/vg0/g2-a,xvda,w']\n").unwrap();
    refused(&xl.start("thief").await.unwrap_err(), "is xvda of \"g2\", which runs");
}

#[tokio::test]
async fn a_domain_of_the_name_that_is_another_guest_is_not_taken_for_ours() {
    let dom0 = Dom0::with_mercure();
    let xl = &dom0.xl;
    let uuid = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
    let ours = format!("uuid = '{uuid}'\n{MERCURE}");
    fs::write(dom0.at("config/mercure.cfg"), &ours).unwrap();
    dom0.xen.with(|state| state.make(7, "name='mercure'\n", false).unwrap());
    for error in [
        xl.power("mercure").await.unwrap_err(),
        xl.destroy("mercure").await.unwrap_err(),
        xl.start("mercure").await.unwrap_err(),
    ] {
        refused(&error, "is another");
    }
    let listed: Vec<_> = xl.list().await.unwrap().into_iter().map(|guest| (guest.name, guest.power)).collect();
    assert_eq!(listed, [("mercure".to_owned(), Power::On), ("mercure".to_owned(), Power::On)], "both are there");
    // ours, under a name that somebody gave it while it runs
    dom0.xen.with(|state| {
        state.domains.clear();
        state.make(8, &ours, false).unwrap();
        assert_eq!(state.domains[0].uuid, uuid);
        state.domains[0].name = "old".into();
    });
    refused(&xl.power("mercure").await.unwrap_err(), "another name, \"old\"");
    // libvirt's, of the same name and UUID
    dom0.xen.with(|state| state.domains[0].name = "mercure".into());
    assert_eq!(xl.power("mercure").await.unwrap(), Power::On);
    fs::write(dom0.at(&format!("userdata-d.8.{uuid}.libvirt-xml")), "<domain/>").unwrap();
    refused(&xl.power("mercure").await.unwrap_err(), "libvirt runs it");
    assert!(dom0.commands().is_empty());
}

#[tokio::test]
async fn an_unreadable_definition_is_named_with_its_line() {
    let dom0 = Dom0::with_mercure();
    let python = include_str!("../../../tests/fixtures/xen-4.17/python.cfg");
    fs::write(dom0.at("config/echelon.cfg"), python).unwrap();
    let error = dom0.xl.list().await.unwrap_err();
    assert!(error.to_string().contains("config/echelon.cfg: line 2: this is Python"), "{error}");
    fs::write(dom0.at("config/echelon.cfg"), b"name='echelon' # serveur\n# caf\xe9\n").unwrap();
    let error = dom0.xl.list().await.unwrap_err();
    assert!(
        error.to_string().contains("line 2 is not UTF-8") && error.help.as_ref().unwrap().contains("iconv"),
        "{error:?}"
    );
    // and does not stand in the way of others
    assert!(dom0.xl.facts("mercure").await.unwrap().is_some());
    fs::write(dom0.at("config/echelon.cfg"), "name='other'\n").unwrap();
    let error = dom0.xl.facts("echelon").await.unwrap_err();
    assert!(error.to_string().contains("defines \"other\""), "{error}");
}

#[tokio::test]
async fn autostart_is_a_link_that_comes_back_as_it_was() {
    let dom0 = Dom0::with_mercure();
    let xl = &dom0.xl;
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(dom0.at("auto")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!((xl.autostart("mercure").await.unwrap(), xl.autostart("nobody").await.unwrap()), (false, false));
    assert_eq!(xl.set_autostart("mercure", false).await.unwrap(), Change::Unchanged);
    assert_eq!(xl.set_autostart("mercure", true).await.unwrap(), Change::Changed, "the directory is made");
    assert_eq!(xl.set_autostart("mercure", true).await.unwrap(), Change::Unchanged);
    assert_eq!(names(), ["mercure.cfg"]);
    assert_eq!(xl.set_autostart("mercure", false).await.unwrap(), Change::Changed);
    assert!(names().is_empty(), "our own leaves nothing");
    // one that somebody else made in his way
    symlink("../config/mercure.cfg", dom0.at("auto/00-mail")).unwrap();
    assert!(xl.facts("mercure").await.unwrap().unwrap().autostart);
    assert_eq!(xl.set_autostart("mercure", false).await.unwrap(), Change::Changed);
    assert_eq!((names(), xl.autostart("mercure").await.unwrap()), (vec![".00-mail.upgradectl".to_owned()], false));
    assert_eq!(xl.set_autostart("mercure", true).await.unwrap(), Change::Changed);
    assert_eq!(fs::read_link(dom0.at("auto/00-mail")).unwrap(), Path::new("../config/mercure.cfg"));
    assert_eq!(names(), ["00-mail"]);
    xl.undefine("mercure").await.unwrap();
    assert!(names().is_empty(), "a link to nothing would not start at boot, and say so");

    fs::write(dom0.at("config/mercure.cfg"), MERCURE).unwrap();
    fs::write(dom0.at("auto/mercure.cfg"), MERCURE).unwrap();
    let error = xl.set_autostart("mercure", false).await.unwrap_err();
    refused(&error, "is a copy");
    assert!(error.help.unwrap().starts_with("ln -sf"));
}

#[test]
fn places_follow_xendomains_own_settings() {
    let places = |text: &str| {
        let places = Places::new("/srv/VM/config", text);
        (places.auto.map(|p| p.display().to_string()), places.saved.map(|p| p.display().to_string()))
    };
    let usual = (Some("/etc/xen/auto".to_owned()), Some("/var/lib/xen/save".to_owned()));
    assert_eq!(places(""), usual);
    assert_eq!(places("# XENDOMAINS_AUTO=/x\nXENDOMAINS_AUTO=$HOME/auto\n"), usual);
    assert_eq!(
        places("XENDOMAINS_AUTO=\"\"\nXENDOMAINS_SAVE='/srv/save' # here\n"),
        (None, Some("/srv/save".to_owned()))
    );
}

#[test]
fn a_service_of_systemd_is_known_by_its_cgroup() {
    assert!(super::super::is_service("0::/system.slice/upgradectl-resume.service\n"));
    assert!(!super::super::is_service("0::/user.slice/user-0.slice/session-3.scope\n"));
    assert!(!super::super::is_service("0::/\n"));
}

#[tokio::test]
async fn a_new_definition_belongs_to_whom_the_directory_belongs_to() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root, to give a directory away");
        return;
    }
    let dom0 = Dom0::with_mercure();
    std::os::unix::fs::chown(dom0.at("config"), Some(1234), Some(1235)).unwrap();
    let original = dom0.xl.definition("mercure").await.unwrap().unwrap();
    dom0.xl.define(&dom0.xl.derive(&original, &clone_edit()).unwrap()).await.unwrap();
    let facts = fs::metadata(dom0.at("config/mercure--k3f9.cfg")).unwrap();
    assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (1234, 1235, 0o600));
}

/// Every other test of this module and of `versions` again, on a machine whose files are reached by commands alone.
#[test]
fn everything_is_so_on_another_machine_too() {
    if std::env::var_os(FAR).is_some() {
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["xl::tests::backend::", "xl::tests::versions::", "--test-threads", "2"])
        .env(FAR, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let passed = said.lines().filter(|line| line.ends_with("... ok")).count();
    assert!(output.status.success() && passed > 20, "{said}");
}
