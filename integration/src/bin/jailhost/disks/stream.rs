//! What goes by in a dump: its header, the names in its directories, which files it has, whether it has its end. The format is
//! that of `protocols/dumprestore.h`, the same for FreeBSD's dump and Linux's: records of 1 KiB.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The size of a record.
pub const RECORD: usize = 1024;
const MAGIC: [u32; 3] = [60011, 60012, 0x1954_0119];

/// What a stream says as far as it went by.
#[derive(Default)]
pub struct Stream {
    /// The first record.
    pub header: Option<Header>,
    /// Names in directories: of an inode, its directories and its names there, in the order of the stream.
    entries: Vec<(u32, u32, String)>,
    /// Where an inode is first among them.
    by_inode: HashMap<u32, usize>,
    /// Inodes of directories that went by.
    directories: BTreeSet<u32>,
    /// Inodes of files that are not directories and that went by to their end.
    whole: Vec<u32>,
    /// The first file that is no directory.
    pub first_file: Option<u32>,
    /// The file that is going by.
    current: Option<(u32, bool)>,
    /// Whether the end went by.
    pub has_end: bool,
    /// Whether something went by that is no dump.
    pub is_damaged: bool,
    rest: Vec<u8>,
    /// Data records until the next header, and what of them is a directory's.
    to_skip: usize,
    directory: Vec<u8>,
}

/// What the first record says.
#[derive(Clone, Debug)]
pub struct Header {
    /// When it was dumped, in seconds since the epoch.
    pub date: i64,
    /// The label: FreeBSD's dump has none.
    pub label: String,
}

fn number(record: &[u8], at: usize) -> u32 {
    record.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn text(record: &[u8], at: usize, length: usize) -> String {
    let field = record.get(at..at + length).unwrap_or_default();
    String::from_utf8_lossy(field.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

impl Stream {
    /// More of it.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        if self.is_damaged || self.has_end {
            return;
        }
        while !bytes.is_empty() {
            // Whole records of data need no look.
            if self.rest.is_empty() && self.to_skip > 0 && bytes.len() >= RECORD {
                let records = self.to_skip.min(bytes.len() / RECORD);
                if self.current.is_some_and(|(_, is_directory)| is_directory) {
                    self.directory.extend(&bytes[..records * RECORD]);
                }
                self.to_skip -= records;
                bytes = &bytes[records * RECORD..];
                continue;
            }
            let take = (RECORD - self.rest.len()).min(bytes.len());
            self.rest.extend(&bytes[..take]);
            bytes = &bytes[take..];
            if self.rest.len() < RECORD {
                continue;
            }
            let record = std::mem::take(&mut self.rest);
            if self.to_skip > 0 {
                if self.current.is_some_and(|(_, is_directory)| is_directory) {
                    self.directory.extend(&record);
                }
                self.to_skip -= 1;
            } else {
                self.header_record(&record);
            }
            if self.is_damaged || self.has_end {
                return;
            }
        }
    }

    fn header_record(&mut self, record: &[u8]) {
        if !MAGIC.contains(&number(record, 24)) {
            self.is_damaged = true;
            return;
        }
        let (kind, inode, count) = (number(record, 0), number(record, 20), number(record, 160) as usize);
        if kind != 4 {
            self.finish_file();
        }
        match kind {
            1 => {
                let date = i64::from(number(record, 4));
                self.header.get_or_insert(Header { date, label: text(record, 676, 16) });
            }
            3 | 6 => self.to_skip = count,
            2 | 4 => {
                let mode = record[32] as u32 | (record[33] as u32) << 8;
                if kind == 2 {
                    let is_directory = mode & 0o170_000 == 0o040_000;
                    self.current = Some((inode, is_directory));
                    if !is_directory {
                        self.first_file.get_or_insert(inode);
                    }
                }
                self.to_skip = record[164..].iter().take(count.min(512)).filter(|there| **there != 0).count();
            }
            5 => self.has_end = true,
            _ => self.is_damaged = true,
        }
    }

    fn finish_file(&mut self) {
        match self.current.take() {
            Some((inode, true)) => {
                let data = std::mem::take(&mut self.directory);
                self.names(inode, &data);
                self.directories.insert(inode);
            }
            Some((inode, false)) => self.whole.push(inode),
            None => {}
        }
    }

    /// A directory's entries: inode, length of the entry, type, length of the name, name.
    fn names(&mut self, directory: u32, data: &[u8]) {
        let mut at = 0;
        while at + 8 <= data.len() {
            let length = usize::from(u16::from_le_bytes([data[at + 4], data[at + 5]]));
            if length < 8 || at + length > data.len() {
                // The entries of a block do not go over its end.
                at = (at / 512 + 1) * 512;
                continue;
            }
            let (inode, name) = (number(data, at), text(data, at + 8, usize::from(data[at + 7])));
            if inode != 0 && name != "." && name != ".." && !name.is_empty() {
                self.by_inode.entry(inode).or_insert(self.entries.len());
                self.entries.push((inode, directory, name));
            }
            at += length;
        }
    }

    /// The name of an inode, from `.`.
    pub fn name(&self, inode: u32) -> Option<String> {
        let mut name = String::new();
        let mut inode = inode;
        for _ in 0..256 {
            if inode == 2 {
                return Some(format!(".{name}"));
            }
            let (_, directory, own) = self.entries.get(*self.by_inode.get(&inode)?)?;
            name = format!("/{own}{name}");
            inode = *directory;
        }
        None
    }

    /// The file that was going by when the stream ended.
    pub fn interrupted(&self) -> Option<u32> {
        self.current.map(|(inode, _)| inode)
    }

    /// Files that stand in directories and did not go by to their end: inode, name, and the name beside them. By inode.
    pub fn missing(&self) -> Vec<(u32, String, String)> {
        let whole: BTreeSet<u32> = self.whole.iter().copied().collect();
        let interrupted = self.interrupted();
        let mut missing = BTreeMap::new();
        let mut beside: Option<(u32, &str)> = None;
        for (inode, directory, own) in &self.entries {
            let sibling = beside.filter(|(of, _)| of == directory).map(|(_, own)| own.to_owned());
            beside = Some((*directory, own));
            if whole.contains(inode) || self.directories.contains(inode) || Some(*inode) == interrupted {
                continue;
            }
            let (Some(name), Some(above)) = (self.name(*inode), self.name(*directory)) else { continue };
            missing.entry(*inode).or_insert((name, sibling.map(|own| format!("{above}/{own}")).unwrap_or_default()));
        }
        missing.into_iter().map(|(inode, (name, sibling))| (inode, name, sibling)).collect()
    }

    /// The files that went by after one.
    pub fn after(&self, inode: u32) -> Vec<String> {
        self.whole.iter().filter(|of| **of > inode).filter_map(|of| self.name(*of)).collect()
    }
}
