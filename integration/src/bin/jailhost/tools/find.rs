//! `find`, this machine's own, with what FreeBSD's has and GNU's has not: `-flags [+-]FLAGS`, `-x`.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::chflags;
use crate::host::Host;
use crate::say;

const REAL: &str = "/usr/bin/find";

/// The program. `find --has-flags FLAGS FILE`, which is no FreeBSD's, is what it asks itself for each file.
pub fn main(_: &Host, arguments: &[String]) -> u8 {
    if let [own, wanted, file] = arguments
        && own == "--has-flags"
    {
        return u8::from(!has(&chflags::flags(Path::new(file)), wanted));
    }
    let mut real = Command::new(REAL);
    real.arg0("find");
    let mut rest = arguments.iter().peekable();
    // Options, then paths, then the expression, of which GNU's one file system is a part.
    let mut expression = Vec::new();
    while let Some(option) = rest.next_if(|argument| argument.starts_with('-') && argument.len() == 2) {
        match option.as_str() {
            "-x" => expression.push("-xdev"),
            "-H" | "-L" | "-P" => drop(real.arg(option)),
            option => return say::not_played(option),
        }
    }
    while let Some(path) = rest.next_if(|argument| !argument.starts_with(['-', '(', '!'])) {
        real.arg(path);
    }
    real.args(expression);
    // At the end of an expression, as scripts have it, without a process for each file.
    if rest.len() >= 3
        && let [.., flags, wanted, print] = arguments
        && flags == "-flags"
        && print == "-print"
    {
        let begins = arguments.len() - rest.len();
        real.args(&arguments[begins..arguments.len() - 3]).arg("-print0");
        return filtered(real, wanted);
    }
    while let Some(argument) = rest.next() {
        if argument == "-flags" {
            let Some(wanted) = rest.next() else { return say::wrong("-flags: requires additional arguments") };
            // A jail has no /proc.
            let Ok(own) = std::env::current_exe() else { return say::not_played("-flags within, without /proc") };
            real.arg("-exec").arg(&own).args(["find", "--has-flags", wanted, "{}", ";"]);
        } else {
            real.arg(argument);
        }
    }
    say::wrong(&say::reason(&real.exec()))
}

/// Prints of what the real one finds that which has the flags.
fn filtered(mut real: Command, wanted: &str) -> u8 {
    let found = real.stdout(Stdio::piped()).spawn().and_then(|mut child| {
        let names = BufReader::new(child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?);
        for name in names.split(0) {
            let name = name?;
            if has(&chflags::flags(Path::new(OsStr::from_bytes(&name))), wanted) {
                // A reader that has gone ends this one as SIGPIPE does, and the real one with it.
                if say::bytes(&[name.as_slice(), b"\n"].concat()).is_err() {
                    std::process::exit(141);
                }
            }
        }
        child.wait()
    });
    match found {
        Ok(status) => u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
        Err(wrong) => say::wrong(&say::reason(&wrong)),
    }
}

/// `+`: any of them; `-`: all of them and perhaps others; neither: exactly these.
fn has(flags: &[String], wanted: &str) -> bool {
    let is = |name: &str| flags.iter().any(|flag| flag == name);
    let (how, list) = match wanted.split_at_checked(1) {
        Some((how @ ("+" | "-"), list)) => (how, list),
        _ => ("", wanted),
    };
    let mut names = list.split(',').map(|name| match name {
        "simmutable" | "schange" => "schg",
        "uimmutable" | "uchange" => "uchg",
        name => name,
    });
    match how {
        "+" => names.any(is),
        "-" => names.all(is),
        _ => flags.len() == names.clone().count() && names.all(is),
    }
}

#[cfg(test)]
mod tests {
    use super::has;

    #[test]
    fn any_all_or_exactly() {
        let flags = ["nodump".to_owned(), "schg".to_owned()];
        assert!(has(&flags, "+schg,uchg") && has(&flags, "-schg") && !has(&flags, "-schg,uchg"));
        assert!(has(&flags, "schg,nodump") && !has(&flags, "schg") && !has(&[], "+schg"));
    }
}
