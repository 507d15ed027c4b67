//! The command line of FreeBSD's `dump`.

use crate::host::Host;
use crate::say;

const USAGE: &str = "usage: dump [-0123456789acLnSu] [-B records] [-b blocksize] [-C cachesize]
            [-D dumpdates] [-d density] [-f file | -P pipecommand] [-h level]
            [-s feet] [-T date] filesystem
       dump -W | -w
";

/// Before 5 there are no snapshots and no -L, -C, -D, -P. Unproven.
const OLD_USAGE: &str = "usage: dump [-0123456789acknSu] [-B records] [-b blocksize] [-d density] [-f file]
            [-h level] [-s feet] [-T date] filesystem
       dump [-W | -w]
";

/// What is asked for.
#[derive(Default)]
pub struct Asked {
    /// `-0` to `-9`.
    pub level: u8,
    /// `-a`.
    pub auto: bool,
    /// `-L`.
    pub snapshot: bool,
    /// `-S`.
    pub size_only: bool,
    /// `-u`.
    pub update: bool,
    /// `-C`, MB.
    pub cache: Option<u64>,
    /// `-D`.
    pub dates: Option<String>,
    /// `-f`.
    pub file: Option<String>,
    /// `-P`.
    pub pipe: Option<String>,
    /// `-h`.
    pub honor: Option<u8>,
    /// `-T`.
    pub since: Option<String>,
    /// `-b`, KiB.
    pub block: Option<String>,
    /// A device or a mount point.
    pub what: String,
}

/// Reads it; an error is the exit status.
pub fn asked(host: &Host, arguments: &[String]) -> Result<Asked, u8> {
    let is_old = host.persona.major() < 5;
    let usage = if is_old { OLD_USAGE } else { USAGE };
    let mut asked = Asked::default();
    if arguments.is_empty() {
        say::err(usage);
        return Err(1);
    }
    let mut rest = arguments.iter();
    let mut what = None;
    while let Some(argument) = rest.next() {
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            what = Some(argument.clone());
            break;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            if is_old && "LCDP".contains(letter) {
                return Err(say::illegal(letter, usage));
            }
            let mut value = || {
                let own: String = letters.by_ref().collect();
                let value = if own.is_empty() { rest.next().cloned() } else { Some(own) };
                value.ok_or_else(|| {
                    say::err(&format!("dump: option requires an argument -- {letter}\n{usage}"));
                    1
                })
            };
            match letter {
                '0'..='9' => asked.level = letter as u8 - b'0',
                'a' => asked.auto = true,
                'c' | 'n' => {}
                'L' => asked.snapshot = true,
                'S' => asked.size_only = true,
                'u' => asked.update = true,
                'C' => asked.cache = Some(value()?.parse().map_err(|_| say::wrong("illegal cachesize"))?),
                'D' => asked.dates = Some(value()?),
                'f' => asked.file = Some(value()?),
                'P' => asked.pipe = Some(value()?),
                'h' => asked.honor = Some(value()?.parse().map_err(|_| say::wrong("illegal honor level"))?),
                'T' => asked.since = Some(value()?),
                'b' => asked.block = Some(value()?),
                'B' | 'd' | 's' => drop(value()?),
                'W' | 'w' => return Err(say::not_played(&format!("-{letter}"))),
                letter => return Err(say::illegal(letter, usage)),
            }
        }
    }
    asked.what = what.ok_or_else(|| {
        say::err("Must specify disk or file system\n");
        1
    })?;
    if rest.next().is_some() {
        say::err("dump: unknown arguments to dump\n");
        return Err(1);
    }
    if asked.since.is_some() && asked.update {
        say::err("You cannot use the T and u flags together.\n");
        return Err(1);
    }
    if asked.file.is_none() && asked.pipe.is_none() && !asked.size_only {
        return Err(say::not_played("a tape (no -f)"));
    }
    Ok(asked)
}
