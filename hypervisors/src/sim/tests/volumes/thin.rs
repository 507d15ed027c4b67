//! Thin volumes: peers in a pool, renamed under their guests, skipped by their host.

use super::*;
use crate::storage::Access;

#[tokio::test]
async fn peers_outlive_each_other_in_a_pool_that_fills() {
    let world = like(Copies::Peers);
    world.sim.destroy("mercure").await.unwrap();
    world.make(None).await.unwrap();
    let second = world.sim.volume_ref("second");
    assert_eq!(world.storage.snapshot(&world.copy, &second, &world.ours()).await.unwrap(), Change::Created);
    let facts = world.facts(&world.copy).await;
    assert_eq!(facts.block.as_ref().unwrap().origin.as_deref(), Some("mercure"));
    assert_eq!(facts.snapshot_bytes, 1200 * MIB);
    let fill = facts.fill_percent.unwrap();
    assert_eq!(world.facts(&world.root).await.fill_percent, Some(fill), "one pool");
    world.sim.configure(|config| config.pool_free_bytes = 100 * MIB).unwrap();
    world.write(&world.copy, "grown", 50 << 20);
    let facts = world.facts(&world.root).await;
    assert_eq!(facts.free_bytes, 50 * MIB);
    assert!(facts.fill_percent.unwrap() > fill);
    // The origin goes, the copy stays and is nobody's snapshot.
    world.write(&world.root, "more", 10 << 20);
    world.storage.mark(&world.root, Some(&world.ours())).await.unwrap();
    world.cut("storage.remove", How::Partial);
    world.storage.remove(&world.root, RUN).await.unwrap_err();
    assert_eq!(world.storage.remove(&world.root, RUN).await.unwrap(), Change::Removed);
    let facts = world.facts(&world.copy).await;
    assert_eq!((facts.block.unwrap().origin, facts.used_bytes), (None, Some(1250 * MIB)));
    assert_eq!(facts.free_bytes, 50 * MIB);
    assert!(world.has(&world.copy, "etc/hostname"));
    world.write(&world.copy, "full", 50 << 20);
    let third = world.sim.volume_ref("third");
    assert!(why(world.storage.snapshot(&world.copy, &third, &world.ours()).await).contains("pool is full"));
}

#[tokio::test]
async fn a_peer_is_renamed_under_its_guest_whose_definition_does_not_follow() {
    for from_memory in [true, false] {
        let world = like(Copies::Peers);
        let capabilities = Capabilities { reboots_from_memory: from_memory, ..world.sim.capabilities() };
        world.sim.configure(|config| config.capabilities = capabilities).unwrap();
        let id = world.facts(&world.root).await.block.unwrap().id;
        let (old, between) = (world.root.clone(), world.sim.volume_ref("between"));
        world.cut("storage.rename", How::Partial);
        world.storage.rename(&old, &between).await.unwrap_err();
        assert_eq!(world.storage.rename(&old, &between).await.unwrap(), Change::Changed);
        assert_eq!(world.storage.rename(&old, &between).await.unwrap(), Change::Unchanged);
        let new = world.sim.volume_ref("renamed");
        world.storage.rename(&between, &new).await.unwrap();
        let block = world.facts(&new).await.block.unwrap();
        assert_eq!((block.id, block.open), (id, Some(true)), "{from_memory}");
        let guest = world.sim.guest(&link(&world.sim, "renamed", "10.0.5.12")).unwrap();
        assert_eq!(guest.write_file(Path::new("/root/new"), b"x", 0o600).await.unwrap(), Change::Created);
        assert!(world.has(&new, "root/new"));
        let disks = world.sim.facts("mercure").await.unwrap().unwrap().disks;
        assert_eq!(world.sim.volume(&disks[0]).await.unwrap_err().cause.to_string(), "volume mercure does not exist");
        // With a definition that names it, a reboot by the definition comes up; one from memory does not.
        world.stand_on("/", &new).await;
        run(&guest, "systemctl reboot").await;
        let power = world.sim.power("mercure").await.unwrap();
        assert_eq!(power, if from_memory { Power::Off } else { Power::On });
        world.sim.start("mercure").await.unwrap();
        run(&guest, "systemctl reboot").await;
        assert_eq!(world.sim.power("mercure").await.unwrap(), Power::On, "started by it, it remembers it");
    }
    let world = like(Copies::Peers);
    world.storage.rename(&world.root, &world.sim.volume_ref("renamed")).await.unwrap();
    world.sim.reboot_host().await.unwrap();
    assert_eq!(world.sim.power("mercure").await.unwrap(), Power::Off, "its definition names what is not there");
    assert!(world.sim.trace().unwrap().last().unwrap().conflicts[0].contains("volume mercure does not exist"));
    let thick = like(Copies::Dependents);
    assert!(why(thick.storage.rename(&thick.root, &thick.copy).await).contains("runs on it"));
}

#[tokio::test]
async fn a_rename_cut_in_half_keeps_snapshots_and_accounts() {
    let world = like(Copies::Peers);
    world.make(None).await.unwrap();
    let free = world.free().await;
    let new = world.sim.volume_ref("renamed");
    world.cut("storage.rename", How::Partial);
    world.storage.rename(&world.root, &new).await.unwrap_err();
    assert_eq!(world.facts(&world.copy).await.block.unwrap().origin.as_deref(), Some("mercure"));
    world.storage.rename(&world.root, &new).await.unwrap();
    assert_eq!(world.facts(&world.copy).await.block.unwrap().origin.as_deref(), Some("renamed"));
    assert_eq!(world.facts(&new).await.block.unwrap().snapshots, [RUN]);
    // Killed after the files were moved: metadata of both, files under the new name, the guest not told.
    let world = like(Copies::Peers);
    let new = world.sim.volume_ref("renamed");
    world.cut("storage.rename", How::Partial);
    world.storage.rename(&world.root, &new).await.unwrap_err();
    fs::rename(&world.root.path, &new.path).unwrap();
    assert_eq!(world.storage.rename(&world.root, &new).await.unwrap(), Change::Changed);
    assert_eq!(world.facts(&new).await.block.unwrap().open, Some(true));
    assert_eq!(world.facts(&new).await.free_bytes, free);
}

#[tokio::test]
async fn a_peer_not_secured_does_not_come_up_with_its_host() {
    let world = like(Copies::Peers);
    world.sim.destroy("mercure").await.unwrap();
    world.make(None).await.unwrap();
    assert!(world.facts(&world.copy).await.block.unwrap().unfit.unwrap().contains("activation skip"));
    world.stand_on("/", &world.copy).await;
    assert_eq!(world.sim.start("mercure").await.unwrap(), Change::Changed, "it was activated when it was made");
    world.sim.reboot_host().await.unwrap();
    assert_eq!(world.sim.power("mercure").await.unwrap(), Power::Off);
    assert!(world.sim.trace().unwrap().last().unwrap().conflicts[0].contains("activation skip"));
    assert!(world.sim.start("mercure").await.is_err());
    // Opening activates it once.
    world.storage.open(&world.copy, Access::Read).await.unwrap();
    assert_eq!(world.sim.start("mercure").await.unwrap(), Change::Changed);
    world.sim.reboot_host().await.unwrap();
    assert_eq!(world.sim.power("mercure").await.unwrap(), Power::Off);
    world.cut("storage.secure", How::Partial);
    world.storage.secure(&world.copy, RUN).await.unwrap_err();
    assert_eq!(world.storage.secure(&world.copy, RUN).await.unwrap(), Change::Changed);
    assert_eq!(world.storage.secure(&world.copy, RUN).await.unwrap(), Change::Unchanged);
    assert_eq!(world.facts(&world.copy).await.block.unwrap().unfit, None);
    for _ in 0..2 {
        world.sim.reboot_host().await.unwrap();
        assert_eq!(world.sim.power("mercure").await.unwrap(), Power::On);
    }
}
