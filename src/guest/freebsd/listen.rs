//! The server's address where it is what a service listens on or speaks from: the clone's takes its place.
//!
//! Only in lines of files that are known to mean just that: a table of programs, their files and the words such a line begins
//! with. Everywhere else (virtual hosts by address in something unknown, access lists, applications) an address is found and
//! told by [`super::super::leftovers`], and left to people. Values of rc.conf that stay (`syslogd_flags="-b ADDRESS"`) and the
//! name servers of resolv.conf are rewritten too. Every other byte stays.

use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::splice::{Changes, Splices, becomes};
use super::super::tree::FileImage;
use super::{CloneSpec, Files, GuestError, JailSpec, rc};

/// Deepest directory, and most files, that are looked at.
const DEPTH: usize = 6;
const MAX_FILES: usize = 10_000;

/// A program's files and lines.
struct Program {
    /// What the path of a file begins with.
    files: &'static [&'static str],
    /// What a line begins with, in letters of any size.
    words: &'static [&'static str],
    /// A line goes on to the semicolon that ends it.
    statements: bool,
}

const PROGRAMS: [Program; 12] = [
    // core and mpm_common of httpd 1.3 to 2.4.
    Program {
        files: &["usr/local/etc/apache"],
        words: &["Listen", "BindAddress", "NameVirtualHost", "<VirtualHost"],
        statements: false,
    },
    // named.conf(5), in the cage of 5.x to 9.x too.
    Program {
        files: &["etc/namedb/", "usr/local/etc/namedb/", "var/named/etc/namedb/"],
        words: &["listen-on", "listen-on-v6", "query-source", "query-source-v6", "notify-source", "transfer-source"],
        statements: true,
    },
    Program {
        files: &["usr/local/etc/smb.conf", "usr/local/etc/smb4.conf"],
        words: &["interfaces", "socket address"],
        statements: false,
    },
    Program { files: &["usr/local/etc/nginx/"], words: &["listen"], statements: true },
    Program {
        files: &["usr/local/etc/postfix/main.cf"],
        words: &["inet_interfaces", "smtp_bind_address"],
        statements: false,
    },
    Program { files: &["usr/local/etc/dovecot"], words: &["listen"], statements: false },
    Program {
        files: &["usr/local/etc/my.cnf", "usr/local/etc/mysql/", "etc/my.cnf"],
        words: &["bind-address", "bind_address"],
        statements: false,
    },
    Program { files: &["usr/local/etc/ssh/sshd_config"], words: &["ListenAddress"], statements: false },
    Program { files: &["usr/local/etc/proftpd.conf"], words: &["<VirtualHost", "DefaultAddress"], statements: false },
    Program {
        files: &["usr/local/etc/squid/squid.conf"],
        words: &["http_port", "https_port", "tcp_outgoing_address"],
        statements: false,
    },
    Program {
        files: &["usr/local/etc/unbound/unbound.conf"],
        words: &["interface:", "outgoing-interface:"],
        statements: false,
    },
    Program { files: &["etc/resolv.conf"], words: &["nameserver"], statements: false },
];

/// Plans the edits.
pub(super) fn rewrite(files: &mut Files<'_>, spec: &JailSpec) -> Result<(), GuestError> {
    let clone = CloneSpec { addresses: spec.addresses.clone(), ..CloneSpec::default() };
    let changes: Vec<(IpAddr, IpAddr)> =
        Changes::new(&clone)?.addresses().filter_map(|(old, new)| Some((old, new?))).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let mut found = Vec::new();
    for place in ["etc", "usr/local/etc", "var/named/etc/namedb"] {
        collect(files, Path::new(place), 0, &mut found)?;
    }
    for path in found {
        let name = path.to_string_lossy();
        let Some(program) = PROGRAMS.iter().find(|program| program.files.iter().any(|start| name.starts_with(start)))
        else {
            continue;
        };
        let Some(text) = files.text(&path)? else { continue };
        let regions = regions(&text, program);
        replace(files, &path, &text, regions, &changes)?;
    }
    for file in rc::files(files)? {
        let values = file.rc.assigns().map(|assign| assign.value_span.clone()).collect();
        replace(files, &file.path, file.rc.text(), values, &changes)?;
    }
    Ok(())
}

/// Regular files beneath a directory, no link followed.
fn collect(files: &Files<'_>, directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), GuestError> {
    for path in files.names(&directory.to_string_lossy())? {
        if found.len() >= MAX_FILES || path.to_str().is_none() {
            continue;
        }
        match files.edits.image(&path) {
            Ok(Some(FileImage::Regular { .. })) => found.push(path),
            Ok(Some(FileImage::Directory { .. })) if depth < DEPTH => collect(files, &path, depth + 1, found)?,
            _ => {}
        }
    }
    Ok(())
}

fn replace(
    files: &mut Files<'_>,
    path: &Path,
    text: &str,
    regions: Vec<Range<usize>>,
    changes: &[(IpAddr, IpAddr)],
) -> Result<(), GuestError> {
    let mut splices = Splices::new(text);
    for region in regions {
        for (old, new) in changes {
            for place in places(&text[region.clone()], &old.to_string()) {
                let place = region.start + place.start..region.start + place.end;
                splices.replace(place, new.to_string(), becomes(*old, Some(*new)));
            }
        }
    }
    match splices.finish() {
        Some((new, why)) => files.set(path, &new, why),
        None => Ok(()),
    }
}

/// Where lines of a program's words stand, without comments.
fn regions(text: &str, program: &Program) -> Vec<Range<usize>> {
    let mut regions = Vec::new();
    let (mut start, mut done) = (0, 0);
    for line in text.split_inclusive('\n') {
        let from = start;
        start += line.len();
        if from < done {
            continue;
        }
        let says = line.trim_start();
        let begins = |word: &&&str| {
            let rest =
                says.get(..word.len()).filter(|start| start.eq_ignore_ascii_case(word)).map(|_| &says[word.len()..]);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-' || c == '_'))
        };
        if !program.words.iter().any(|word| begins(&word)) {
            continue;
        }
        let end = if program.statements { statement_end(text, from) } else { from + line.len() };
        // Comments within are cut off line by line.
        for inner in text[from..end].split_inclusive('\n') {
            let at = inner.as_ptr() as usize - text.as_ptr() as usize;
            let comment = ["#", "//"].iter().filter_map(|mark| inner.find(mark)).min();
            regions.push(at..at + comment.unwrap_or(inner.len()));
        }
        done = end;
    }
    regions
}

/// Behind the semicolon that ends a statement, one in braces not counted.
fn statement_end(text: &str, from: usize) -> usize {
    let mut open = 0usize;
    for (at, c) in text[from..].char_indices() {
        match c {
            '{' => open += 1,
            '}' => open = open.saturating_sub(1),
            ';' if open == 0 => return from + at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Where an address stands as a word of its own: `10.0.5.1` is not in `10.0.5.12`. A port may follow it.
fn places(text: &str, address: &str) -> Vec<Range<usize>> {
    let v6 = address.contains(':');
    let inside = |c: char| c.is_alphanumeric() || c == '.' || c == '_' || c == ':';
    let whole = |at: usize| {
        let before = text[..at].chars().next_back().is_some_and(inside);
        let mut after = text[at + address.len()..].chars();
        let (next, beyond) = (after.next(), after.next());
        let goes_on = match next {
            Some('.') => beyond.is_some_and(char::is_alphanumeric),
            Some(':') => v6,
            Some(c) => c.is_alphanumeric() || c == '_',
            None => false,
        };
        !before && !goes_on
    };
    text.match_indices(address).filter(|(at, _)| whole(*at)).map(|(at, _)| at..at + address.len()).collect()
}
