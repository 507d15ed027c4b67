//! Leftovers: places that still name what the guest is not any more (an old address, hostname or MAC), for people to
//! look at. Nothing is changed here. The seed did it by hand: `grep -r` below /etc after every clone.
//!
//! Bounded in files, bytes, hits and time, and best effort: what cannot be read is passed over. Links are not followed.
//! Lines of secret files are not shown; control characters are neutralised.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hypervisors::host::printable;

use super::beneath::{self, Beneath, Budget, Entry, MAX_DEPTH, walk};
use super::{COMMENT, GuestError, Tree};

/// Below these is searched, and below `etc` of each directory in `opt`.
const PLACES: [&str; 5] = ["etc", "var/cron/tabs", "var/named/etc/namedb", "var/spool/cron", "usr/local/etc"];
/// Most characters of a line that are shown.
const SHOWN: usize = 200;

/// How much a search may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Largest file that is read, in bytes.
    pub file_bytes: u64,
    /// Most files that are looked at.
    pub files: usize,
    /// Most hits.
    pub hits: usize,
    /// Longest time.
    pub time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { file_bytes: 1 << 20, files: 20_000, hits: 500, time: Duration::from_secs(5) }
    }
}

/// A line that names one of the needles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Path relative to the root.
    pub path: PathBuf,
    /// Line, counted from 1.
    pub line: usize,
    /// The line for a terminal, at most 200 characters; `(not shown)` in a file of secrets.
    pub text: String,
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In path order.
    pub leftovers: Vec<Leftover>,
    /// The bounds ended the search: there may be more.
    pub cut: bool,
}

/// [`search_within`] the usual bounds.
pub fn search(tree: &Tree, needles: &[String]) -> Result<Vec<Leftover>, GuestError> {
    Ok(search_within(tree, needles, Bounds::default())?.leftovers)
}

/// Searches the guest's configuration for needles as whole words: `10.0.5.1` is not in `10.0.5.12`, and `mercure` is in
/// `mercure.resel.example` and not in `mercure-old`. Letters' case does not matter.
pub fn search_within(tree: &Tree, needles: &[String], bounds: Bounds) -> Result<Found, GuestError> {
    let needles: Vec<Needle> = needles.iter().filter_map(|needle| Needle::new(needle)).collect();
    let beneath = Beneath::of(tree);
    let mut budget = Budget { entries: bounds.files, until: Some(Instant::now() + bounds.time) };
    let mut found = Found::default();
    let mut places: Vec<PathBuf> = PLACES.iter().map(PathBuf::from).collect();
    walk(beneath, Path::new("opt"), 1, &mut budget, &mut |entry| {
        places.push(entry.path.join("etc"));
        Ok(false)
    })?;
    places.sort();
    for place in places {
        walk(beneath, &place, MAX_DEPTH, &mut budget, &mut |entry| {
            if found.leftovers.len() >= bounds.hits {
                found.cut = true;
                return Ok(false);
            }
            if beneath::is_file(&entry.stat)
                && let Some(bytes) = text(entry, bounds.file_bytes)
            {
                let room = bounds.hits - found.leftovers.len();
                found.leftovers.extend(hits(entry.path, &bytes, &needles, room));
            }
            Ok(true)
        })?;
    }
    found.cut |= budget.is_spent() || found.leftovers.len() >= bounds.hits;
    Ok(found)
}

/// Content of a file that is text and not too large.
fn text(entry: &Entry<'_>, limit: u64) -> Option<String> {
    if u64::try_from(entry.stat.st_size).ok()? > limit {
        return None;
    }
    let file = File::from(beneath::file(entry.directory, entry.name).ok()?);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    (!bytes.contains(&0)).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// Lines of a file that name a needle; what clone has commented out does not count.
fn hits<'a>(path: &'a Path, text: &'a str, needles: &'a [Needle], room: usize) -> impl Iterator<Item = Leftover> + 'a {
    let secret = is_secret(path, text);
    let names = |line: &str| {
        let line = line.to_ascii_lowercase();
        !line.starts_with(COMMENT) && needles.iter().any(|needle| needle.is_in(&line))
    };
    let found = text.lines().enumerate().filter(move |(_, line)| names(line));
    found.take(room).map(move |(index, line)| Leftover {
        path: path.to_owned(),
        line: index + 1,
        text: if secret { "(not shown)".into() } else { printable(line.trim()).chars().take(SHOWN).collect() },
    })
}

/// Password hashes, keys and credentials, by where they are and by what is in them.
fn is_secret(path: &Path, text: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("").to_ascii_lowercase();
    let plain = name.trim_end_matches('-');
    matches!(plain, "shadow" | "gshadow" | "sasl_passwd" | "krb5.keytab")
        || path.starts_with("etc/ssl/private")
        || [".key", "_key", ".secret", "passwd.client"].iter().any(|end| name.ends_with(end))
        || text.contains("PRIVATE KEY")
}

/// What is searched for, in lower case.
struct Needle {
    text: String,
    is_name: bool,
}

impl Needle {
    /// `None` for an empty one.
    fn new(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let is_address = text.parse::<std::net::IpAddr>().is_ok() || text.contains(':');
        (!text.is_empty()).then_some(Self { text, is_name: !is_address })
    }

    /// Whether a line (in lower case) has it as a word of its own.
    fn is_in(&self, line: &str) -> bool {
        line.match_indices(&self.text).any(|(at, _)| {
            let before = &line.as_bytes()[..at];
            let after = &line.as_bytes()[at + self.text.len()..];
            !self.goes_on(before.iter().rev().copied(), true) && !self.goes_on(after.iter().copied(), false)
        })
    }

    /// Whether the word goes on in the bytes next to it, nearest first.
    fn goes_on(&self, mut next: impl Iterator<Item = u8>, before: bool) -> bool {
        let Some(nearest) = next.next() else { return false };
        let beyond = next.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let colons = !self.is_name && self.text.contains(':');
        match nearest {
            b'_' => true,
            byte if byte.is_ascii_alphanumeric() || !byte.is_ascii() => true,
            // After a name comes its domain; `10.0.5.1.` ends a sentence.
            b'.' => beyond && (before || !self.is_name),
            b'-' => self.is_name && beyond,
            // A port may follow an IPv4 address, and one may end an IPv6 address; within others a colon goes on.
            b':' => colons && (beyond || nearest == b':' && before),
            _ => false,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    fn is_in(needle: &str, line: &str) -> bool {
        Needle::new(needle).unwrap().is_in(line)
    }

    #[test]
    fn needles_are_whole_words() {
        for line in [
            "10.0.5.1",
            "host=10.0.5.1:25",
            "10.0.5.1/24",
            "a 10.0.5.1.",
            "10.0.5.1-10.0.5.9",
            "(10.0.5.1)",
            "::ffff:10.0.5.1",
        ] {
            assert!(is_in("10.0.5.1", line), "{line}");
        }
        for line in ["10.0.5.12", "110.0.5.1", "1.10.0.5.1", "10.0.5.1.2", "x10.0.5.1", "10.0.5.1é"] {
            assert!(!is_in("10.0.5.1", line), "{line}");
        }
        for line in ["mercure", "127.0.1.1 mercure.resel.example mercure", "root@mercure:", "//mercure/share"] {
            assert!(is_in("Mercure", line), "{line}");
        }
        for line in ["mercure2", "mercure-old", "old-mercure", "www.mercure.example", "mercure_x"] {
            assert!(!is_in("mercure", line), "{line}");
        }
        assert!(is_in("2001:db8::12", "[2001:db8::12]:25") && is_in("2001:db8::12", "2001:db8::12/64"));
        assert!(!is_in("2001:db8::12", "2001:db8::12:1") && !is_in("2001:db8::12", "2001:db8::123"));
        assert!(
            !is_in("52:54:00:00:00:01", "52:54:00:00:00:01:02") && is_in("52:54:00:00:00:01", "\"52:54:00:00:00:01\"")
        );
        assert!(Needle::new(" ").is_none());
    }

    #[test]
    fn hostile_trees_are_searched_within_bounds() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("etc/hosts", b"127.0.0.1 localhost\n10.0.5.12 mercure\n");
        put("etc/fstab", b"# upgradectl: 10.0.5.12:/export /mnt nfs\n");
        put("etc/shadow", b"mercure:$6$secret:1:\n");
        put("etc/motd", b"\x1b[2J 10.0.5.12 \xff\n");
        put("etc/binary", b"\0 10.0.5.12\n");
        put("etc/large", &[b'x'; 2000]);
        put("opt/app/etc/app.conf", b"bind 10.0.5.12\n");
        put("opt/app/share/app.conf", b"bind 10.0.5.12\n");
        put("srv/data", b"10.0.5.12\n");
        fs::write(root.path().join("etc").join(OsStr::from_bytes(b"n\xffme")), "10.0.5.12").unwrap();
        symlink("/etc/hosts", root.path().join("etc/out")).unwrap();
        symlink("..", root.path().join("etc/loop")).unwrap();
        nix::unistd::mkfifo(&root.path().join("etc/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let tree = Tree::open(root.path()).unwrap();
        let needles = ["10.0.5.12".to_owned(), "mercure".to_owned()];
        let bounds = Bounds { file_bytes: 1000, ..Bounds::default() };
        let found = search_within(&tree, &needles, bounds).unwrap();
        let short: Vec<_> =
            found.leftovers.iter().map(|one| (one.path.to_string_lossy(), one.line, one.text.as_str())).collect();
        assert_eq!(
            short,
            [
                ("etc/hosts".into(), 2, "10.0.5.12 mercure"),
                ("etc/motd".into(), 1, "\u{fffd}[2J 10.0.5.12 \u{fffd}"),
                ("etc/n\u{fffd}me".into(), 1, "10.0.5.12"),
                ("etc/shadow".into(), 1, "(not shown)"),
                ("opt/app/etc/app.conf".into(), 1, "bind 10.0.5.12"),
            ]
        );
        assert!(!found.cut);
        let two = search_within(&tree, &needles, Bounds { hits: 2, ..bounds }).unwrap();
        assert_eq!((two.leftovers.len(), two.cut), (2, true));
        assert!(search_within(&tree, &needles, Bounds { time: Duration::ZERO, ..bounds }).unwrap().cut);
        assert!(search_within(&tree, &needles, Bounds { files: 3, ..bounds }).unwrap().cut);
    }
}
