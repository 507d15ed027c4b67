//! `pwd_mkdb`, `cap_mkdb`, `services_mkdb`, `newaliases`. A database here is the text that it was made of under a first
//! line that says so: whether one is up to date can be seen.

use std::path::Path;

use crate::host::Host;
use crate::{faults, say};

const HEAD: &str = "jailhost database\n";

fn make(database: &Path, text: &str) -> Result<(), String> {
    if faults::lies() {
        return Ok(());
    }
    std::fs::write(database, format!("{HEAD}{text}"))
        .map_err(|wrong| format!("{}: {}", database.display(), say::reason(&wrong)))
}

/// `pwd_mkdb [-p] [-d DIRECTORY] FILE`.
pub fn pwd_mkdb(host: &Host, arguments: &[String]) -> u8 {
    const USAGE: &str = "usage: pwd_mkdb [-BCiLNp] [-d directory] [-s cachesize] [-u username] file\n";
    let (mut old_format, mut check, mut directory, mut file) = (false, false, "/etc".to_owned(), None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-p" => old_format = true,
            "-C" => check = true,
            "-N" | "-i" => {}
            "-d" => directory = rest.next().cloned().unwrap_or_default(),
            option @ ("-B" | "-L" | "-s" | "-u") => return say::not_played(option),
            option if option.starts_with('-') => return say::illegal(option.chars().nth(1).unwrap_or('-'), USAGE),
            name => file = Some(name.to_owned()),
        }
    }
    let Some(file) = file else {
        say::err(USAGE);
        return 1;
    };
    let text = match host.read(&file) {
        Ok(text) => text,
        Err(wrong) => return say::wrong(&format!("{file}: {}", say::reason(&wrong))),
    };
    let entries = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    for (at, line) in entries.clone() {
        let fields: Vec<&str> = line.split(':').collect();
        let numbers = fields
            .get(2)
            .zip(fields.get(3))
            .is_some_and(|(uid, gid)| uid.parse::<u32>().is_ok() && gid.parse::<u32>().is_ok());
        if fields.len() != 10 || !(numbers || line.starts_with('+')) {
            say::err(&format!("pwd_mkdb: corrupted entry\npwd_mkdb: at line #{}\n", at + 1));
            return say::wrong(&format!("{file}: Inappropriate file type or format"));
        }
    }
    if check || faults::lies() {
        return 0;
    }
    let into = host.path(&directory);
    let mut written = make(&into.join("pwd.db"), &text).and_then(|()| make(&into.join("spwd.db"), &text));
    if old_format {
        let old: String = entries
            .map(|(_, line)| {
                let fields: Vec<&str> = line.split(':').collect();
                let password = if fields[1].is_empty() { "" } else { "*" };
                format!(
                    "{}:{password}:{}:{}:{}:{}:{}\n",
                    fields[0], fields[2], fields[3], fields[7], fields[8], fields[9]
                )
            })
            .collect();
        written = written.and_then(|()| std::fs::write(into.join("passwd"), old).map_err(|wrong| wrong.to_string()));
    }
    let master = into.join("master.passwd");
    if host.path(&file) != master {
        written = written.and_then(|()| std::fs::rename(host.path(&file), &master).map_err(|wrong| wrong.to_string()));
    }
    written.map_or_else(|wrong| say::wrong(&wrong), |()| 0)
}

/// `cap_mkdb FILE`.
pub fn cap_mkdb(host: &Host, arguments: &[String]) -> u8 {
    let (mut output, mut file) = (None, None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-f" => output = rest.next().cloned(),
            "-v" | "-b" | "-l" => {}
            option if option.starts_with('-') => {
                return say::illegal(
                    option.chars().nth(1).unwrap_or('-'),
                    "usage: cap_mkdb [-b | -l] [-v] [-f outfile] file ...\n",
                );
            }
            name => file = Some(name.to_owned()),
        }
    }
    let Some(file) = file else {
        say::err("usage: cap_mkdb [-b | -l] [-v] [-f outfile] file ...\n");
        return 1;
    };
    let into = host.path(format!("{}.db", output.unwrap_or_else(|| file.clone())));
    let text = host.read(&file).map_err(|wrong| format!("{file}: {}", say::reason(&wrong)));
    text.and_then(|text| make(&into, &text)).map_or_else(|wrong| say::wrong(&wrong), |()| 0)
}

/// `services_mkdb [-q] [-o DATABASE] [FILE]`.
pub fn services_mkdb(host: &Host, arguments: &[String]) -> u8 {
    let (mut output, mut file) = ("/var/db/services.db".to_owned(), "/etc/services".to_owned());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-o" => output = rest.next().cloned().unwrap_or_default(),
            "-q" => {}
            option if option.starts_with('-') => return say::not_played(option),
            name => file = name.to_owned(),
        }
    }
    let text = host.read(&file).map_err(|wrong| format!("{file}: {}", say::reason(&wrong)));
    text.and_then(|text| make(&host.path(&output), &text)).map_or_else(|wrong| say::wrong(&wrong), |()| 0)
}

/// `newaliases`: of this host's, or within a jail of its.
pub fn newaliases(host: &Host, arguments: &[String]) -> u8 {
    if !arguments.is_empty() {
        return say::not_played("arguments");
    }
    // A host without mail has nothing to do.
    let Ok(text) = host.read("/etc/mail/aliases") else { return 0 };
    make(&host.path("/etc/mail/aliases.db"), &text).map_or_else(|wrong| say::wrong(&wrong), |()| 0)
}
