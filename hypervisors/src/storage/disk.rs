//! What lies on a block volume: one file system that fills it, or a partition table with its partitions. Read by
//! util-linux's own tools (`partx(8)`, `blkid(8)`), judged here: a table was written by a guest.
//!
//! Partitions are never made devices of the host (`kpartx`): they are told by start and size alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::host::{Command, printable};
use crate::{Error, Host, Result};

/// The unit of partition tables as partx(8) prints them, whatever the device's own sectors are, in bytes.
const SECTOR: u64 = 512;
/// As many entries as a GPT has by custom.
const MOST: usize = 128;

/// A part of a volume that can hold a file system: a partition, or all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Area {
    /// Number of the partition; `None`: the whole volume.
    pub number: Option<u32>,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// What is on it, by blkid's names (`ext4`, `swap`, `LVM2_member`); empty if nothing is recognised.
    pub content: String,
    /// UUID of that.
    pub uuid: Option<String>,
    /// Label of that.
    pub label: Option<String>,
    /// UUID of the partition itself.
    pub part_uuid: Option<String>,
    /// Name of the partition itself (GPT).
    pub part_label: Option<String>,
    /// It holds other partitions (an extended one), and no file system.
    pub container: bool,
}

impl Area {
    /// Whether a specification of fstab(5) names it. `disk`: the disk's name in the guest (`xvda`).
    pub fn is(&self, spec: &str, disk: &str) -> bool {
        let device = spec.strip_prefix("/dev/");
        let by = |directory: &str| device.and_then(|device| device.strip_prefix(directory));
        let tag = |name: &str, directory: &str| {
            let tagged = spec.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
            tagged.map(|value| value.trim_matches('"')).or_else(|| by(directory)).map(str::to_owned)
        };
        let same = |wanted: Option<String>, have: &Option<String>, exactly: bool| match (wanted, have) {
            (Some(wanted), Some(have)) if exactly => wanted == *have,
            (Some(wanted), Some(have)) => wanted.eq_ignore_ascii_case(have),
            _ => false,
        };
        same(tag("UUID", "disk/by-uuid/"), &self.uuid, false)
            || same(tag("LABEL", "disk/by-label/"), &self.label, true)
            || same(tag("PARTUUID", "disk/by-partuuid/"), &self.part_uuid, false)
            || same(tag("PARTLABEL", "disk/by-partlabel/"), &self.part_label, true)
            || device.is_some_and(|device| device == self.device(disk))
    }

    /// Its name as a device in the guest, where the disk is called `disk`.
    pub fn device(&self, disk: &str) -> String {
        match self.number {
            None => disk.to_owned(),
            Some(number) if disk.ends_with(|last: char| last.is_ascii_digit()) => format!("{disk}p{number}"),
            Some(number) => format!("{disk}{number}"),
        }
    }
}

/// What a volume is divided into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Kind of partition table (`gpt`, `dos`); `None`: it has none, and one area.
    pub table: Option<String>,
    /// Its areas, by number.
    pub areas: Vec<Area>,
}

/// Reads `partx --pairs`: number, start, size and names of each partition.
///
/// # Errors
/// What is no such output, or no partition.
pub fn parse(text: &str) -> std::result::Result<Vec<Area>, String> {
    let mut areas = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let fields = pairs(line).ok_or_else(|| format!("partx printed {}", printable(line)))?;
        let number = |key: &str| -> std::result::Result<u64, String> {
            let value = fields.get(key).ok_or_else(|| format!("partx tells no {key}"))?;
            value.parse().map_err(|_| format!("{} is no number of sectors", printable(value)))
        };
        let bytes = |key: &str| -> std::result::Result<u64, String> {
            number(key)?.checked_mul(SECTOR).ok_or_else(|| "a partition is larger than any disk".to_owned())
        };
        let word = |key: &str| fields.get(key).filter(|value| !value.is_empty()).cloned();
        // Extended partitions: MS-DOS, by LBA, Linux's own.
        let container = fields.get("SCHEME").is_some_and(|scheme| scheme == "dos")
            && matches!(fields.get("TYPE").map(String::as_str), Some("0x5" | "0xf" | "0x85"));
        areas.push(Area {
            number: Some(u32::try_from(number("NR")?).map_err(|_| "a partition's number is too large".to_owned())?),
            start: bytes("START")?,
            bytes: bytes("SECTORS")?,
            part_uuid: word("UUID"),
            part_label: word("NAME"),
            container,
            ..Area::default()
        });
    }
    Ok(areas)
}

/// `KEY="value" …`; what could be mistaken in a value is `\xHH`.
fn pairs(line: &str) -> Option<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let end = after.find('"')?;
        let (value, after) = after.split_at(end);
        fields.insert(key.to_owned(), unescaped(value));
        rest = after.get(1..)?.trim_start();
    }
    Some(fields)
}

fn unescaped(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..3).filter(|code| byte == b'\\' && code[0] == b'x');
        match code.and_then(|code| u8::from_str_radix(std::str::from_utf8(&code[1..]).ok()?, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Why a table should not be believed, if so. `size`: the volume's, in bytes.
pub fn unsound(areas: &[Area], size: u64) -> Option<String> {
    let number = |area: &Area| area.number.unwrap_or_default();
    if areas.len() > MOST {
        return Some(format!("it lists more than {MOST} partitions"));
    }
    for area in areas {
        match area.start.checked_add(area.bytes) {
            _ if area.bytes == 0 || area.start < SECTOR => {
                return Some(format!("partition {} is nowhere", number(area)));
            }
            Some(end) if end <= size => {}
            _ => return Some(format!("partition {} reaches beyond the end of the disk", number(area))),
        }
    }
    for (index, one) in areas.iter().enumerate() {
        for other in &areas[index + 1..] {
            if number(one) == number(other) {
                return Some(format!("there are two partitions {}", number(one)));
            }
            let apart = one.start + one.bytes <= other.start || other.start + other.bytes <= one.start;
            let within = |outer: &Area, inner: &Area| {
                outer.container && outer.start < inner.start && inner.start + inner.bytes <= outer.start + outer.bytes
            };
            if !apart && !within(one, other) && !within(other, one) {
                return Some(format!("partitions {} and {} overlap", number(one), number(other)));
            }
        }
    }
    None
}

/// What is on a device, or on so many bytes of it from a start on, as `blkid -p` tells: `TYPE`, `UUID`, `LABEL`, `PTTYPE` …;
/// empty if nothing is.
pub(super) async fn probe(
    host: &dyn Host,
    doing: &str,
    device: &Path,
    part: Option<(u64, u64)>,
) -> Result<BTreeMap<String, String>> {
    let path = device.to_str().ok_or_else(|| Error::refused(doing, "its path is not UTF-8"))?;
    let mut argv: Vec<String> = ["blkid", "-p", "-o", "export"].map(str::to_owned).to_vec();
    if let Some((start, bytes)) = part {
        argv.extend(["-O".to_owned(), start.to_string(), "-S".to_owned(), bytes.to_string()]);
    }
    argv.extend(["--".to_owned(), path.to_owned()]);
    let command = Command::new(argv);
    let output = host.run(&command).await?;
    match output.status {
        2 => Ok(BTreeMap::new()),
        8 => Err(Error::refused(doing, "it bears the marks of more than one file system")
            .help(format!("wipefs {path} lists them; take the wrong ones off"))),
        _ => Ok(parse_export(&output.checked(doing, &command)?.text())),
    }
}

/// `KEY=value` lines; blanks and quotes in values are escaped by a backslash (`blkid(8)`).
pub(crate) fn parse_export(text: &str) -> BTreeMap<String, String> {
    let unescape = |value: &str| {
        let mut chars = value.chars();
        let mut plain = String::new();
        while let Some(c) = chars.next() {
            plain.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        plain
    };
    text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), unescape(value))).collect()
}

/// The partitions of a device, not looked into; empty if its table has none.
pub(super) async fn table(host: &dyn Host, doing: &str, device: &Path, size: u64) -> Result<Vec<Area>> {
    let path = device.to_str().ok_or_else(|| Error::refused(doing, "its path is not UTF-8"))?;
    let columns = "NR,START,SECTORS,TYPE,UUID,NAME,SCHEME";
    let command = Command::new(["partx", "--bytes", "--pairs", "-o", columns, path]);
    let output = host.run(&command).await?;
    // It fails on a table without entries, as on one it cannot read.
    if output.status == 1 && String::from_utf8_lossy(&output.stderr).contains("failed to read partition table") {
        return Ok(Vec::new());
    }
    let broken = |why: String| {
        Error::refused(doing, format!("its partition table cannot be trusted: {why}"))
            .help("look at it in the guest: sfdisk --verify")
    };
    let areas = parse(&output.checked(doing, &command)?.text()).map_err(broken)?;
    match unsound(&areas, size) {
        None => Ok(areas),
        Some(why) => Err(broken(why)),
    }
}

/// What lies on a device, whose size is not looked at: for tools that refuse what is not there themselves.
///
/// # Errors
/// A partition table that cannot be trusted, or a device that cannot be read.
pub async fn areas(host: &dyn Host, doing: &str, device: &Path) -> Result<Vec<Area>> {
    Ok(layout(host, doing, device, u64::MAX).await?.areas)
}

/// What lies on a device of that size.
pub(super) async fn layout(host: &dyn Host, doing: &str, device: &Path, size: u64) -> Result<Layout> {
    let found = probe(host, doing, device, None).await?;
    let whole = filled(Area { bytes: size, ..Area::default() }, &found);
    let areas = match found.get("PTTYPE") {
        Some(_) => table(host, doing, device, size).await?,
        None => Vec::new(),
    };
    if areas.is_empty() {
        return Ok(Layout { table: None, areas: vec![whole] });
    }
    if !whole.content.is_empty() {
        return Err(ambiguous(doing, device, &whole.content));
    }
    let mut looked = Vec::new();
    for area in areas {
        looked.push(match area.container {
            true => area,
            false => {
                let found = probe(host, doing, device, Some((area.start, area.bytes))).await?;
                filled(area, &found)
            }
        });
    }
    Ok(Layout { table: found.get("PTTYPE").cloned(), areas: looked })
}

/// A device that is a disk and a file system at once is neither.
fn ambiguous(doing: &str, device: &Path, content: &str) -> Error {
    Error::refused(doing, format!("it bears a partition table and the marks of {}", printable(content)))
        .help(format!("wipefs {} lists them; take the wrong one off", device.display()))
}

fn filled(area: Area, found: &BTreeMap<String, String>) -> Area {
    let word = |key: &str| found.get(key).filter(|value| !value.is_empty()).cloned();
    Area { content: word("TYPE").unwrap_or_default(), uuid: word("UUID"), label: word("LABEL"), ..area }
}

/// An entry of a guest's fstab(5), as far as mounting its parts on the host needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub spec: String,
    /// Beneath the root, no leading slash; empty for the root.
    pub point: PathBuf,
    pub auto: bool,
}

/// The entries of an fstab that mount something by its own name.
pub(crate) fn entries(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (spec, point) = (fields.next()?, fields.next()?);
        let point = octal(point);
        let options = fields.nth(1).unwrap_or_default();
        let plain = point.strip_prefix('/').filter(|_| !spec.starts_with('#'))?.trim_matches('/').to_owned();
        if plain.split('/').any(|name| matches!(name, "." | "..")) {
            return None;
        }
        let auto = !options.split(',').any(|option| option == "noauto" || option == "bind");
        Some(Entry { spec: octal(spec), point: plain.into(), auto })
    };
    text.lines().filter_map(entry).collect()
}

/// `\040` and the like, as getmntent(3) decodes them.
fn octal(field: &str) -> String {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(code) => {
                plain.push(code);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Whether a specification of fstab(5) names a partition, where it is not known what the disk is called in the guest: by
/// what the partition itself bears, or by its number on a device of one disk's name.
pub(crate) fn names(spec: &str, area: &Area) -> bool {
    let numbered = || spec.strip_prefix("/dev/").and_then(first_disk).is_some_and(|number| Some(number) == area.number);
    area.is(spec, "") || numbered()
}

/// The number of a partition of a guest's first disk: `xvda2`, `sda2`, `vda2`, `hda2`, `nvme0n1p2`.
fn first_disk(device: &str) -> Option<u32> {
    let number = ["xvda", "sda", "vda", "hda", "nvme0n1p"].iter().find_map(|disk| device.strip_prefix(disk))?;
    number.parse().ok()
}

/// Which of these areas, each with its fstab if it has one, is the guest's root: the one whose fstab says so of itself; else
/// the only one that has an fstab. The reason if that cannot be told.
pub(super) fn root_of(candidates: &[(&Area, Option<Vec<Entry>>)]) -> std::result::Result<usize, String> {
    let names_itself = |(area, entries): &&(&Area, Option<Vec<Entry>>)| {
        let root = |entry: &&Entry| entry.point.as_os_str().is_empty();
        let named = entries.iter().flatten().find(root).map(|entry| entry.spec.as_str());
        named.is_some_and(|spec| names(spec, area))
    };
    let all: Vec<usize> = (0..candidates.len()).filter(|at| candidates[*at].1.is_some()).collect();
    let own: Vec<usize> = all.iter().copied().filter(|at| names_itself(&&candidates[*at])).collect();
    let list = |of: &[usize]| {
        let numbers = of.iter().filter_map(|at| candidates[*at].0.number).map(|number| number.to_string());
        numbers.collect::<Vec<_>>().join(", ")
    };
    match (own.as_slice(), all.as_slice()) {
        ([one], _) | ([], [one]) => Ok(*one),
        ([], []) => Err("none of its partitions holds an /etc/fstab".into()),
        ([], several) | (several, _) => {
            Err(format!("more than one of its partitions could be the guest's root: {}", list(several)))
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Printed by util-linux 2.38.1 for an MBR with an extended partition.
    const DOS: &str = r#"NR="1" START="2048" SECTORS="204800" TYPE="0x83" UUID="04030201-01" NAME="" SCHEME="dos"
NR="2" START="208896" SECTORS="40960" TYPE="0x82" UUID="04030201-02" NAME="" SCHEME="dos"
NR="3" START="249856" SECTORS="143360" TYPE="0x5" UUID="04030201-03" NAME="" SCHEME="dos"
NR="5" START="251904" SECTORS="61440" TYPE="0x83" UUID="04030201-05" NAME="" SCHEME="dos"
"#;

    /// Printed by util-linux 2.38.1.
    #[test]
    fn what_blkid_says_is_read() {
        let ext = parse_export("DEVNAME=/dev/loop0\nLABEL=my\\ root\nUUID=62f0\nVERSION=1.0\nTYPE=ext4\n");
        assert_eq!((ext["LABEL"].as_str(), ext["TYPE"].as_str()), ("my root", "ext4"));
    }

    #[test]
    fn a_table_with_logical_partitions_is_read() {
        let areas = parse(DOS).unwrap();
        let numbers: Vec<_> = areas.iter().map(|area| (area.number.unwrap(), area.container)).collect();
        assert_eq!(numbers, [(1, false), (2, false), (3, true), (5, false)]);
        assert_eq!((areas[0].start, areas[0].bytes), (1 << 20, 100 << 20));
        assert_eq!(areas[3].part_uuid.as_deref(), Some("04030201-05"));
        assert_eq!(unsound(&areas, 200 << 20), None);
        assert_eq!(parse("").unwrap(), []);
        let named = DOS.replacen("NAME=\"\"", r#"NAME="my \x22root\x22 \x5c x""#, 1);
        assert_eq!(parse(&named).unwrap()[0].part_label.as_deref(), Some("my \"root\" \\ x"));
    }

    #[test]
    fn hostile_tables_are_not_believed() {
        let sound = parse(DOS).unwrap();
        let with = |change: &dyn Fn(&mut Vec<Area>)| {
            let mut areas = sound.clone();
            change(&mut areas);
            unsound(&areas, 200 << 20).unwrap_or_default()
        };
        assert!(with(&|areas| areas[1].start = 50 << 20).contains("1 and 2 overlap"));
        assert!(with(&|areas| areas[0].bytes = 300 << 20).contains("1 reaches beyond"));
        assert!(with(&|areas| areas[0].bytes = u64::MAX).contains("1 reaches beyond"));
        assert!(with(&|areas| areas[0].bytes = 0).contains("1 is nowhere"));
        assert!(with(&|areas| areas[0].start = 0).contains("1 is nowhere"), "it would hold the table itself");
        assert!(with(&|areas| areas[1].number = Some(1)).contains("two partitions 1"));
        assert!(with(&|areas| areas[2].container = false).contains("3 and 5 overlap"));
        assert!(with(&|areas| areas[3].bytes = 75 << 20).contains("3 and 5 overlap"), "it leaves its container");
        assert!(with(&|areas| areas.extend(vec![sound[0].clone(); 128])).contains("more than"));
        for bad in [
            "NR=\"1\" START=\"1\"",
            "NR=\"x\" START=\"1\" SECTORS=\"1\"",
            "NR=\"1\" START=\"36028797018963968\" SECTORS=\"1\"",
            "NR=\"-1\" START=\"1\" SECTORS=\"1\"",
            "one",
            "NR=\"1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_printed_makes_it_fall_over(text in "[ -~\n]{0,200}") {
            let _ = parse(&text);
            let _ = entries(&text);
        }
        #[test]
        fn what_is_believed_lies_within_the_disk(starts in prop::collection::vec((0u64..100, 0u64..100), 0..6)) {
            let areas: Vec<Area> = (1..).zip(starts).map(|(number, (start, bytes))| {
                Area { number: Some(number), start: start * 512, bytes: bytes * 512, ..Area::default() }
            }).collect();
            if unsound(&areas, 60 * 512).is_none() {
                prop_assert!(areas.iter().all(|area| area.start + area.bytes <= 60 * 512));
                let sum: u64 = areas.iter().map(|area| area.bytes).sum();
                prop_assert!(sum <= 60 * 512);
            }
        }
    }

    fn area(number: u32, uuid: &str) -> Area {
        Area {
            number: Some(number),
            uuid: Some(uuid.into()),
            label: Some("root fs".into()),
            part_uuid: Some("ab-01".into()),
            part_label: Some("Part".into()),
            ..Area::default()
        }
    }

    #[test]
    fn fstab_names_an_area_in_many_ways() {
        let area = area(2, "6B1C-22");
        for spec in [
            "UUID=6b1c-22",
            "UUID=\"6b1c-22\"",
            "LABEL=root fs",
            "PARTUUID=AB-01",
            "PARTLABEL=Part",
            "/dev/disk/by-uuid/6b1c-22",
            "/dev/disk/by-label/root fs",
            "/dev/disk/by-partuuid/ab-01",
            "/dev/xvda2",
        ] {
            assert!(area.is(spec, "xvda"), "{spec}");
        }
        for spec in ["UUID=6b1c", "LABEL=Root fs", "PARTLABEL=part", "/dev/xvdb2", "/dev/xvda", "/dev/xvda22", "xvda2"]
        {
            assert!(!area.is(spec, "xvda"), "{spec}");
        }
        assert!(area.is("/dev/nvme0n1p2", "nvme0n1"));
        assert!(Area::default().is("/dev/xvda1", "xvda1") && !Area::default().is("UUID=", "xvda1"));
    }

    #[test]
    fn an_fstab_is_read_as_far_as_needed() {
        let text = "# c\nUUID=6b1c-22 / ext4 errors=remount-ro 0 1\nLABEL=root\\040fs /with\\040space/ ext4\n\
                    /dev/xvda3 none swap sw 0 0\n/dev/xvda4 /a/../b ext4\n/dev/xvda5 /mnt ext4 ro,noauto 0 0\nlonely\n";
        let entry = |spec: &str, point: &str, auto| Entry { spec: spec.into(), point: point.into(), auto };
        let expected = [
            entry("UUID=6b1c-22", "", true),
            entry("LABEL=root fs", "with space", true),
            entry("/dev/xvda5", "mnt", false),
        ];
        assert_eq!(entries(text), expected);
    }

    #[test]
    fn the_root_is_the_one_that_says_so() {
        let (boot, root, old) = (area(1, "b"), area(2, "r"), area(3, "o"));
        let says = |spec: &str| Some(entries(&format!("{spec} / ext4\n")));
        let chosen = |candidates: &[(&Area, Option<Vec<Entry>>)]| root_of(candidates);
        assert_eq!(chosen(&[(&boot, None), (&root, says("UUID=r")), (&old, says("UUID=r"))]), Ok(1));
        assert_eq!(chosen(&[(&boot, None), (&root, says("/dev/sda2"))]), Ok(1));
        assert_eq!(chosen(&[(&boot, None), (&root, says("/dev/mapper/vg-root"))]), Ok(1), "the only one");
        assert_eq!(chosen(&[(&root, Some(Vec::new()))]), Ok(0));
        assert!(chosen(&[(&boot, None)]).unwrap_err().contains("none"));
        assert!(chosen(&[(&root, says("UUID=r")), (&old, says("UUID=o"))]).unwrap_err().contains("2, 3"));
        assert!(chosen(&[(&root, says("UUID=x")), (&old, says("UUID=x"))]).is_err());
    }
}
