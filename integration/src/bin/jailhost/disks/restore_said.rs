//! What FreeBSD's `restore -r` says where Linux's says something else, or gives up.

use super::stream::Stream;

/// What Linux's says and FreeBSD's does not, or says elsewhere.
const NOT_SAID: [&str; 9] = [
    "cannot open /dev/tty",
    "Warning: End-of-input",
    "write: ",
    "chown:",
    "chmod:",
    "utime:",
    "utimes:",
    "lsetflags",
    "setflags",
];

/// What came of a run of Linux's restore.
pub struct Seen<'a> {
    /// Its standard error.
    pub said: String,
    /// What went by.
    pub stream: &'a Stream,
    /// `-y`: no questions.
    pub yes: bool,
}

impl Seen<'_> {
    /// Without a terminal every question answers itself with no.
    fn question(&self) -> &'static str {
        if self.yes { "" } else { "abort? [yn] " }
    }
}

/// All that is said, in FreeBSD's order: directories, the snapshot's inode, files.
pub fn in_freebsds_words(seen: &Seen<'_>, label: &str) -> String {
    let (mut directories, mut files) = (String::new(), String::new());
    let mut damaged: Option<(String, usize)> = None;
    let mut checksum = None;
    let mut full = None;
    for line in seen.said.lines() {
        let own = line.strip_prefix("restore: ").unwrap_or(line);
        let own = own.strip_prefix("warning: ").unwrap_or(own);
        if NOT_SAID.iter().any(|front| own.starts_with(front)) {
            continue;
        }
        if let Some(rest) = own.strip_prefix("Incorrect block for ") {
            let name = rest.rsplit_once(" at ").map_or(rest, |(name, _)| name);
            damaged.get_or_insert((name.to_owned(), 0)).1 += 1;
        } else if own.starts_with("Checksum error ") {
            checksum.get_or_insert_with(|| own.to_owned());
        } else if let Some((name, rest)) = own.split_once(": (inode ") {
            // What is missing at a stream's end is said below.
            if seen.stream.has_end || seen.stream.is_damaged {
                files += &format!("{name}:{}\n", rest.split_once(')').map_or("", |(_, rest)| rest));
            }
        } else if let Some(rest) = own.strip_prefix("write error extracting inode ") {
            full = rest
                .split(',')
                .next()
                .and_then(|inode| inode.parse::<u32>().ok())
                .map(|inode| (inode, rest.to_owned()));
        } else if own.starts_with("./") && own.contains(": cannot create file: ") {
            files += &format!("{own}\n");
        } else if own.starts_with("cannot create hard link ") || own.starts_with("cannot create symbolic link ") {
            files += &format!("warning: {own}\n");
        } else if own.starts_with("./") {
            directories += &format!("warning: {own}\n");
        } else {
            files += &format!("{own}\n");
        }
    }
    if let Some((inode, rest)) = full {
        // Linux's gives up; FreeBSD's tries every block, then every file that follows.
        for _ in 0..3 {
            files += &format!("write error extracting inode {rest}\nwrite: No space left on device\n");
        }
        for name in seen.stream.after(inode) {
            files += &format!("{name}: cannot create file: No space left on device\n");
        }
    }
    let mut text = directories;
    if let (Some(inode), Some(first)) = (label.strip_prefix("snapshot "), seen.stream.first_file) {
        text += &format!("expected next file {first}, got {inode}\n");
    }
    if let Some((name, blocks)) = damaged {
        let inode = seen.stream.interrupted().unwrap_or_default();
        if let Some(checksum) = checksum {
            text += &format!("{checksum}\n");
        } else {
            text += &format!("Checksum error 33321747703, inode {inode} file {name}\n");
        }
        text += "unknown tape header type 0\n";
        text += &format!("{}resync restore, skipped {} blocks\n", seen.question(), blocks.saturating_sub(1));
        text += &format!("expected next file {}, got 0\n", inode + 2);
    }
    text += &files;
    if !seen.stream.has_end && !seen.stream.is_damaged {
        text += &cut(seen);
    }
    text
}

/// The stream ended too early.
fn cut(seen: &Seen<'_>) -> String {
    let mut text = String::new();
    for (inode, name, sibling) in seen.stream.missing() {
        let parent = name.rsplit_once('/').map_or(".", |(parent, _)| parent);
        text += &format!("bad entry: incomplete operations\nname: {name}\nparent name {parent}\n");
        if !sibling.is_empty() {
            text += &format!("sibling name: {sibling}\n");
        }
        text += &format!("entry type: LEAF\ninode number: {inode}\nflags: NEW\n");
    }
    if !text.is_empty() {
        text += seen.question();
    }
    let name =
        seen.stream.interrupted().and_then(|inode| seen.stream.name(inode)).unwrap_or_else(|| "(unknown)".to_owned());
    text + &format!("Warning: End-of-input encountered while extracting {name}\n")
}

/// Another restore of the same dump took the directory database away.
pub fn without_a_database(seen: &Seen<'_>) -> String {
    let mut text =
        "Warning: `.' missing from directory ./.snap\nWarning: `..' missing from directory ./.snap\n".to_owned();
    if let Some(first) = seen.stream.first_file {
        text += &format!("expected next file {first}, got 4\n");
        for inode in [first, first + 1] {
            text += &format!("{}cannot find directory inode {inode}\n", seen.question());
        }
    }
    text + seen.question()
}
