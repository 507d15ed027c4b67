//! What a server's files lose to be a container's: the devices that it had, and the hardware address of its card. Unlike a clone's
//! identity this stays, whoever the container is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hypervisors::MacAddr;

use super::tree::Overlay;
use super::{CloneSpec, FileEdit, GuestError, Tree, mounts, network, quarantine, udev};

/// What is needed of a server for a plan of this, and of its clone's identity: paths relative to its root.
///
/// # Errors
/// The shipped tables cannot be read.
pub fn wanted() -> Result<Vec<PathBuf>, GuestError> {
    let mut paths: Vec<PathBuf> = ["etc", "usr/lib/os-release", "usr/lib/systemd/network", "lib/systemd/network"]
        .into_iter()
        .chain(["var/lib/dbus/machine-id"])
        .map(PathBuf::from)
        .collect();
    paths.extend(quarantine::looked_at()?);
    paths.sort();
    paths.dedup();
    // What is asked for twice comes twice.
    let all = paths.clone();
    paths.retain(|path| !all.iter().any(|above| above != path && path.starts_with(above)));
    Ok(paths)
}

/// The edits. `macs`: hardware addresses that become others.
///
/// # Errors
/// A file that is not understood.
pub fn plan(tree: &Tree, macs: &BTreeMap<String, MacAddr>) -> Result<Vec<FileEdit>, GuestError> {
    let spec = CloneSpec { macs: macs.clone(), ..CloneSpec::default() };
    let mut edits = Overlay::new(tree);
    network::rewrite(&mut edits, &spec)?;
    udev::rewrite(&mut edits, &spec)?;
    mounts::without_devices(&mut edits)?;
    Ok(edits.into_edits())
}

/// Whether it starts by systemd.
///
/// # Errors
/// The tree cannot be read.
pub fn has_systemd(tree: &Tree) -> Result<bool, GuestError> {
    quarantine::has_systemd(tree)
}

/// Mount points that its fstab mounts from the network, which a container does not.
///
/// # Errors
/// fstab cannot be read.
pub fn network_mounts(tree: &Tree) -> Result<Vec<PathBuf>, GuestError> {
    Ok(mounts::network_mounts(tree)?.into_iter().map(|entry| Path::new("/").join(entry.file)).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn devices_go_and_the_card_is_another() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put(
            "etc/fstab",
            "# /etc/fstab\nUUID=0a-1b / ext4 errors=remount-ro 0 1\n/dev/sda5 none swap sw 0 0\ntmpfs /tmp tmpfs size=1g 0 0\n\
             /srv/a /srv/b none bind 0 0\nnas:/home /home nfs rw 0 0\n",
        );
        put(
            "etc/systemd/network/10-lan.network",
            "[Match]\nMACAddress=00:16:3e:00:05:0c\n\n[Network]\nAddress=10.0.5.12/24\n",
        );
        let tree = Tree::open(root.path()).unwrap();
        assert_eq!(network_mounts(&tree).unwrap(), [Path::new("/home")]);
        let macs = BTreeMap::from([("00:16:3e:00:05:0c".to_owned(), "52:54:00:01:02:03".parse().unwrap())]);
        let edits = plan(&tree, &macs).unwrap();
        let shown: String = edits.iter().map(super::super::diff).collect();
        insta::assert_snapshot!(shown);
        super::super::apply(&tree, &edits).unwrap();
        assert_eq!(plan(&tree, &macs).unwrap(), []);
        assert!(!has_systemd(&tree).unwrap());
    }
}
