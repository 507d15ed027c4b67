//! The backend against libvirt itself: its `test:///default` driver, and any real one on request.

use std::sync::Arc;
use std::time::Duration;

use crate::host::LocalHost;
use crate::libvirt::Libvirt;
use crate::net::RealNet;
use crate::{
    Cause, Change, Definition, DefinitionEdit, Disk, DiskEdit, DiskSource, Hypervisor, MacAddr, Mark, Power, Role,
    VolumeKind, VolumeRef,
};

fn backend(uri: &str) -> Libvirt {
    Libvirt::new(uri, Arc::new(LocalHost::new("here")), Arc::new(RealNet), Vec::new())
}

/// A domain as an operator would write it; `kind` is the driver's.
fn written(kind: &str, name: &str, root: &str) -> Definition {
    let os = if kind == "lxc" { "<type>exe</type><init>/sbin/init</init>" } else { "<type>hvm</type>" };
    let text = format!(
        "<domain type='{kind}'><name>{name}</name><title>a &amp; b</title>\
         <metadata><o:a xmlns:o='urn:o'>x <!-- y --></o:a></metadata>\
         <memory unit='MiB'>128</memory><vcpu>1</vcpu><os>{os}</os><devices>\
         <filesystem type='mount'><source dir='{root}'/><target dir='/'/></filesystem>\
         <filesystem type='mount'><source dir='/tmp'/><target dir='/mnt'/></filesystem>\
         <console type='pty'/></devices></domain>"
    );
    Definition { name: name.to_owned(), text }
}

fn adapted() -> DefinitionEdit {
    DefinitionEdit {
        mark: Some(Some(Mark { run: "mercure--k3f9".to_owned(), role: Role::Clone })),
        disks: [
            (
                "/".to_owned(),
                DiskEdit::Source(VolumeRef { kind: VolumeKind::Directory, path: "/srv/it's <new> & odd".into() }),
            ),
            ("/mnt".to_owned(), DiskEdit::Remove),
        ]
        .into(),
        memory_bytes: Some(64 << 20),
        ..DefinitionEdit::default()
    }
}

/// Defines, replaces, restores; leaves the guest defined. What libvirt printed is restored byte for byte.
async fn definitions_round_trip(backend: &Libvirt, definition: &Definition) -> Definition {
    let guest = definition.name.as_str();
    assert_eq!(backend.definition(guest).await.unwrap(), None);
    assert_eq!(backend.facts(guest).await.unwrap(), None);
    assert_eq!(backend.undefine(guest).await.unwrap(), Change::Unchanged);
    assert_eq!(backend.define(definition).await.unwrap(), Change::Created);
    let original = backend.definition(guest).await.unwrap().unwrap();
    assert_eq!(backend.define(&original).await.unwrap(), Change::Unchanged);

    let edited = backend.derive(&original, &adapted()).unwrap();
    assert_eq!(backend.define(&edited).await.unwrap(), Change::Changed);
    // an edit of what libvirt printed is what libvirt prints
    assert_eq!(backend.definition(guest).await.unwrap().unwrap(), edited);
    let facts = backend.facts(guest).await.unwrap().unwrap();
    assert_eq!(facts.mark.map(|mark| mark.to_string()).as_deref(), Some("mercure--k3f9.clone"));
    assert_eq!(facts.disks[0].source, DiskSource::Directory("/srv/it's <new> & odd".into()));
    assert_eq!((facts.disks.len(), facts.memory_bytes, facts.power), (1, 64 << 20, Power::Off));

    assert_eq!(backend.define(&original).await.unwrap(), Change::Changed);
    assert_eq!(backend.definition(guest).await.unwrap().unwrap(), original);
    original
}

async fn lifecycle(backend: &Libvirt, guest: &str) {
    assert_eq!(backend.start(guest).await.unwrap(), Change::Changed);
    assert_eq!(backend.start(guest).await.unwrap(), Change::Unchanged);
    assert_eq!(backend.power(guest).await.unwrap(), Power::On);
    assert!(matches!(backend.undefine(guest).await.unwrap_err().cause, Cause::Refused(_)));
    assert_eq!(backend.pause(guest).await.unwrap(), Change::Changed);
    assert_eq!(backend.pause(guest).await.unwrap(), Change::Unchanged);
    assert_eq!(backend.power(guest).await.unwrap(), Power::Paused);
    assert!(matches!(backend.shutdown(guest, Duration::ZERO).await.unwrap_err().cause, Cause::Refused(_)));
    assert_eq!(backend.resume(guest).await.unwrap(), Change::Changed);
    assert_eq!(backend.resume(guest).await.unwrap(), Change::Unchanged);
    assert_eq!(backend.pause(guest).await.unwrap(), Change::Changed);
    assert_eq!(backend.start(guest).await.unwrap(), Change::Changed);
    assert_eq!(backend.power(guest).await.unwrap(), Power::On);

    assert_eq!(backend.set_autostart(guest, true).await.unwrap(), Change::Changed);
    assert_eq!(backend.set_autostart(guest, true).await.unwrap(), Change::Unchanged);
    assert!(backend.autostart(guest).await.unwrap());
    assert_eq!(backend.set_autostart(guest, false).await.unwrap(), Change::Changed);
    assert!(!backend.facts(guest).await.unwrap().unwrap().autostart);

    assert_eq!(backend.destroy(guest).await.unwrap(), Change::Changed);
    assert_eq!(backend.destroy(guest).await.unwrap(), Change::Unchanged);
    assert!(matches!(backend.pause(guest).await.unwrap_err().cause, Cause::Refused(_)));
    assert_eq!(backend.shutdown(guest, Duration::ZERO).await.unwrap(), Change::Unchanged);
}

#[tokio::test]
async fn a_guest_lives_its_life() {
    let backend = backend("test:///default");
    definitions_round_trip(&backend, &written("test", "life", "/srv/life")).await;
    lifecycle(&backend, "life").await;
    backend.start("life").await.unwrap();
    assert_eq!(backend.shutdown("life", Duration::from_secs(5)).await.unwrap(), Change::Changed);
    assert_eq!(backend.undefine("life").await.unwrap(), Change::Removed);
    assert_eq!(backend.undefine("life").await.unwrap(), Change::Unchanged);
    assert_eq!(backend.power("life").await.unwrap(), Power::Off);
    assert!(matches!(backend.start("life").await.unwrap_err().cause, Cause::NotFound(_)));
    assert!(!backend.autostart("life").await.unwrap());
}

#[tokio::test]
async fn who_was_slower_than_somebody_else_has_changed_nothing() {
    let backend = backend("test:///default");
    definitions_round_trip(&backend, &written("test", "late", "/srv/late")).await;
    // It is off: as if it had gone off after we saw it run.
    let limit = Duration::from_secs(10);
    let stop = backend.with("stop it".to_owned(), "late", limit, |domain, doing| {
        crate::libvirt::raced(domain.destroy(), domain, doing, Power::Off)
    });
    assert_eq!(stop.await.unwrap(), Change::Unchanged);
    backend.undefine("late").await.unwrap();
}

#[tokio::test]
async fn a_running_guest_keeps_its_life_when_its_definition_changes() {
    let backend = backend("test:///default");
    let original = definitions_round_trip(&backend, &written("test", "busy", "/srv/busy")).await;
    backend.start("busy").await.unwrap();
    let edited = backend.derive(&original, &adapted()).unwrap();
    assert_eq!(backend.define(&edited).await.unwrap(), Change::Changed);
    assert_eq!(backend.power("busy").await.unwrap(), Power::On);
    assert_eq!(backend.define(&original).await.unwrap(), Change::Changed);
    assert_eq!(backend.definition("busy").await.unwrap().unwrap(), original);
    backend.destroy("busy").await.unwrap();
    backend.undefine("busy").await.unwrap();
}

#[tokio::test]
async fn a_clone_is_another_guest_and_names_are_not_taken_over() {
    let backend = backend("test:///default");
    let original = definitions_round_trip(&backend, &written("test", "twin", "/srv/twin")).await;
    let other = DefinitionEdit {
        uuid: Some("11111111-2222-4333-8444-555555555555".to_owned()),
        name: Some("twin--k3f9".to_owned()),
        ..adapted()
    };
    let clone = backend.derive(&original, &other).unwrap();
    assert_eq!(backend.define(&clone).await.unwrap(), Change::Created);
    let names: Vec<_> = backend.list().await.unwrap().into_iter().map(|guest| guest.name).collect();
    assert!(names.iter().any(|name| name == "twin") && names.iter().any(|name| name == "twin--k3f9"), "{names:?}");
    assert!(names.is_sorted());
    let stolen =
        backend.derive(&clone, &DefinitionEdit { name: Some("twin".to_owned()), ..Default::default() }).unwrap();
    assert!(matches!(backend.define(&stolen).await.unwrap_err().cause, Cause::Refused(_)));
    assert_eq!(backend.definition("twin").await.unwrap().unwrap(), original);
    let mislabelled = Definition { name: "other".to_owned(), ..original };
    assert!(matches!(backend.define(&mislabelled).await.unwrap_err().cause, Cause::Malformed(_)));
    backend.undefine("twin--k3f9").await.unwrap();
    backend.undefine("twin").await.unwrap();
}

#[tokio::test]
async fn what_libvirt_does_not_keep_is_an_error() {
    let backend = backend("test:///default");
    let good = written("test", "lossy", "/srv/lossy");
    // libvirt counts memory in KiB
    let text = good.text.replace("<memory unit='MiB'>128<", "<memory unit='bytes'>134217729<");
    let error = backend.define(&Definition { text, ..good }).await.unwrap_err();
    assert!(matches!(&error.cause, Cause::Malformed(why) if why.contains("memory")), "{error}");
    let _ = backend.undefine("lossy").await;
}

#[tokio::test]
async fn a_network_is_named_by_its_bridge() {
    let backend = backend("test:///default");
    let facts = backend.facts("test").await.unwrap().unwrap();
    assert_eq!(facts.nics[0].bridge, "virbr0");
    assert_eq!(facts.nics[0].mac, Some(MacAddr([0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff])));
    assert_eq!(facts.power, Power::On);
}

#[tokio::test]
async fn an_unreachable_daemon_is_unknown() {
    let backend = backend("lxc:///system?socket=/nonexistent/libvirt-sock");
    let error = backend.facts("mercure").await.unwrap_err();
    assert!(error.is_unknown() && error.help.is_some(), "{error}");
}

#[tokio::test]
async fn volumes_are_recognised_by_looking() {
    let backend = backend("lxc:///system");
    let capabilities = backend.capabilities();
    assert!(capabilities.shares_host_kernel && capabilities.reboots_from_memory && capabilities.can_pause);
    let directory = tempfile::tempdir().unwrap();
    let disk = |source| Disk { name: "/".to_owned(), source, root: true, readonly: false, shareable: false };
    let found = backend.volume(&disk(DiskSource::Directory(directory.path().into()))).await.unwrap();
    assert_eq!(found, VolumeRef { kind: VolumeKind::Directory, path: directory.path().into() });
    let refused = backend.volume(&disk(DiskSource::Block("/dev/sda1".into()))).await.unwrap_err();
    assert!(matches!(refused.cause, Cause::Unsupported(_)) && refused.help.is_some());
    assert!(backend.volume(&disk(DiskSource::Directory("/nonexistent/x".into()))).await.is_err());
}
