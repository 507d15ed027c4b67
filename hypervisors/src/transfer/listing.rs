//! Everything in a file system with what the comparison looks at, streamed: one line each,
//! `MODE SIZE UID GID MTIME CTIME FLAGS NAME`.
//!
//! `find -ls` would not do: it names owners, which two machines name differently. stat(1) of the BSDs came with FreeBSD 4.10; before
//! it perl was in the base system; GNU's find prints by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::sorted::{Sorted, Sorter};
use super::tree::{ENTER, Place};
use super::{PATH, tree};
use crate::host::{Command, Host, Stream, printable_tail};
use crate::{Cause, Error, Result};

/// How a machine can list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Stat,
    Printf,
    Perl,
}

/// A trial of each; GNU's stat takes `-f` for something else and fails.
const FORM: &str = "if stat -f %z / >/dev/null 2>&1; then echo stat; elif find / -prune -printf '' >/dev/null 2>&1; then echo printf; \
    elif perl -e 1 >/dev/null 2>&1; then echo perl; else echo none; fi";

/// Behind [`ENTER`]: arguments are what find shall leave out.
const STAT: &str = "find . -xdev \"$@\" -print0 | xargs -0 stat -f '%p %z %u %g %m %c %f %N'";
const PRINTF: &str = "find . -xdev \"$@\" -printf '%y %m %s %U %G %T@ %C@ - %p\\n'";
const PERL: &str = "find . -xdev \"$@\" -print0 | perl -0ne 'chomp; (@s = lstat $_) or next; \
    printf \"%o %.0f %d %d %d %d - %s\\n\", @s[2,7,4,5,9,10], $_'";

/// A longer line is no file's.
const LINE: usize = 64 << 10;

/// Millions of files on an old disk.
const PATIENCE: Duration = Duration::from_secs(12 * 3600);

/// An entry of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// `f`, `d`, `l`, `p`, `s`, `c`, `b`.
    pub(super) kind: u8,
    /// Permissions.
    pub(super) mode: u32,
    pub(super) size: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) ctime: i64,
    /// chflags(1)'s, where they can be seen.
    pub(super) flags: Option<u32>,
}

/// Splits a line into what is in front of the name, and the name.
pub(super) fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let fields = if line.first()?.is_ascii_alphabetic() { 8 } else { 7 };
    let end = line.iter().enumerate().filter(|(_, byte)| **byte == b' ').nth(fields - 1)?.0;
    Some((&line[..end], &line[end + 1..]))
}

/// Reads what is in front of the name.
pub(super) fn entry(front: &[u8]) -> Option<Entry> {
    let mut fields = std::str::from_utf8(front).ok()?.split(' ');
    let first = fields.next()?;
    let (kind, mode) = match first.as_bytes() {
        [kind @ b'a'..=b'z'] => (*kind, u32::from_str_radix(fields.next()?, 8).ok()?),
        _ => {
            let mode = u32::from_str_radix(first, 8).ok()?;
            // stat(2): S_IFMT.
            let kind = match mode & 0o170_000 {
                0o010_000 => b'p',
                0o020_000 => b'c',
                0o040_000 => b'd',
                0o060_000 => b'b',
                0o100_000 => b'f',
                0o120_000 => b'l',
                0o140_000 => b's',
                _ => b'?',
            };
            (kind, mode & 0o7777)
        }
    };
    let mut number = || fields.next();
    // GNU's find prints fractions of seconds.
    let seconds = |text: &str| text.split('.').next().and_then(|seconds| seconds.parse().ok());
    Some(Entry {
        kind,
        mode,
        size: number()?.parse().ok()?,
        uid: number()?.parse().ok()?,
        gid: number()?.parse().ok()?,
        mtime: seconds(number()?)?,
        ctime: seconds(number()?)?,
        flags: match number()? {
            "-" => None,
            flags => Some(flags.parse().ok()?),
        },
    })
}

/// How this machine can list.
async fn form(host: &dyn Host) -> Result<Form> {
    let doing = format!("find a way to list files on {}", host.name());
    let command = Command::new(["sh", "-c", &format!("{PATH}{FORM}")]);
    match host.run(&command).await?.checked(&doing, &command)?.text().trim() {
        "stat" => Ok(Form::Stat),
        "printf" => Ok(Form::Printf),
        "perl" => Ok(Form::Perl),
        _ => {
            let why = "it has neither BSD's stat, nor GNU's find, nor perl".to_owned();
            Err(Error::new(doing, Cause::Unsupported(why)).help("install perl there"))
        }
    }
}

/// Lists a directory of a machine, in the order of names. Records are the name, a zero byte, and the fields in front of it.
/// `leave_out`: paths relative to it, with all below. `live`: files may go meanwhile.
pub(super) async fn list(
    host: &dyn Host,
    place: &Place,
    leave_out: &[PathBuf],
    live: bool,
    spool: &Path,
) -> Result<Sorted> {
    list_by(form(host).await?, host, place, leave_out, live, spool).await
}

async fn list_by(
    form: Form,
    host: &dyn Host,
    place: &Place,
    leave_out: &[PathBuf],
    live: bool,
    spool: &Path,
) -> Result<Sorted> {
    let doing = format!("list {} of {}", place.path().display(), host.name());
    let script = match form {
        Form::Stat => STAT,
        Form::Printf => PRINTF,
        Form::Perl => PERL,
    };
    let script = format!("{PATH}{ENTER}shift; shift; {script}");
    let mut argv: Vec<String> = ["sh", "-c", &script, "sh"].map(str::to_owned).into();
    argv.extend(place.arguments(&doing)?);
    for path in leave_out {
        let path = tree::text(&doing, path)?;
        let pattern = path.replace('\\', "\\\\").replace('*', "\\*").replace('?', "\\?").replace('[', "\\[");
        argv.extend(["-path".to_owned(), format!("./{pattern}"), "-prune".to_owned(), "-o".to_owned()]);
    }
    let command = Command::new(argv).timeout(PATIENCE);
    let Stream { stdin, mut stdout, running } = host.stream(&command).await?;
    drop(stdin);
    let mut sorter = Sorter::new(spool);
    let read = async {
        let (mut buffer, mut line) = (vec![0; 64 << 10], Vec::new());
        loop {
            let count = stdout.read(&mut buffer).await?;
            if count == 0 {
                return Ok::<_, std::io::Error>(line.is_empty());
            }
            let mut rest = &buffer[..count];
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                line.extend_from_slice(&rest[..end]);
                let (front, name) = split(&line).unwrap_or((b"", &line));
                sorter.push(&[name, b"\0", front])?;
                line.clear();
                rest = &rest[end + 1..];
            }
            line.extend_from_slice(rest);
            if line.len() > LINE {
                return Err(std::io::Error::other("a line is longer than any name"));
            }
        }
    };
    let mut complaints = Vec::new();
    let listen = running.ended(|line| {
        let went = live && line.trim_end().ends_with("No such file or directory");
        if !went && !line.trim().is_empty() && complaints.len() < 3 {
            complaints.push(line.to_owned());
        }
    });
    let (read, ended) = tokio::join!(read, listen);
    let whole = read.map_err(|error| Error::io(&doing, error));
    let output = ended?;
    let went_only = live && complaints.is_empty() && !output.stderr.is_empty();
    if !complaints.is_empty() || (output.status != 0 && !went_only) {
        let stderr = printable_tail(if complaints.is_empty() { &output.stderr } else { complaints[0].as_bytes() }, 1);
        return Err(Error::new(doing, Cause::Command { program: "find".into(), status: output.status, stderr }));
    }
    if !whole? {
        return Err(Error::new(doing, Cause::Malformed("the list ends in the middle of a line".into())));
    }
    sorter.finish().map_err(|error| Error::io(doing, error))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// FreeBSD's stat(1) with this format; GNU find 4.9; perl.
    #[test]
    fn lines_of_all_forms() {
        for (line, name, kind, flags) in [
            (&b"100644 5042 0 0 1700000000 1700000001 131072 ./etc/rc"[..], &b"./etc/rc"[..], b'f', Some(0x20000)),
            (b"f 644 5042 0 0 1700000000.1234567890 1700000001.0000000000 - ./etc/rc", b"./etc/rc", b'f', None),
            (b"120755 5042 0 0 1700000000 1700000001 - ./a b ", b"./a b ", b'l', None),
        ] {
            let (front, found) = split(line).unwrap();
            let entry = entry(front).unwrap();
            assert_eq!((found, entry.kind, entry.flags), (name, kind, flags));
            assert_eq!((entry.size, entry.mtime, entry.ctime), (5042, 1_700_000_000, 1_700_000_001));
        }
        assert_eq!(entry(split(b"l 777 1 0 0 1.5 1.5 - ./x").unwrap().0).unwrap().mode, 0o777);
        assert!(split(b"the second line of a name").is_none());
    }

    /// What Linux has of the three; names as they may be.
    #[tokio::test]
    async fn one_tree_in_two_forms() {
        let directory = tempfile::tempdir().unwrap();
        let (tree, spool) = (directory.path().join("a tree"), directory.path().join("spool"));
        for path in ["sub", "left/out", "le*t", "-x"] {
            std::fs::create_dir_all(tree.join(path)).unwrap();
        }
        std::fs::create_dir(&spool).unwrap();
        for (name, bytes) in
            [("sub/a b", 3), ("sub/new\nline", 4), ("left/out/gone", 5), ("le*t/stays", 6), ("100% %s", 7)]
        {
            std::fs::write(tree.join(name), vec![0; bytes]).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
        let host = crate::host::LocalHost::new("here");
        let place = Place { root: directory.path().to_owned(), below: "a tree".into() };
        let mut lists = Vec::new();
        for form in [Form::Printf, Form::Perl] {
            let list = list_by(form, &host, &place, &["left".into(), "le[*]t".into()], false, &spool).await.unwrap();
            let parsed = list.map(|record| {
                let record = record.unwrap();
                let zero = record.iter().position(|byte| *byte == 0).unwrap();
                (String::from_utf8_lossy(&record[..zero]).into_owned(), entry(&record[zero + 1..]))
            });
            lists.push(parsed.collect::<Vec<_>>());
        }
        assert_eq!(lists[0], lists[1]);
        let names: Vec<&str> = lists[0].iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            [".", "./-x", "./100% %s", "./le*t", "./le*t/stays", "./link", "./sub", "./sub/a b", "./sub/new", "line"];
        assert_eq!(names, expected);
        assert_eq!(lists[0][2].1.unwrap().size, 7);
        // A way that a link leads is none.
        std::os::unix::fs::symlink("a tree", directory.path().join("other")).unwrap();
        let place = Place { below: "other".into(), ..place };
        let error = list_by(Form::Printf, &host, &place, &[], false, &spool).await.err().unwrap();
        assert!(error.to_string().contains("no directory of the tree"), "{error}");
    }

    proptest! {
        #[test]
        fn any_line_is_read(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some((front, _)) = split(&line) {
                entry(front);
            }
        }
    }
}
