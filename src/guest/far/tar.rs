//! tar(5) as far as configuration files need it: read strictly, written plainly. Pure.
//!
//! Read: the ustar and GNU formats (`L` and `K` long names, numbers in base 256) with regular files, hard links to files that
//! came before, symbolic links and directories. Anything else is refused: what sent the archive was told to send no more. A
//! name is beneath where the archive is unpacked, or refused.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Everything is in blocks of this many bytes.
const BLOCK: usize = 512;
/// Longest name, in bytes: PATH_MAX is 1024 on FreeBSD and 4096 on Linux.
const MAX_NAME: usize = 4096;
/// Most entries of an archive.
const MAX_ENTRIES: usize = 65_536;

/// Something in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where, relative and clean; empty for the root itself.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What it is.
    pub kind: Kind<'a>,
}

/// What is in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A regular file with these bytes.
    File(&'a [u8]),
    /// The same file as one that came before.
    Same(PathBuf),
    /// A symbolic link to this.
    Link(PathBuf),
    /// A directory.
    Directory,
}

/// Reads an archive; why it cannot be, if so.
pub fn read(bytes: &[u8]) -> Result<Vec<Entry<'_>>, String> {
    let mut entries = Vec::new();
    let (mut long_name, mut long_link) = (None, None);
    let mut rest = bytes;
    loop {
        let Some((header, after)) = rest.split_at_checked(BLOCK) else {
            return Err("ends in the middle".to_owned());
        };
        if header.iter().all(|byte| *byte == 0) {
            return Ok(entries);
        }
        check(header)?;
        let size = usize::try_from(number(&header[124..136])?).map_err(|_| "has an entry without bounds".to_owned())?;
        let padded = size.div_ceil(BLOCK).saturating_mul(BLOCK);
        let holds_bytes = matches!(header[156], b'0' | 0 | b'L' | b'K');
        if !holds_bytes && size != 0 {
            return Err("has bytes where none belong".to_owned());
        }
        let Some((content, after)) = after.split_at_checked(padded) else {
            return Err("ends in the middle".to_owned());
        };
        let content = &content[..size];
        rest = after;
        if matches!(header[156], b'L' | b'K') {
            let name = until_nul(content);
            if name.len() > MAX_NAME {
                return Err("has a name that is too long".to_owned());
            }
            *(if header[156] == b'L' { &mut long_name } else { &mut long_link }) = Some(name.to_vec());
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| short_name(header));
        let link = long_link.take().unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let kind = match header[156] {
            b'0' | 0 => Kind::File(content),
            b'1' => {
                Kind::Same(Some(clean(&link)?).filter(|link| link.file_name().is_some()).ok_or("has a link to itself")?)
            }
            b'2' if link.is_empty() => return Err("has a link to nowhere".to_owned()),
            b'2' => Kind::Link(OsStr::from_bytes(&link).into()),
            b'5' => Kind::Directory,
            other => return Err(format!("has an entry of kind {:?}", char::from(other))),
        };
        let id = |field| u32::try_from(number(field)?).map_err(|_| "has an owner without bounds".to_owned());
        let mode = u32::try_from(number(&header[100..108])? & 0o7777).unwrap_or_default();
        let (uid, gid) = (id(&header[108..116])?, id(&header[116..124])?);
        entries.push(Entry { path: clean(&name)?, mode, uid, gid, kind });
        if entries.len() > MAX_ENTRIES {
            return Err(format!("has more than {MAX_ENTRIES} entries"));
        }
    }
}

/// Writes an archive. Hard links are not written.
pub fn write(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        let name = entry.path.as_os_str().as_bytes();
        let (kind, content, link): (u8, &[u8], &[u8]) = match &entry.kind {
            Kind::File(bytes) => (b'0', bytes, b""),
            Kind::Link(target) => (b'2', b"", target.as_os_str().as_bytes()),
            Kind::Same(target) => (b'1', b"", target.as_os_str().as_bytes()),
            Kind::Directory => (b'5', b"", b""),
        };
        for (long, letter) in [(name, b'L'), (link, b'K')] {
            if long.len() > 100 {
                let with_nul = [long, b"\0"].concat();
                put(&mut out, b"././@LongLink", letter, &with_nul, b"", (0, 0, 0));
            }
        }
        let (name, link) = (&name[..name.len().min(100)], &link[..link.len().min(100)]);
        put(&mut out, name, kind, content, link, (entry.mode, entry.uid, entry.gid));
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

fn put(out: &mut Vec<u8>, name: &[u8], kind: u8, content: &[u8], link: &[u8], (mode, uid, gid): (u32, u32, u32)) {
    let mut header = [0; BLOCK];
    let mut field = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    field(0, name);
    field(100, format!("{mode:07o}").as_bytes());
    for (at, id) in [(108, uid), (116, gid)] {
        // Seven octal digits are as many as fit; more are written in base 256, as GNU tar and bsdtar read them.
        match id {
            id if id < 1 << 21 => field(at, format!("{id:07o}").as_bytes()),
            id => field(at, &[&[0x80, 0, 0, 0][..], &id.to_be_bytes()].concat()),
        }
    }
    field(124, format!("{:011o}", content.len()).as_bytes());
    field(136, b"00000000000");
    field(148, b"        ");
    field(156, &[kind]);
    field(157, link);
    field(257, b"ustar  \0");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// Refuses a header that is none, or is damaged.
fn check(header: &[u8]) -> Result<(), String> {
    let blank = 148..156;
    let sum = |at: usize, byte: &u8| u64::from(if blank.contains(&at) { b' ' } else { *byte });
    let sum: u64 = header.iter().enumerate().map(|(at, byte)| sum(at, byte)).sum();
    if number(&header[148..156])? != sum || &header[257..262] != b"ustar" {
        return Err("is damaged, or no archive".to_owned());
    }
    Ok(())
}

/// A number in octal digits, or in base 256.
fn number(field: &[u8]) -> Result<u64, String> {
    let wrong = || "is damaged: it has a number that is none".to_owned();
    if field[0] & 0x80 != 0 {
        let bytes = std::iter::once(field[0] & 0x7f).chain(field[1..].iter().copied());
        return bytes
            .into_iter()
            .try_fold(0u64, |value, byte| value.checked_mul(256).and_then(|value| value.checked_add(byte.into())))
            .ok_or_else(wrong);
    }
    let digits = field.trim_ascii_start();
    let digits = &digits[..digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len())];
    let digit = |value: u64, byte: &u8| matches!(byte, b'0'..=b'7').then(|| value << 3 | u64::from(byte - b'0'));
    digits.iter().try_fold(0, digit).ok_or_else(wrong)
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

/// The name in a header. Only POSIX has a prefix to it; GNU keeps times there.
fn short_name(header: &[u8]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    match &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        true => [prefix, b"/", name].concat(),
        false => name.to_vec(),
    }
}

/// A name without `./` and trailing slash; one that leads elsewhere is refused.
fn clean(name: &[u8]) -> Result<PathBuf, String> {
    let wrong = || format!("has the name {:?}", String::from_utf8_lossy(name));
    if name.is_empty() {
        return Err("has an entry without a name".to_owned());
    }
    let mut clean = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(wrong()),
        }
    }
    Ok(clean)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry<'a>(path: &str, uid: u32, kind: Kind<'a>) -> Entry<'a> {
        Entry { path: path.into(), mode: 0o4755, uid, gid: 65_534, kind }
    }

    #[test]
    fn what_is_written_is_read() {
        let deep = "d/".repeat(120) + "file";
        let entries = [
            entry("", 0, Kind::Directory),
            entry("etc/rc.conf", 0, Kind::File(b"a=b\n")),
            entry(&deep, u32::MAX - 1, Kind::File(&[7; 1024])),
            entry("etc/rc.old", 0, Kind::Same("etc/rc.conf".into())),
            entry("etc/link", 3_000_000, Kind::Link(("../".repeat(90) + "x").into())),
        ];
        let mut there = entries.to_vec();
        there[0].path = ".".into();
        assert_eq!(read(&write(&there)).unwrap(), entries);
    }

    #[test]
    fn what_leads_elsewhere_or_is_no_file_is_refused() {
        for path in ["../etc/passwd", "/etc/passwd", "etc/../../x"] {
            let why = read(&write(&[entry(path, 0, Kind::Directory)])).unwrap_err();
            assert!(why.starts_with("has the name"), "{why}");
        }
        let one = write(&[entry("etc/dev", 0, Kind::File(b"x"))]);
        for letter in [b'3', b'4', b'6', b'x', b'S'] {
            let mut other = one.clone();
            other[156] = letter;
            let (before, after) = (u32::from(b'0'), u32::from(letter));
            let sum: u32 = u32::from_str_radix(std::str::from_utf8(&one[148..154]).unwrap(), 8).unwrap();
            other[148..154].copy_from_slice(format!("{:06o}", sum + after - before).as_bytes());
            other[124..135].copy_from_slice(b"00000000000");
            other[154] = 0;
            let sum: u32 = (0..BLOCK).map(|at| if (148..156).contains(&at) { 32 } else { u32::from(other[at]) }).sum();
            other[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
            assert!(read(&other).unwrap_err().starts_with("has an entry of kind"), "{letter}");
        }
        assert_eq!(read(&one[..one.len() - 1100]).unwrap_err(), "ends in the middle");
        assert_eq!(read(&[]).unwrap_err(), "ends in the middle");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..3000), at in 0usize..1536, byte: u8) {
            let _ = read(&bytes);
            bytes = write(&[entry("etc/x", 0, Kind::File(b"x"))]);
            bytes[at] = byte;
            if let Ok(entries) = read(&bytes) {
                prop_assert!(entries.iter().all(|entry| entry.path.components().all(|c| matches!(c, Component::Normal(_)))));
            }
        }
    }
}
