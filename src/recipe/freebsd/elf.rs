//! What binaries of third parties were built for, by the note that FreeBSD's linker leaves in them (elf(5), `NT_FREEBSD_ABI_TAG`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use hypervisors::host::{Command, printable};
use hypervisors::{Host, Result};
use serde::{Deserialize, Serialize};

/// Bytes of a name and of a file's beginning in the answer of [`BINARIES`].
const NAME: usize = 512;
const HEAD: usize = 4096;
/// Bytes of the answer that are looked at.
const LIMIT: usize = 8 << 20;

/// Prints for each ELF file below `$1/usr/local` its name and its beginning, padded to [`NAME`] and [`HEAD`] bytes; some hundred of
/// them. Nothing of the tree is run.
pub(super) const BINARIES: &str = r#"r=$(cd -P "$1" && pwd -P) || exit 1; u=$(cd -P "$r/usr/local" 2>/dev/null && pwd -P) || exit 0; case $u in "$r"/*) ;; *) exit 0;; esac; find "$u" -xdev -type f -perm -0100 -size +1 -exec sh -c 'r=$1; shift; n=0; for f do test "$(head -c 4 "$f" 2>/dev/null | tr -d "\\177\\000")" = ELF || continue; n=$((n+1)); test $n -le 600 || exit 0; printf "%s" "${f#"$r"}" | dd bs=512 count=1 conv=sync 2>/dev/null; dd if="$f" bs=4096 count=1 conv=sync 2>/dev/null; done' sh "$r" {} +"#;

/// What a binary says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// For 32-bit machines.
    pub narrow: bool,
    /// `__FreeBSD_version` of the system it was built on; `None`: from before there was such a note.
    pub osrel: Option<u32>,
}

/// Binaries built for older releases than the new one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// Binaries looked at.
    pub seen: usize,
    /// By major version of the release they were built for: how many, and one of them.
    pub older: BTreeMap<u32, (usize, String)>,
    /// How many are for 32-bit machines.
    pub narrow: usize,
}

/// Reads the beginning of a file; `None`: no FreeBSD binary.
pub fn built(head: &[u8]) -> Option<Built> {
    if head.get(..4)? != b"\x7fELF" {
        return None;
    }
    let narrow = match head.get(4)? {
        1 => true,
        2 => false,
        _ => return None,
    };
    let little = *head.get(5)? == 1;
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let value = if little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) };
        usize::try_from(value).ok()
    };
    let word = if narrow { 4 } else { 8 };
    let (table, size, count) = if narrow { (28, 42, 44) } else { (32, 54, 56) };
    let (table, size, count) = (number(table, word)?, number(size, 2)?, number(count, 2)?);
    let (offset, length) = if narrow { (4, 16) } else { (8, 32) };
    for index in 0..count.min(64) {
        let Some(header) = size.checked_mul(index).and_then(|at| at.checked_add(table)) else { break };
        if number(header, 4) != Some(4) {
            continue;
        }
        let (Some(mut at), Some(length)) = (number(header + offset, word), number(header + length, word)) else {
            continue;
        };
        let end = at.saturating_add(length);
        while at < end.min(head.len()) {
            let (Some(name), Some(data), Some(kind)) = (number(at, 4), number(at + 4, 4), number(at + 8, 4)) else {
                break;
            };
            let begins = at + 12;
            let Some(follows) = begins.checked_add(name.next_multiple_of(4)) else { break };
            if kind == 1 && head.get(begins..begins + 8) == Some(b"FreeBSD\0") && name == 8 {
                let osrel = number(follows, 4).and_then(|value| u32::try_from(value).ok());
                return Some(Built { narrow, osrel });
            }
            let Some(next) = follows.checked_add(data.next_multiple_of(4)) else { break };
            at = next;
        }
    }
    // ELFOSABI_FREEBSD: branded, as before there was a note.
    (head.get(7) == Some(&9)).then_some(Built { narrow, osrel: None })
}

/// Reads what [`BINARIES`] prints.
pub fn foreign(answer: &[u8], major: u32) -> Foreign {
    let mut found = Foreign::default();
    for block in answer.chunks_exact(NAME + HEAD) {
        let (name, head) = block.split_at(NAME);
        let Some(built) = built(head) else { continue };
        found.seen += 1;
        found.narrow += usize::from(built.narrow);
        // Branded ones without a note are from 3.x or early 4.x.
        let of = built.osrel.map_or(4, |osrel| osrel / 100_000);
        if of < major {
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
            let name = printable(&String::from_utf8_lossy(&name[..end]));
            found.older.entry(of).or_insert((0, name)).0 += 1;
        }
    }
    found
}

/// Looks at the binaries of third parties in a tree, for a base system of that major version.
pub async fn look(host: &dyn Host, root: &Path, major: u32) -> Result<Foreign> {
    let root = root.display().to_string();
    let mut command = Command::new(["sh", "-c", BINARIES, "sh", &root]).timeout(Duration::from_secs(300));
    command.limit = LIMIT;
    // find(1) ends with 1 when a file went away under it.
    Ok(foreign(&host.run(&command).await?.stdout, major))
}

/// The port that brings the libraries of an old release.
pub fn compat(major: u32) -> String {
    format!("misc/compat{major}x")
}
