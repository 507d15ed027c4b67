//! A directory of one machine mirrored into a tree on another, neither of which reaches the other: rsync(1) on both, and its two streams
//! through us.
//!
//! rsync on the target is given a remote shell that starts nothing: it says what it would start there, and hands its streams on by two
//! descriptors that are our stream's ends. What it said is started on the source.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, copy, sink};

use crate::host::{Command, Output, printable};
use crate::{Cause, Error, Host, Result};

/// Most words that rsync starts its other end with, and most bytes of one.
const WORDS: (usize, u64) = (64, 4096);

/// What rsync takes for its remote shell. Its first argument is the machine.
const SHELL: &str = "#!/bin/sh\nshift\nprintf '%s\\n' $# >&4\nfor a do printf '%s\\n' \"$a\" >&4; done\nexec 5<&0\ncat <&5 >&4 &\np=$!\ncat <&3\nkill $p 2>/dev/null\nexit 0\n";

/// Arguments: tree, directory in it, file of the shell, path on the source, then options. Status 98: a link on the way, 97: no directory.
/// The tree's jail is stopped, so that nothing of it changes meanwhile.
const MIRROR: &str = "r=$1 d=$2 e=$3 s=$4; shift 4; p=$r; set -f; o=$IFS; IFS=/; for c in $d; do p=\"$p/$c\"; test -L \"$p\" && exit 98; test -d \"$p\" || exit 97; done; \
    IFS=$o; exec 3<&0 4>&1; exec rsync --blocking-io -e \"sh $e\" \"$@\" -- \"source:$s/\" \"$p/\" </dev/null >&2";

/// What is mirrored.
#[derive(Clone, Copy, Debug)]
pub struct Mirror<'a> {
    /// Directory on the source, absolute.
    pub from: &'a str,
    /// The tree on the target.
    pub root: &'a Path,
    /// The directory in it, without leading slash.
    pub below: &'a str,
    /// rsync exclude patterns.
    pub exclude: &'a [String],
    /// Where the target keeps what is deleted or replaced there.
    pub backup: Option<&'a str>,
    /// A file of the target that the shell is written to.
    pub shell: &'a Path,
    /// With ACLs, extended attributes and holes: a system's own tree, between two Linux machines.
    pub whole: bool,
}

/// Mirrors a directory: one file system, numeric ids, hard links; what the source has not is deleted. What rsync tells of it at its end
/// (`--stats`). Files that vanished meanwhile are an error unless `living`.
///
/// # Errors
/// rsync is missing on either side, or fails; a link leads out of the tree; the link was lost.
pub async fn mirror(source: &dyn Host, target: &dyn Host, what: &Mirror<'_>, living: bool) -> Result<String> {
    let from = if what.from.is_empty() { "/" } else { what.from };
    let doing = format!("mirror {from} of {} to {}", source.name(), what.root.join(what.below).display());
    target.write_file(what.shell, SHELL.as_bytes(), 0o700).await?;
    let mut words: Vec<String> = ["sh", "-c", MIRROR, "sh"].map(str::to_owned).to_vec();
    let paths = [what.root.to_string_lossy(), what.below.into(), what.shell.to_string_lossy(), what.from.into()];
    words.extend(paths.into_iter().map(std::borrow::Cow::into_owned));
    let how = if what.whole { "-aHAXSx" } else { "-aHx" };
    words.extend([how, "--numeric-ids", "--delete", "--stats"].map(str::to_owned));
    words.extend(
        what.backup
            .map(|aside| format!("--backup-dir={aside}"))
            .into_iter()
            .chain(what.backup.map(|_| "--backup".to_owned())),
    );
    words.extend(what.exclude.iter().map(|pattern| format!("--exclude={pattern}")));
    let patience = Duration::from_secs(24 * 3600);
    let command = Command::new(words).timeout(patience);
    let receiving = target.stream(&command).await?;
    let mut said = BufReader::new(receiving.stdout);
    let wanted = match wanted(&mut said).await.map_err(|error| Error::io(&*doing, error))? {
        Some(wanted) => wanted,
        // It has ended before it began.
        None => {
            drop((said, receiving.stdin));
            let output = receiving.running.ended(|_| ()).await?;
            return Err(failed(&doing, &output, &command, target.name()));
        }
    };
    if !is_sender_of(&wanted, what.from, what.backup) {
        let line = printable(&wanted.join(" "));
        return Err(Error::new(doing, Cause::Malformed(format!("rsync of {} asked for {line}", target.name()))));
    }
    let sending = source.stream(&Command::new(wanted).timeout(patience)).await?;
    let (mut to_target, mut to_source, mut from_source) = (receiving.stdin, sending.stdin, sending.stdout);
    // Each pipe ends when its end here is dropped. An end that went away is told by its status.
    // What it still gets is read on: the last words of a sender are for nobody.
    let there = async move {
        if copy(&mut from_source, &mut to_target).await.is_err() {
            let _ = copy(&mut from_source, &mut sink()).await;
        }
    };
    let back = async move {
        if copy(&mut said, &mut to_source).await.is_err() {
            let _ = copy(&mut said, &mut sink()).await;
        }
    };
    let ((), (), sent, received) =
        tokio::join!(there, back, sending.running.ended(|_| ()), receiving.running.ended(|_| ()));
    let (sent, received) = (sent?, received?);
    // 24: files vanished, which is natural while the source lives.
    let sound = |status: i32| status == 0 || (status == 24 && living);
    // Whoever is told of a broken pipe (10, 12) has lost the other, which knows why.
    let lost = |output: &Output| matches!(output.status, 10 | 12);
    let (first, second) = match lost(&sent) && !lost(&received) {
        true => ((&received, target.name()), (&sent, source.name())),
        false => ((&sent, source.name()), (&received, target.name())),
    };
    for (output, name) in [first, second] {
        if !sound(output.status) {
            return Err(failed(&doing, output, &command, name));
        }
    }
    Ok(String::from_utf8_lossy(&received.stderr).into_owned())
}

/// Whether these words start the end of rsync that sends this directory, and do nothing else: the target says them, and they are run on
/// the source. One word of short options, without `s` (which lets more come by the stream) before the `e` of what is told of versions.
fn is_sender_of(words: &[String], from: &str, backup: Option<&str>) -> bool {
    let [program, server, sender, options @ .., dot, path] = words else { return false };
    let short = |word: &String| {
        let letters = word.strip_prefix('-').unwrap_or_default();
        let own = letters.split('e').next().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
        !letters.is_empty() && letters.chars().all(plain) && !own.contains('s')
    };
    // It is told where the target keeps what it replaces, and does nothing with it.
    let aside = |word: &String| backup.is_some_and(|aside| word == "--backup-dir" || word == aside);
    let long = |word: &String| word == "--numeric-ids" || word == "--delete" || aside(word);
    (program, server, sender, dot)
        == (&"rsync".to_owned(), &"--server".to_owned(), &"--sender".to_owned(), &".".to_owned())
        && *path == format!("{from}/")
        && options.iter().filter(|word| short(word)).count() <= 1
        && options.iter().all(|word| short(word) || long(word))
}

/// What the remote shell says that it would start: how many words, and each in a line. `None`: it says nothing.
async fn wanted(said: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> std::io::Result<Option<Vec<String>>> {
    let mut words = Vec::new();
    let mut count = None;
    while count.is_none_or(|count| words.len() < count) {
        let mut line = String::new();
        if said.take(WORDS.1).read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let line = line.trim_end_matches('\n');
        match count {
            Some(_) => words.push(line.to_owned()),
            None => {
                count =
                    Some(line.parse().ok().filter(|count| *count <= WORDS.0).ok_or(std::io::ErrorKind::InvalidData)?)
            }
        }
    }
    Ok(Some(words))
}

fn failed(doing: &str, output: &Output, command: &Command, name: &str) -> Error {
    match output.status {
        98 => Error::refused(doing, "a link in the tree leads somewhere else")
            .help("put directories in the place of the links there"),
        97 => Error::not_found(doing, "the directory is not in the tree").help("make it there, or mend the rule"),
        127 => Error::not_found(doing, format!("{name} has no rsync")).help("install it there"),
        _ => match output.clone().checked(format!("{doing} ({name})"), command) {
            Err(error) => error,
            Ok(_) => Error::unknown(doing, format!("rsync of {name} ended before it began")),
        },
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::host::LocalHost;

    #[test]
    fn nothing_but_the_directory_is_sent() {
        let is = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            is_sender_of(&words, "/var/spool/mqueue", Some("/var/db/aside"))
        };
        assert!(is("rsync --server --sender -lHogDtprxe.iLsfxCIvu --numeric-ids . /var/spool/mqueue/"));
        assert!(is(
            "rsync --server --sender -blHogDtprxe.iLsfxCIvu --backup-dir /var/db/aside --numeric-ids . /var/spool/mqueue/"
        ));
        for other in [
            "rsync --server --sender -logDtpr . /etc/",
            "rsync --server --sender -logDtpr --backup-dir /etc . /var/spool/mqueue/",
            "rsync --server --sender -logDtprs . /var/spool/mqueue/",
            "rsync --server --sender -logDtpr --log-file=/etc/x . /var/spool/mqueue/",
            "rsync --server --sender -logDtpr --remove-source-files . /var/spool/mqueue/",
            "rsync --server -logDtpr . /var/spool/mqueue/",
            "rsync --server --sender -r -e . /var/spool/mqueue/",
            "sh -c x . /var/spool/mqueue/",
            "rsync --server --sender -r /etc/ . /var/spool/mqueue/",
        ] {
            assert!(!is(other), "{other}");
        }
    }

    #[tokio::test]
    async fn a_directory_is_mirrored_through_us() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("server/spool/sub")).unwrap();
        fs::create_dir_all(at("jails/A/var/spool/old")).unwrap();
        fs::write(at("server/spool/one"), vec![7_u8; 3 << 20]).unwrap();
        fs::hard_link(at("server/spool/one"), at("server/spool/sub/two")).unwrap();
        fs::write(at("server/spool/skipped.pid"), "x").unwrap();
        fs::write(at("jails/A/var/spool/old/gone"), "x").unwrap();
        let (source, target) = (LocalHost::new("ServerA"), LocalHost::new("jailhost"));
        let (from, root, shell) = (at("server/spool"), at("jails/A"), at("shell"));
        let exclude = ["*.pid".to_owned()];
        let from = from.to_str().unwrap();
        let what = Mirror {
            from,
            root: &root,
            below: "var/spool",
            exclude: &exclude,
            backup: None,
            shell: &shell,
            whole: false,
        };
        let told = mirror(&source, &target, &what, false).await.unwrap();
        assert!(told.contains("Number of regular files transferred: 1"), "{told}");
        let copy = |name: &str| fs::metadata(at("jails/A/var/spool").join(name)).unwrap();
        assert_eq!((copy("one").len(), copy("one").ino()), (3 << 20, copy("sub/two").ino()));
        assert!(!at("jails/A/var/spool/old").exists() && !at("jails/A/var/spool/skipped.pid").exists());
        let told = mirror(&source, &target, &what, false).await.unwrap();
        assert!(told.contains("Number of regular files transferred: 0"), "{told}");

        // What is replaced or deleted is laid aside.
        fs::write(at("jails/A/var/spool/sent"), "x").unwrap();
        let aside = at("aside").to_string_lossy().into_owned();
        let kept = Mirror { backup: Some(&aside), ..what };
        mirror(&source, &target, &kept, false).await.unwrap();
        assert!(at("aside/sent").exists() && !at("jails/A/var/spool/sent").exists());

        let none = Mirror { below: "var/none", ..what };
        assert!(matches!(mirror(&source, &target, &none, false).await.unwrap_err().cause, Cause::NotFound(_)));
        symlink(place.path(), at("jails/A/out")).unwrap();
        let out = Mirror { below: "out/server", ..what };
        assert!(matches!(mirror(&source, &target, &out, false).await.unwrap_err().cause, Cause::Refused(_)));
        let missing = Mirror { from: "/none/of/that", ..what };
        let error = mirror(&source, &target, &missing, false).await.unwrap_err();
        assert!(error.to_string().contains("ServerA") && at("jails/A/var/spool/one").exists(), "{error}");
    }

    #[tokio::test]
    async fn what_the_shell_says_is_bounded() {
        let read = async |text: &str| wanted(&mut text.as_bytes()).await;
        assert_eq!(read("2\nrsync\n--server\nrest").await.unwrap().unwrap(), ["rsync", "--server"]);
        assert_eq!(read("2\nrsync\n").await.unwrap(), None);
        assert_eq!(read("").await.unwrap(), None);
        assert!(read("99999\n").await.is_err() && read("x\n").await.is_err());
    }
}
