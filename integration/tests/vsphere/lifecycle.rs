//! Snapshots, clones, cards, marks: what a run does to machines.

use std::time::Duration;

use anyhow::Result;
use hypervisors::machines::{NewMachine, NicEdit};
use hypervisors::{Cause, Change, DefinitionEdit, Hypervisor as _, Machines as _, Power};

use integration::vcenter::Speaks;

use super::{WEB, lab};

in_both!(
    snapshots_are_known_by_their_ids_when_two_have_one_name,
    a_linked_clone_is_unplugged_marked_and_unlinked_by_promotion,
    a_full_clone_has_disks_of_its_own,
    cards_names_marks_and_sizes_are_changed_once,
    a_guest_is_asked_to_shut_down_by_its_tools,
);

fn clone_of(run: &str) -> NewMachine {
    let uuid = format!("5c1f3b2a-0000-8000-a000-{:0>12}", run.bytes().map(u64::from).sum::<u64>());
    NewMachine { name: run.into(), mark: format!("{run}.clone").parse().expect("a mark"), uuid }
}

async fn snapshots_are_known_by_their_ids_when_two_have_one_name(speaks: Speaks) -> Result<()> {
    let (vcenter, platform) = lab(speaks)?;
    let uuid = platform.find(WEB).await?.uuid;
    let first = platform.snapshot(&uuid, "upgradectl", "web1--aaaa", false).await?;
    let second = platform.snapshot(&uuid, "upgradectl", "web1--bbbb", false).await?;
    assert_ne!(first, second);
    let facts = platform.machine(&uuid).await?.expect("it is there");
    let known: Vec<_> =
        facts.snapshots.iter().map(|s| (s.id.as_str(), s.description.as_str(), s.parent.as_deref())).collect();
    assert_eq!(known, [(first.as_str(), "web1--aaaa", None), (second.as_str(), "web1--bbbb", Some(first.as_str()))]);
    assert_eq!(facts.current_snapshot.as_deref(), Some(second.as_str()));
    // Without memory it comes back off.
    assert_eq!(platform.revert(&uuid, &first).await?, Change::Changed);
    assert_eq!(platform.machine(&uuid).await?.expect("it is there").power, Power::Off);
    assert_eq!(platform.remove_snapshot(&uuid, &first).await?, Change::Removed);
    assert_eq!(platform.remove_snapshot(&uuid, &first).await?, Change::Unchanged);
    let left = platform.machine(&uuid).await?.expect("it is there").snapshots;
    assert_eq!(left.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), [second.as_str()]);
    let gone = platform.revert(&uuid, &first).await.unwrap_err();
    assert!(matches!(gone.cause, Cause::NotFound(_)), "{gone}");
    // Quiescing would silently be left out.
    vcenter.tell("tools DC0_H0_VM0 off")?;
    let error = platform.snapshot(&uuid, "q", "", true).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)), "{error}");
    platform.close().await?;
    Ok(())
}

async fn a_linked_clone_is_unplugged_marked_and_unlinked_by_promotion(speaks: Speaks) -> Result<()> {
    let (vcenter, platform) = lab(speaks)?;
    let uuid = platform.find(WEB).await?.uuid;
    let new = clone_of("web1--k3f9");
    let missing = platform.clone_linked(&uuid, "snapshot-none", &new).await.unwrap_err();
    assert!(matches!(missing.cause, Cause::NotFound(_)), "{missing}");
    let snapshot = platform.snapshot(&uuid, "upgradectl", "web1--k3f9", false).await?;
    let original = platform.machine(&uuid).await?.expect("it is there");

    assert_eq!(platform.clone_linked(&uuid, &snapshot, &new).await?, Change::Created);
    assert_eq!(platform.clone_linked(&uuid, &snapshot, &new).await?, Change::Unchanged);
    let clone = new.uuid.clone();
    let taken =
        platform.clone_linked(&uuid, &snapshot, &NewMachine { mark: clone_of("web1--zzzz").mark, ..new.clone() }).await;
    assert!(matches!(taken.unwrap_err().cause, Cause::Refused(_)));

    let facts = platform.machine(&clone).await?.expect("it was made");
    assert_eq!((facts.power, facts.mark.as_ref()), (Power::Off, Some(&new.mark)));
    assert_eq!(facts.machine.path, "/DC0/vm/web1--k3f9");
    assert!(facts.nics.iter().all(|nic| !nic.connected && !nic.start_connected), "{:?}", facts.nics);
    assert!(facts.nics.iter().all(|nic| nic.mac.is_some() && nic.mac != original.nics[0].mac), "{:?}", facts.nics);
    let base = &original.disks[0].parents[0];
    assert_eq!(facts.borrowed(), [base.as_str()], "it stands on what its original stood on at the snapshot");
    assert_eq!(platform.machine(&uuid).await?.as_ref(), Some(&original), "the original is as it was");

    // A task that fails is told with its fault, and nothing was changed.
    vcenter.tell("fail PromoteDisks_Task disk.vmdk")?;
    let failed = platform.promote_disks(&clone).await.unwrap_err();
    assert!(failed.to_string().contains("FileFault") && failed.to_string().contains("disk.vmdk"), "{failed}");
    assert_eq!(platform.promote_disks(&clone).await?, Change::Changed);
    assert_eq!(platform.promote_disks(&clone).await?, Change::Unchanged);
    let facts = platform.machine(&clone).await?.expect("it is there");
    assert!(facts.borrowed().is_empty() && facts.disks[0].parents.is_empty(), "{:?}", facts.disks);

    // Nothing unmarked is removed, nor what is another run's, nor what is on.
    for (uuid, run, why) in [(&uuid, "web1--k3f9", "mark"), (&clone, "web1--zzzz", "belongs to")] {
        let error = platform.remove(uuid, run).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Refused(_)) && error.to_string().contains(why), "{error}");
    }
    platform.power_on(&clone).await?;
    assert!(platform.remove(&clone, "web1--k3f9").await.unwrap_err().to_string().contains("it is on"));
    platform.power_off(&clone).await?;
    assert_eq!(platform.remove(&clone, "web1--k3f9").await?, Change::Removed);
    assert_eq!(platform.remove(&clone, "web1--k3f9").await?, Change::Unchanged);
    assert_eq!(platform.remove_snapshot(&uuid, &snapshot).await?, Change::Removed);
    let after = platform.machine(&uuid).await?.expect("it is there");
    assert_eq!((after.snapshots.len(), &after.disks[0].parents), (0, &Vec::new()));
    eprintln!("calls: {:?}", platform.calls());
    platform.close().await?;
    Ok(())
}

async fn a_full_clone_has_disks_of_its_own(speaks: Speaks) -> Result<()> {
    let (_vcenter, platform) = lab(speaks)?;
    let uuid = platform.find(WEB).await?.uuid;
    let snapshot = platform.snapshot(&uuid, "upgradectl", "", false).await?;
    let new = clone_of("web1--full");
    platform.clone_full(&uuid, &snapshot, &new).await?;
    let clone = new.uuid;
    let facts = platform.machine(&clone).await?.expect("it was made");
    assert!(facts.borrowed().is_empty() && facts.disks[0].parents.is_empty(), "{:?}", facts.disks);
    assert_eq!(platform.promote_disks(&clone).await?, Change::Unchanged);
    platform.close().await?;
    Ok(())
}

async fn cards_names_marks_and_sizes_are_changed_once(speaks: Speaks) -> Result<()> {
    let (_vcenter, platform) = lab(speaks)?;
    let uuid = platform.find(WEB).await?.uuid;
    let before = platform.machine(&uuid).await?.expect("it is there");
    let key = before.nics[0].key;
    let off = NicEdit { key, connected: Some(false), start_connected: Some(false), ..NicEdit::default() };
    assert_eq!(platform.edit_nics(&uuid, std::slice::from_ref(&off)).await?, Change::Changed);
    assert_eq!(platform.edit_nics(&uuid, &[off]).await?, Change::Unchanged);
    let other = NicEdit { key, network: Some("VM Network".into()), ..NicEdit::default() };
    assert_eq!(platform.edit_nics(&uuid, std::slice::from_ref(&other)).await?, Change::Changed);
    let nic = platform.machine(&uuid).await?.expect("it is there").nics[0].clone();
    assert_eq!((nic.network.as_str(), nic.connected, nic.mac), ("VM Network", false, before.nics[0].mac));
    assert_eq!(platform.edit_nics(&uuid, &[other]).await?, Change::Unchanged);
    let back = NicEdit {
        key,
        network: Some("DC0_DVPG0".into()),
        connected: Some(before.nics[0].connected),
        start_connected: Some(true),
        ..NicEdit::default()
    };
    platform.edit_nics(&uuid, &[back]).await?;
    let mut after = platform.machine(&uuid).await?.expect("it is there");
    assert_eq!(after.nics, before.nics);
    let nowhere = NicEdit { key, network: Some("nowhere".into()), ..NicEdit::default() };
    let error = platform.edit_nics(&uuid, &[nowhere]).await.unwrap_err();
    assert!(error.help.as_deref().is_some_and(|help| help.contains("VM Network")), "{error:?}");
    let mac = NicEdit { key, mac: Some("00:50:56:00:00:07".parse().expect("a MAC")), ..NicEdit::default() };
    assert!(
        platform
            .edit_nics(&uuid, std::slice::from_ref(&mac))
            .await
            .unwrap_err()
            .to_string()
            .contains("while the machine is off")
    );

    let mark = clone_of("web1--k3f9").mark;
    for (wanted, change) in [(Some(&mark), Change::Changed), (Some(&mark), Change::Unchanged), (None, Change::Changed)]
    {
        assert_eq!(platform.set_mark(&uuid, wanted).await?, change);
        assert_eq!(platform.machine(&uuid).await?.expect("it is there").mark.as_ref(), wanted);
    }
    assert_eq!(platform.rename(&uuid, "web1-old").await?, Change::Changed);
    assert_eq!(platform.rename(&uuid, "web1-old").await?, Change::Unchanged);
    assert_eq!(platform.find("/DC0/vm/web1-old").await?.uuid, uuid);

    assert!(platform.resize(&uuid, Some(64 << 20), None).await.unwrap_err().to_string().contains("is off"));
    assert_eq!(platform.power_off(&uuid).await?, Change::Changed);
    assert_eq!(platform.power_off(&uuid).await?, Change::Unchanged);
    assert_eq!(platform.edit_nics(&uuid, &[mac]).await?, Change::Changed);
    assert_eq!(platform.resize(&uuid, Some(64 << 20), Some(2)).await?, Change::Changed);
    assert_eq!(platform.resize(&uuid, Some(64 << 20), Some(2)).await?, Change::Unchanged);
    after = platform.machine(&uuid).await?.expect("it is there");
    assert_eq!(
        (after.memory_bytes, after.cpus, after.nics[0].mac.map(|mac| mac.to_string())),
        (64 << 20, 2, Some("00:50:56:00:00:07".into()))
    );

    // The same by a definition, as every platform has one.
    let definition = platform.definition("web1-old").await?.expect("it is defined");
    let edit =
        DefinitionEdit { name: Some("web1".into()), mark: Some(Some(mark.clone())), ..DefinitionEdit::default() };
    let derived = platform.derive(&definition, &edit)?;
    assert_eq!(platform.define(&derived).await?, Change::Changed);
    assert_eq!(platform.define(&derived).await?, Change::Unchanged);
    assert_eq!(platform.definition("web1").await?.as_ref(), Some(&derived));
    assert_eq!(platform.define(&definition).await?, Change::Changed);
    assert_eq!(platform.definition("web1-old").await?, Some(definition));
    platform.close().await?;
    Ok(())
}

async fn a_guest_is_asked_to_shut_down_by_its_tools(speaks: Speaks) -> Result<()> {
    let (vcenter, platform) = lab(speaks)?;
    let uuid = platform.find(WEB).await?.uuid;
    vcenter.tell("tools DC0_H0_VM0 off")?;
    let error = platform.shutdown_guest(&uuid, Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Refused(_)), "{error}");
    vcenter.tell("tools DC0_H0_VM0 on")?;
    assert_eq!(platform.shutdown_guest(&uuid, Duration::from_secs(20)).await?, Change::Changed);
    assert_eq!(platform.shutdown_guest(&uuid, Duration::from_secs(20)).await?, Change::Unchanged);
    assert_eq!(platform.start(WEB).await?, Change::Changed);
    assert_eq!(platform.power("DC0_H0_VM0").await?, Power::On);
    platform.close().await?;
    Ok(())
}
