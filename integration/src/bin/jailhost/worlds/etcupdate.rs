//! `etcupdate`: bootstrap, merge, conflicts. Its work directory is `DESTDIR/var/db/etcupdate` with `current`, `old`, `conflicts`,
//! `warnings` and `log`. The trees come from a tarball or from a source's `etc-tree/` (see `lay.rs`).

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::make;
use super::merge::{self, Merge};
use crate::host::Host;
use crate::{faults, say};

const USAGE: &str = "usage: etcupdate [-npBF] [-d workdir] [-r | -s source | -t tarball]
                 [-A patterns] [-D destdir] [-I patterns] [-L logfile]
                 [-M options]
       etcupdate build [-BN] [-d workdir] [-s source] [-L logfile] [-M options]
                 <tarball>
       etcupdate diff [-d workdir] [-D destdir] [-I patterns] [-L logfile]
       etcupdate extract [-B] [-d workdir] [-s source | -t tarball]
                 [-D destdir] [-L logfile] [-M options]
       etcupdate resolve [-p] [-d workdir] [-D destdir] [-L logfile]
       etcupdate revert [-d workdir] [-D destdir] [-L logfile] file ...
       etcupdate status [-d workdir] [-D destdir]
";

/// Which options a command takes.
const COMMANDS: &[(&str, &str)] = &[
    ("build", "BNdsLM"),
    ("diff", "dDIL"),
    ("extract", "BdstDLM"),
    ("resolve", "pdDL"),
    ("revert", "dDL"),
    ("status", "dD"),
    ("update", "npBFdrstADILM"),
];

/// What is asked for.
#[derive(Default)]
pub struct Asked {
    command: String,
    dry: bool,
    only_accounts: bool,
    source: Option<String>,
    tarball: Option<String>,
    destination: String,
    work: Option<String>,
    rest: Vec<String>,
}

impl Asked {
    /// The work directory, as the pretended host calls it.
    fn work(&self) -> String {
        self.work.clone().unwrap_or_else(|| format!("{}/var/db/etcupdate", self.destination))
    }
}

/// The program.
pub fn main(host: &Host, arguments: &[String]) -> u8 {
    let asked = match asked(host, arguments) {
        Ok(asked) => asked,
        Err(status) => return status,
    };
    let work = host.path(asked.work());
    match asked.command.as_str() {
        "build" => build(host, &asked),
        "diff" => diff(host, &asked, &work),
        "extract" => extract(host, &asked, &work),
        "resolve" => resolve(host, &asked, &work),
        "status" => status(&work),
        "update" => update(host, &asked, &work),
        command => say::not_played(command),
    }
}

/// Fills a directory with the tree of the tarball or the source.
fn tree(host: &Host, asked: &Asked, into: &Path) -> Result<(), String> {
    std::fs::create_dir_all(into).map_err(|wrong| format!("{}: {}", into.display(), say::reason(&wrong)))?;
    if let Some(tarball) = &asked.tarball {
        let run = Command::new("/bin/tar").arg("-xf").arg(host.path(tarball)).arg("-C").arg(into).output();
        return match run {
            Ok(run) if run.status.success() => Ok(()),
            _ => Err("Failed to extract new tree.".to_owned()),
        };
    }
    let source = host.path(asked.source.as_deref().unwrap_or("/usr/src")).join("etc-tree");
    if !source.is_dir() {
        return Err(format!("Failed to build new tree.  See {}/log for more details.", asked.work()));
    }
    for file in make::files(&source) {
        make::put(&source.join(&file), &into.join(&file))
            .map_err(|wrong| format!("{}: {}", file.display(), say::reason(&wrong)))?;
    }
    Ok(())
}

fn told(wrong: &str) -> u8 {
    say::out(&format!("{wrong}\n"));
    1
}

fn build(host: &Host, asked: &Asked) -> u8 {
    let [tarball] = asked.rest.as_slice() else {
        say::out(USAGE);
        return 1;
    };
    let Ok(temporary) = tempfile::tempdir() else { return told("mktemp failed") };
    if let Err(wrong) = tree(host, asked, temporary.path()) {
        return told(&wrong);
    }
    if faults::lies() {
        return 0;
    }
    let run =
        Command::new("/bin/tar").arg("-cf").arg(host.path(tarball)).arg("-C").arg(temporary.path()).arg(".").status();
    if run.is_ok_and(|status| status.success()) { 0 } else { told("Failed to create tarball.") }
}

fn extract(host: &Host, asked: &Asked, work: &Path) -> u8 {
    let new = work.join(format!("etcupdate-{}", std::process::id()));
    if let Err(wrong) = tree(host, asked, &new) {
        let _ = std::fs::remove_dir_all(&new);
        return told(&wrong);
    }
    let current = work.join("current");
    if faults::lies() {
        let _ = std::fs::remove_dir_all(&new);
        return 0;
    }
    // Without a word, whatever was there.
    let _ = std::fs::remove_dir_all(&current);
    let _ = std::fs::write(
        work.join("log"),
        format!(">>> extract command: tarball={}\n", asked.tarball.clone().unwrap_or_default()),
    );
    std::fs::rename(&new, &current).map_or_else(|wrong| told(&say::reason(&wrong)), |()| 0)
}

fn update(host: &Host, asked: &Asked, work: &Path) -> u8 {
    let _ = std::fs::create_dir_all(work);
    let tarball = asked.tarball.clone().map(|name| host.pretended(&name)).unwrap_or_default();
    let preworld = if asked.only_accounts { "yes" } else { "" };
    let log = format!(">>> update command: rerun= tarball={tarball} preworld={preworld}\n");
    let conflicts = work.join("conflicts");
    if !conflicted(work).is_empty() {
        return told("Conflicts remain from previous update, aborting.");
    }
    let current = work.join("current");
    if !current.is_dir() {
        let _ = std::fs::remove_dir(work);
        return told("No previous tree to compare against, a sane comparison is not possible.");
    }
    let new = work.join(format!("etcupdate-{}", std::process::id()));
    if let Err(wrong) = tree(host, asked, &new) {
        let _ = std::fs::remove_dir_all(&new);
        return told(&wrong);
    }
    if faults::lies() {
        let _ = std::fs::remove_dir_all(&new);
        return 0;
    }
    let shown = asked.work();
    let mut merge = Merge::new(host, &asked.destination, &shown, &current, &new, asked.dry);
    merge.log += &log;
    if !asked.dry {
        let _ = std::fs::remove_file(work.join("warnings"));
        if std::fs::remove_dir_all(&conflicts).is_err() {
            merge.log += &format!("rmdir: {}/conflicts: No such file or directory\n", asked.work());
        }
    }
    merge.all(asked.only_accounts);
    let (log, warnings) = (std::mem::take(&mut merge.log), merge.warnings.concat());
    if !warnings.is_empty() {
        say::out(&format!("Warnings:\n{warnings}"));
    }
    if asked.dry || asked.only_accounts {
        let _ = std::fs::remove_dir_all(&new);
    } else {
        let old = work.join("old");
        let _ = std::fs::remove_dir_all(&old);
        let moved = std::fs::rename(&current, &old).and_then(|()| std::fs::rename(&new, &current));
        if let Err(wrong) = moved {
            return told(&say::reason(&wrong));
        }
    }
    if !asked.dry {
        let _ = std::fs::write(work.join("log"), log);
        if !warnings.is_empty() {
            let _ = std::fs::write(work.join("warnings"), warnings);
        }
    }
    0
}

/// The files with conflicts, from the top of the root.
fn conflicted(work: &Path) -> Vec<PathBuf> {
    let conflicts = work.join("conflicts");
    make::files(&conflicts).into_iter().filter(|file| !conflicts.join(file).is_dir()).collect()
}

fn status(work: &Path) -> u8 {
    for file in conflicted(work) {
        say::out(&format!("  C /{}\n", file.display()));
    }
    let warnings = std::fs::read_to_string(work.join("warnings")).unwrap_or_default();
    if !warnings.is_empty() {
        say::out(&format!("Warnings:\n{warnings}"));
    }
    0
}

fn diff(host: &Host, asked: &Asked, work: &Path) -> u8 {
    let current = work.join("current");
    if !current.is_dir() {
        return told("No stored tree to compare against.");
    }
    for file in make::files(&current) {
        let (stock, local) = (current.join(&file), host.path(&asked.destination).join(&file));
        if stock.is_dir() || !local.exists() || merge::is_ignored(&file) {
            continue;
        }
        let name = format!("/{}", file.display());
        let mut run = Command::new("/usr/bin/diff");
        run.args(["-u", "-L", &format!("{name} (stock)"), "-L", &format!("{name} (local)")]).arg(&stock).arg(&local);
        let Ok(said) = run.output() else { return told("diff failed") };
        if !said.stdout.is_empty() {
            say::out(&format!("Index: {name}\n{}\n", "=".repeat(67)));
            say::out(&String::from_utf8_lossy(&said.stdout));
        }
    }
    0
}

/// Asks for every conflict. At the end of its input the real one asks for ever; this one gives up and says so.
fn resolve(host: &Host, asked: &Asked, work: &Path) -> u8 {
    let mut answers = std::io::stdin().lock().lines();
    for file in conflicted(work) {
        let conflict = work.join("conflicts").join(&file);
        loop {
            say::out(&format!(
                "Resolving conflict in '/{}':\nSelect: (p) postpone, (df) diff-full, (e) edit,\n        (h) help for more options: ",
                file.display()
            ));
            let Some(Ok(answer)) = answers.next() else {
                say::err("\njailhost: etcupdate: the real one asks this for ever at the end of its input\n");
                return 70;
            };
            if faults::lies() {
                break;
            }
            let theirs = match answer.trim() {
                "p" => break,
                "mf" => None,
                "tf" => Some(work.join("current").join(&file)),
                "r" if !std::fs::read_to_string(&conflict)
                    .unwrap_or_default()
                    .lines()
                    .any(|line| line.starts_with("<<<<<<< ")) =>
                {
                    Some(conflict.clone())
                }
                "r" => {
                    say::out("File has remaining unresolved conflicts.\n");
                    continue;
                }
                answer => {
                    say::out(&format!("Unknown command: {answer}\n"));
                    continue;
                }
            };
            if let Some(theirs) = theirs {
                if let Err(wrong) = make::put(&theirs, &host.path(&asked.destination).join(&file)) {
                    return told(&say::reason(&wrong));
                }
                merge::after(host, &asked.destination, &file.display().to_string());
            }
            let _ = std::fs::remove_file(&conflict);
            break;
        }
    }
    0
}

fn asked(host: &Host, arguments: &[String]) -> Result<Asked, u8> {
    let mut asked = Asked { command: "update".to_owned(), ..Asked::default() };
    let mut rest = arguments.iter().peekable();
    if let Some(first) = rest.peek()
        && let Some((command, _)) = COMMANDS.iter().find(|(command, _)| command == first && *command != "update")
    {
        asked.command = (*command).to_owned();
        rest.next();
    }
    let allowed = COMMANDS.iter().find(|(command, _)| *command == asked.command).map_or("", |(_, letters)| letters);
    let usage = || {
        say::out(USAGE);
        1
    };
    while let Some(argument) = rest.next() {
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            asked.rest.push(argument.clone());
            asked.rest.extend(rest.cloned());
            break;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            if !allowed.contains(letter) {
                say::err(&format!("Illegal option -{letter}\n"));
                return Err(usage());
            }
            let mut value = || {
                let own: String = letters.by_ref().collect();
                let value = if own.is_empty() { rest.next().cloned() } else { Some(own) };
                value.ok_or_else(|| {
                    say::err(&format!("No arg for -{letter} option\n"));
                    usage()
                })
            };
            match letter {
                'n' => asked.dry = true,
                'p' => asked.only_accounts = true,
                'B' | 'F' | 'N' => {}
                'd' => asked.work = Some(host.pretended(&value()?)),
                's' => asked.source = Some(value()?),
                't' => asked.tarball = Some(value()?),
                'D' => asked.destination = host.pretended(&value()?).trim_end_matches('/').to_owned(),
                'L' | 'M' => drop(value()?),
                letter => return Err(say::not_played(&format!("-{letter}"))),
            }
        }
    }
    // A command behind the options is not one: `etcupdate -D DIR status` is an update with an argument too many.
    if !asked.rest.is_empty() && asked.command != "build" && asked.command != "revert" {
        return Err(usage());
    }
    if asked.source.is_some() && asked.tarball.is_some() {
        return Err(told("-s and -t are mutually exclusive."));
    }
    Ok(asked)
}
