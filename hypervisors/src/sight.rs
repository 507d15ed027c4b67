//! What can be told of a machine from outside the platform: a volume by its path there, a bridge, memory for guests.
//!
//! Two hosts that should see the same volume each say what they see of it; equal words are the proof. The questions are
//! fixed scripts for a POSIX shell with util-linux and iproute2; nothing of a guest is read but its first bytes and the
//! numbers of two of its directories, and nothing is followed there.

use std::path::Path;

use crate::host::Command;
use crate::{Cause, Error, Host, MacAddr, Result};

/// What a machine sees behind a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// `block` or `directory`.
    pub kind: String,
    /// Size of a block device in bytes; 0 for a directory.
    pub size_bytes: u64,
    /// What stays while a guest writes to it: type and UUID of what is on a block device, inode numbers of a directory.
    /// Empty if nothing was recognised.
    pub identity: String,
    /// What no other volume has in common with it: digest of its first bytes, past the cache; of a directory the times.
    pub head: String,
}

/// How a bridge stands to a hardware address that has just been heard on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridged {
    /// There is no interface of that name.
    Absent,
    /// It has heard the address: it is on the same link.
    Heard,
    /// It has not.
    Silent,
    /// It is no bridge of the kernel's own (Open vSwitch, a plain interface): that cannot be told.
    Unknown,
}

/// Memory for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeMemory {
    /// Bytes that are free now.
    pub free_bytes: u64,
    /// Bytes that the host itself could give up in addition (a dom0 that balloons).
    pub more_bytes: u64,
}

/// Arguments: path. Four lines: kind, size, identity, head. Status 98: nothing there, 97: neither device nor directory.
const LOOK: &str = "LC_ALL=C; PATH=$PATH:/usr/sbin:/sbin; export LC_ALL PATH; test -e \"$1\" || exit 98; \
    if test -b \"$1\"; then echo block; blockdev --getsize64 \"$1\" || exit 1; \
    { blkid -p -s TYPE -o value -- \"$1\" && blkid -p -s UUID -o value -- \"$1\"; } 2>/dev/null | tr '\\n' ' '; echo; \
    dd if=\"$1\" bs=1048576 count=4 iflag=direct 2>/dev/null | sha256sum; \
    elif test -d \"$1\"; then cd -- \"$1\" || exit 1; echo directory; echo 0; \
    stat -c %i . etc 2>/dev/null | tr '\\n' ' '; echo; \
    stat -c '%i %Y %Z' . etc etc/machine-id 2>/dev/null | tr '\\n' ' '; echo; \
    else exit 97; fi";

/// What a machine sees behind an absolute path; `None` if there is nothing.
///
/// # Errors
/// It cannot be looked at, or is neither a block device nor a directory.
pub async fn look(host: &dyn Host, path: &Path) -> Result<Option<Sight>> {
    let doing = format!("look at {} on {}", path.display(), host.name());
    let text = path.to_str().filter(|text| text.starts_with('/'));
    let text = text.ok_or_else(|| Error::refused(&*doing, "it is not an absolute path in UTF-8"))?;
    let command = Command::new(["sh", "-c", LOOK, "sh", text]);
    let output = host.run(&command).await?;
    match output.status {
        98 => Ok(None),
        97 => Err(Error::refused(doing, "it is neither a block device nor a directory")),
        _ => read(&output.checked(&*doing, &command)?.text())
            .map(Some)
            .ok_or_else(|| Error::new(doing, Cause::Malformed("the answer was not understood".into()))),
    }
}

pub(crate) fn read(text: &str) -> Option<Sight> {
    let mut lines = text.lines().map(str::trim);
    let kind = lines.next().filter(|kind| matches!(*kind, "block" | "directory"))?.to_owned();
    let size_bytes = lines.next()?.parse().ok()?;
    let identity = lines.next()?.to_owned();
    let head = lines.next()?.split(" -").next()?.trim().to_owned();
    (!head.is_empty()).then_some(Sight { kind, size_bytes, identity, head })
}

/// Arguments: bridge. Status 98: no such interface, 97: no bridge of the kernel's.
const FORWARDING: &str = "PATH=$PATH:/usr/sbin:/sbin; export PATH; test -e \"/sys/class/net/$1\" || exit 98; test -d \"/sys/class/net/$1/bridge\" || exit 97; \
    cat \"/sys/class/net/$1/address\"; exec bridge fdb show br \"$1\"";

/// Whether a bridge of a machine has heard a hardware address.
///
/// # Errors
/// It cannot be asked.
pub async fn bridged(host: &dyn Host, bridge: &str, mac: MacAddr) -> Result<Bridged> {
    let doing = format!("look at the bridge {} of {}", crate::host::printable(bridge), host.name());
    if bridge.is_empty() || bridge.starts_with(['.', '-']) || bridge.contains('/') {
        return Err(Error::refused(doing, "that cannot be an interface"));
    }
    let command = Command::new(["sh", "-c", FORWARDING, "sh", bridge]);
    let output = host.run(&command).await?;
    match output.status {
        98 => Ok(Bridged::Absent),
        // without the tool nothing can be told either
        97 | 127 => Ok(Bridged::Unknown),
        _ => Ok(heard(&output.checked(doing, &command)?.text(), mac)),
    }
}

/// `MAC dev PORT …`, a line for each address (bridge(8)); the bridge's own address stands first.
pub(crate) fn heard(text: &str, mac: MacAddr) -> Bridged {
    let known = |line: &str| line.split_ascii_whitespace().next().and_then(|word| word.parse::<MacAddr>().ok());
    if text.lines().any(|line| known(line) == Some(mac)) { Bridged::Heard } else { Bridged::Silent }
}

/// What Linux itself could give to processes, and to containers: `MemAvailable` of proc_meminfo(5).
///
/// # Errors
/// The machine cannot be asked.
pub async fn available(host: &dyn Host) -> Result<Option<u64>> {
    let Some(bytes) = host.read_file(Path::new("/proc/meminfo"), 1 << 16).await? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    Ok(kib.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).map(|kib| kib << 10))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::host::LocalHost;

    /// As Debian 12 (util-linux 2.38, coreutils 9.1) answers.
    #[test]
    fn what_a_machine_sees_is_read() {
        let text = "block\n8589934592\next4 0c5a4a0e-9b1a-4b1f-8c0c-5d1f3c1f7a10 \n2c26b46b68ffc68f  -\n";
        let sight = read(text).unwrap();
        assert_eq!((sight.size_bytes, sight.head.as_str()), (8_589_934_592, "2c26b46b68ffc68f"));
        assert_eq!(sight.identity, "ext4 0c5a4a0e-9b1a-4b1f-8c0c-5d1f3c1f7a10");
        assert_eq!(read("block\n512\n\nabc  -\n").unwrap().identity, "");
        for wrong in ["", "file\n1\n\nx\n", "block\nx\n\nx\n", "block\n1\n"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_bridge_has_heard_an_address_or_not() {
        // iproute2 6.1, `bridge fdb show br br0`
        let text =
            "52:54:00:00:05:01\n33:33:00:00:00:01 dev br0 self permanent\n00:16:3e:00:05:0c dev vnet0 master br0\n";
        assert_eq!(heard(text, "00:16:3e:00:05:0c".parse().unwrap()), Bridged::Heard);
        assert_eq!(heard(text, "52:54:00:00:05:01".parse().unwrap()), Bridged::Heard);
        assert_eq!(heard(text, "00:16:3e:00:05:0d".parse().unwrap()), Bridged::Silent);
    }

    #[tokio::test]
    async fn a_directory_is_told_from_its_copy() {
        let host = LocalHost::new("here");
        let place = tempfile::tempdir().unwrap();
        let (a, b) = (place.path().join("a"), place.path().join("b"));
        for root in [&a, &b] {
            std::fs::create_dir_all(root.join("etc")).unwrap();
            std::fs::write(root.join("etc/machine-id"), "x").unwrap();
        }
        std::os::unix::fs::symlink(&a, place.path().join("link")).unwrap();
        let seen = look(&host, &a).await.unwrap().unwrap();
        assert_eq!(look(&host, &place.path().join("link")).await.unwrap().unwrap(), seen);
        assert_ne!(look(&host, &b).await.unwrap().unwrap(), seen);
        assert_eq!(look(&host, &place.path().join("none")).await.unwrap(), None);
        assert!(look(&host, &a.join("etc/machine-id")).await.is_err());
    }

    #[tokio::test]
    async fn a_missing_bridge_is_absent() {
        let mac = "00:16:3e:00:05:0c".parse().unwrap();
        let host = LocalHost::new("here");
        assert_eq!(bridged(&host, "none0", mac).await.unwrap(), Bridged::Absent);
        assert_eq!(bridged(&host, "lo", mac).await.unwrap(), Bridged::Unknown);
        assert!(bridged(&host, "../lo", mac).await.is_err());
    }
}
