//! The xl backend on a real dom0: one guest through all that the backend does. Needs Xen and a guest that can be lost:
//!
//! * `UPGRADECTL_XEN_GUEST`: its definition, `/etc/xen/NAME.cfg`: one disk `xvda` on a device, off;
//! * `UPGRADECTL_XEN_OTHER`: a device with a second bootable root for it;
//! * `UPGRADECTL_XEN_ADDRESS`: its address and port of sshd, by which it is seen to have booted (both roots).
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypervisors::host::LocalHost;
use hypervisors::net::RealNet;
use hypervisors::xl::Xl;
use hypervisors::{
    Cause, Change, DefinitionEdit, DiskEdit, DiskSource, Hypervisor, Mark, Power, Role, VolumeKind, VolumeRef,
};

/// A guest boots, reboots or shuts down within this, emulated and on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(900);

struct Given {
    definition: PathBuf,
    other: PathBuf,
    address: SocketAddr,
}

fn given() -> Option<Given> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let given = (|| {
        Ok::<_, String>(Given {
            definition: variable("UPGRADECTL_XEN_GUEST")?.into(),
            other: variable("UPGRADECTL_XEN_OTHER")?.into(),
            address: variable("UPGRADECTL_XEN_ADDRESS")?.parse().map_err(|error| format!("{error}"))?,
        })
    })();
    given.map_err(|why| eprintln!("SKIPPED: needs a Xen host with a guest to lose: {why}")).ok()
}

fn xl(words: &[&str]) -> String {
    let output = Command::new("xl").args(words).output().unwrap();
    assert!(output.status.success(), "xl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until sshd of the guest answers, or is silent.
fn wait(what: &str, address: SocketAddr, answers: bool) {
    let begun = Instant::now();
    while TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok() != answers {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}\n{}", xl(&["list"]));
        std::thread::sleep(Duration::from_secs(1));
    }
    eprintln!("{what}: {:.0} s", begun.elapsed().as_secs_f64());
}

fn volume(path: &Path) -> DiskEdit {
    DiskEdit::Source(VolumeRef { kind: VolumeKind::Sim, path: path.to_owned() })
}

#[tokio::test]
async fn a_guest_of_a_real_dom0() {
    let Some(Given { definition, other, address }) = given() else { return };
    let name = definition.file_stem().unwrap().to_str().unwrap().to_owned();
    let directory = definition.parent().unwrap();
    let hypervisor = Xl::new(directory, Arc::new(LocalHost::new("dom0")), Arc::new(RealNet), Vec::new());
    let text = fs::read_to_string(&definition).unwrap();

    let facts = hypervisor.facts(&name).await.unwrap().unwrap();
    assert_eq!((facts.power, facts.autostart, facts.managed_save), (Power::Off, false, false));
    let DiskSource::Block(first) = facts.disks[0].source.clone() else { panic!("{:?}", facts.disks) };

    // a definition beside it, by an edit, and away again
    let clone = format!("{name}--test");
    let original = hypervisor.definition(&name).await.unwrap().unwrap();
    let edit = DefinitionEdit {
        name: Some(clone.clone()),
        uuid: Some("11111111-2222-4333-8444-555555555555".into()),
        mark: Some(Some(Mark { run: clone.clone(), role: Role::Clone })),
        macs: vec![Some("00:16:3e:00:05:fe".parse().unwrap())],
        disks: [("xvda".to_owned(), volume(&other))].into(),
        ..DefinitionEdit::default()
    };
    let derived = hypervisor.derive(&original, &edit).unwrap();
    assert_eq!(hypervisor.define(&derived).await.unwrap(), Change::Created);
    // xl itself reads what we wrote
    let parsed = xl(&["create", "-n", directory.join(format!("{clone}.cfg")).to_str().unwrap()]);
    assert!(parsed.contains(other.to_str().unwrap()) && parsed.contains("11111111-2222-4333"), "{parsed}");

    assert_eq!(hypervisor.start(&name).await.unwrap(), Change::Changed);
    assert_eq!(
        (hypervisor.power(&name).await.unwrap(), hypervisor.start(&name).await.unwrap()),
        (Power::On, Change::Unchanged)
    );
    let listed: Vec<_> = hypervisor.list().await.unwrap().into_iter().map(|guest| (guest.name, guest.power)).collect();
    assert!(listed.contains(&(name.clone(), Power::On)) && listed.contains(&(clone.clone(), Power::Off)), "{listed:?}");
    assert_eq!(hypervisor.pause(&name).await.unwrap(), Change::Changed);
    assert_eq!(
        (hypervisor.power(&name).await.unwrap(), hypervisor.pause(&name).await.unwrap()),
        (Power::Paused, Change::Unchanged)
    );
    assert_eq!(hypervisor.start(&name).await.unwrap(), Change::Changed, "starting a paused guest thaws it");
    assert_eq!(hypervisor.pause(&name).await.unwrap(), Change::Changed);
    let resume = hypervisor.resume_command(&name).await.unwrap().unwrap();
    for _ in 0..2 {
        assert!(std::process::Command::new(&resume[0]).args(&resume[1..]).status().unwrap().success());
        assert_eq!(hypervisor.power(&name).await.unwrap(), Power::On);
    }

    // what stands on its disk does not start beside it, and is refused before xl is asked
    let thief = DefinitionEdit { disks: [("xvda".to_owned(), volume(&first))].into(), ..DefinitionEdit::default() };
    let beside = hypervisor.derive(&derived, &thief).unwrap();
    assert_eq!(hypervisor.define(&beside).await.unwrap(), Change::Changed);
    let error = hypervisor.start(&clone).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)) && error.to_string().contains("which runs"), "{error}");
    // a disk that is not there: libxl's own reason
    let nowhere = DefinitionEdit {
        disks: [("xvda".to_owned(), volume(Path::new("/dev/vg-none/none")))].into(),
        ..DefinitionEdit::default()
    };
    hypervisor.define(&hypervisor.derive(&derived, &nowhere).unwrap()).await.unwrap();
    let error = hypervisor.start(&clone).await.unwrap_err();
    assert!(error.to_string().contains("xl exited with 3: Disk vdev=xvda failed to stat"), "{error}");
    assert_eq!(hypervisor.undefine(&clone).await.unwrap(), Change::Removed);
    wait("booted", address, true);

    // a changed definition is what its next reboot from memory uses
    let moved = DefinitionEdit { disks: [("xvda".to_owned(), volume(&other))].into(), ..DefinitionEdit::default() };
    assert_eq!(hypervisor.define(&hypervisor.derive(&original, &moved).unwrap()).await.unwrap(), Change::Changed);
    xl(&["reboot", &name]);
    wait("went down to reboot", address, false);
    wait("rebooted", address, true);
    assert_eq!(hypervisor.power(&name).await.unwrap(), Power::On);
    let now = xl(&["list", "-l", &name]);
    assert!(now.contains(&format!("\"pdev_path\": \"{}\"", other.display())), "{now}");

    assert_eq!(hypervisor.set_autostart(&name, true).await.unwrap(), Change::Changed);
    assert!(hypervisor.autostart(&name).await.unwrap());
    assert_eq!(hypervisor.set_autostart(&name, false).await.unwrap(), Change::Changed);
    assert!(!hypervisor.facts(&name).await.unwrap().unwrap().autostart);

    let error = hypervisor.undefine(&name).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)), "{error}");
    let begun = Instant::now();
    assert_eq!(hypervisor.shutdown(&name, PATIENCE).await.unwrap(), Change::Changed);
    eprintln!("shut down: {:.0} s", begun.elapsed().as_secs_f64());
    assert_eq!(
        (hypervisor.power(&name).await.unwrap(), hypervisor.shutdown(&name, PATIENCE).await.unwrap()),
        (Power::Off, Change::Unchanged)
    );
    assert!(!xl(&["list"]).contains(&name));

    // and once more, ended as by a power cut
    assert_eq!(hypervisor.define(&original).await.unwrap(), Change::Changed);
    assert_eq!(fs::read_to_string(&definition).unwrap(), text);
    assert_eq!(hypervisor.start(&name).await.unwrap(), Change::Changed);
    assert_eq!(hypervisor.destroy(&name).await.unwrap(), Change::Changed);
    assert_eq!(
        (hypervisor.power(&name).await.unwrap(), hypervisor.destroy(&name).await.unwrap()),
        (Power::Off, Change::Unchanged)
    );
}
