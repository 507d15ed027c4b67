//! Tables of file systems as the systems print them. Pure.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A line of fstab(5), `mount -p` (FreeBSD) or /proc/self/mounts (Linux): they have one form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Device, or what stands for it (`devfs`, `host:/export`).
    pub device: String,
    /// Mount point (`none` for swap).
    pub point: PathBuf,
    /// Type of file system, as the system calls it (`ufs`, `ext4`).
    pub kind: String,
    /// Options, as they stand there.
    pub options: String,
}

/// Bytes of a mounted file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// In use.
    pub used_bytes: u64,
    /// Left for files of ordinary users; 0 if it is overfull.
    pub free_bytes: u64,
}

/// Reads such a table. Comments and lines without four fields are left out (fstab's fifth and sixth may be missing).
pub fn table(text: &[u8]) -> Vec<Mounted> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii_start().starts_with(b"#"));
    lines
        .filter_map(|line| {
            let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
            let (device, point, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let text = |field: &[u8]| String::from_utf8_lossy(&unescaped(field)).into_owned();
            Some(Mounted {
                device: text(device),
                point: PathBuf::from(std::ffi::OsString::from_vec(unescaped(point))),
                kind: text(kind),
                options: text(options),
            })
        })
        .collect()
}

/// `\040` and its like, as fstab(5), getmntent(3) and FreeBSD's strvis(3) write blanks.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            let digits =
                std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_digit()))?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    bytes
}

/// Reads `df -k` (FreeBSD) or `df -kP`, by device. A device that is mounted twice has the same numbers twice.
pub fn df(text: &str) -> BTreeMap<String, Usage> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let device = fields.next()?.to_owned();
        let (_, used, free) = (number(fields.next()?)?, number(fields.next()?)?, number(fields.next()?)?);
        Some((device, Usage { used_bytes: used, free_bytes: free }))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// KiB, which may be negative on UFS: root has eaten into the reserve.
fn number(field: &str) -> Option<u64> {
    let kib: i64 = field.parse().ok()?;
    u64::try_from(kib.max(0)).ok()?.checked_mul(1024)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// FreeBSD 13.2 (`mount -p`, `df -k`), recorded.
    #[test]
    fn freebsd() {
        let found = table(
            b"/dev/vtbd0p2\t\t/\t\t\text2fs\trw\t\t0 0\ndevfs\t\t\t/dev\t\t\tdevfs\trw\t\t0 0\n\
              /dev/vtbd1\t\t/data\t\t\tufs\trw\t\t0 0\n/dev/vtbd2\t\t/src\t\t\tufs\trw\t\t0 0\n",
        );
        assert_eq!(found.len(), 4);
        let last = found.last().unwrap();
        assert_eq!(
            (last.device.as_str(), last.point.to_str(), last.kind.as_str()),
            ("/dev/vtbd2", Some("/src"), "ufs")
        );
        let found = df(
            "Filesystem 1024-blocks  Used  Avail Capacity  Mounted on\n/dev/vtbd2     1015324 23740 910360     3%    /src\n\
                        /dev/full 100 108 -8 108% /full\n",
        );
        assert_eq!(found["/dev/vtbd2"], Usage { used_bytes: 23740 << 10, free_bytes: 910360 << 10 });
        assert_eq!(found["/dev/full"].free_bytes, 0);
    }

    #[test]
    fn an_fstab_with_all_it_may_have() {
        let found = table(
            b"# Device\tMountpoint\n\n/dev/ad0s1b none swap sw 0 0\n/dev/ad0s1a\t/\tufs\trw\t1 1\nproc /proc procfs rw\nbroken\n\
              /dev/sda3 /with\\040blank\\011tab\\x ext4 rw,noatime 0 2\n",
        );
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].point.to_str(), Some("none"));
        assert_eq!(found[3].point.to_str(), Some("/with blank\ttab\\x"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            table(&bytes);
            df(&String::from_utf8_lossy(&bytes));
        }
    }
}
