//! `find`, this machine's own, with what FreeBSD's has and GNU's has not: `-flags [+-]FLAGS`, `-x`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::chflags;
use crate::host::Host;
use crate::say;

const REAL: &str = "/usr/bin/find";

/// The program. `find --has-flags FLAGS FILE`, which is no FreeBSD's, is what it asks itself for each file.
pub fn main(_: &Host, arguments: &[String]) -> u8 {
    if let [own, wanted, file] = arguments
        && own == "--has-flags"
    {
        return u8::from(!has(&chflags::flags(std::path::Path::new(file)), wanted));
    }
    let Ok(own) = std::env::current_exe() else { return say::not_played("find without /proc") };
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
    while let Some(argument) = rest.next() {
        if argument == "-flags" {
            let Some(wanted) = rest.next() else { return say::wrong("-flags: requires additional arguments") };
            real.arg("-exec").arg(&own).args(["find", "--has-flags", wanted, "{}", ";"]);
        } else {
            real.arg(argument);
        }
    }
    say::wrong(&say::reason(&real.exec()))
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
