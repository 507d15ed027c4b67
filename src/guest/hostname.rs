//! The guest's name in `/etc/hostname` (hostname(5)), as `HOSTNAME` in `/etc/sysconfig/network` (where the Red Hat family
//! had it before systemd) and in `/etc/mailname`, if the clone gets another one. Where else a name stands is another
//! module's concern (`hosts`) or the operator's.

use std::ops::Range;
use std::path::Path;

use super::splice::Splices;
use super::sysconfig::Variables;
use super::tree::{Overlay, unfit};
use super::{CloneSpec, GuestError};

const HOSTNAME: &str = "etc/hostname";
const MAILNAME: &str = "etc/mailname";
const SYSCONFIG: &str = "etc/sysconfig/network";

/// The guest's name as `/etc/hostname` has it, else `/etc/sysconfig/network`.
pub(super) fn current(files: &Overlay<'_>) -> Result<Option<String>, GuestError> {
    let text = files.text(Path::new(HOSTNAME))?;
    if let Some((text, range)) = text.as_deref().and_then(|text| Some((text, name(text)?))) {
        return Ok(Some(text[range].to_owned()));
    }
    Ok(sysconfig(files)?.and_then(|file| file.value("HOSTNAME").map(str::to_owned)))
}

/// `/etc/sysconfig/network`, if it has the name.
fn sysconfig(files: &Overlay<'_>) -> Result<Option<Variables>, GuestError> {
    let file = Variables::read(files, Path::new(SYSCONFIG), &["HOSTNAME"])?;
    Ok(file.filter(|file| file.last("HOSTNAME").is_some()))
}

/// Where the name stands: the first word of the first line that is neither empty nor a comment. A backslash at the end of a
/// line means nothing here.
fn name(text: &str) -> Option<Range<usize>> {
    let mut lines = text.split_inclusive('\n').scan(0, |end, line| {
        *end += line.len();
        Some((*end - line.len(), line))
    });
    lines.find_map(|(at, line)| {
        let word = line.split_ascii_whitespace().next().filter(|word| !word.starts_with('#'))?;
        let start = at + line.find(word)?;
        Some(start..start + word.len())
    })
}

/// A name's part before the first dot.
pub(super) fn label(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// What becomes of a word that may be the old name, its first label, or that label in another domain.
pub(super) fn renamed(word: &str, old: &str, new: &str) -> Option<String> {
    if word.eq_ignore_ascii_case(old) {
        return Some(new.to_owned());
    }
    let rest = word.get(label(old).len()..).filter(|rest| rest.is_empty() || rest.starts_with('.'))?;
    let same = word[..label(old).len()].eq_ignore_ascii_case(label(old));
    same.then(|| format!("{}{rest}", label(new)))
}

/// Refuses what is no host name (RFC 1123, and hostname(7): 64 characters at most).
pub(super) fn check(name: &str) -> Result<(), GuestError> {
    let good = |label: &str| {
        let edge = |c: char| c.is_ascii_alphanumeric();
        (1..=63).contains(&label.len())
            && label.starts_with(edge)
            && label.ends_with(edge)
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if name.len() <= 64 && name.split('.').all(good) {
        return Ok(());
    }
    let help = "letters, digits and hyphens, 63 in a label, 64 in all (RFC 1123)";
    Err(unfit(Path::new(HOSTNAME), format!("{name:?} is not a host name"), help))
}

/// Plans the edits of this concern.
pub fn rewrite(edits: &mut Overlay<'_>, spec: &CloneSpec) -> Result<(), GuestError> {
    let Some(new) = &spec.hostname else { return Ok(()) };
    check(new)?;
    let old = current(edits)?;
    let why = format!("hostname {} becomes {new}", old.as_deref().unwrap_or("(none)"));
    let sysconfig = sysconfig(edits)?;
    if let Some((file, setting)) = sysconfig.as_ref().and_then(|file| Some((file, file.last("HOSTNAME")?))) {
        let mut splices = Splices::new(file.text());
        setting.set(&mut splices, new, &why);
        if let Some((text, why)) = splices.finish() {
            edits.set_text(Path::new(SYSCONFIG), text, why)?;
        }
    }
    if old.as_deref() == Some(new) {
        return Ok(());
    }
    for file in [HOSTNAME, MAILNAME] {
        let path = Path::new(file);
        let text = edits.text(path)?.unwrap_or_default();
        let mut splices = Splices::new(&text);
        match (name(&text), &old) {
            (Some(name), _) if file == HOSTNAME => splices.replace(name, new.as_str(), &why),
            (None, _) if file == HOSTNAME && sysconfig.is_some() => {}
            (None, _) if file == HOSTNAME => {
                // A comment may be all there is, without a line end.
                let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
                splices.replace(text.len()..text.len(), format!("{gap}{new}\n"), &why);
            }
            (Some(name), Some(old)) => {
                if let Some(with) = renamed(&text[name.clone()], old, new) {
                    splices.replace(name, with, &why);
                }
            }
            _ => {}
        }
        if let Some((text, why)) = splices.finish() {
            edits.set_text(path, text, why)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::guest::Tree;

    fn rename(files: &[(&str, &str)], new: &str) -> Result<Vec<(String, String)>, GuestError> {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        for (name, text) in files {
            let path = root.path().join("etc").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let tree = Tree::open(root.path()).unwrap();
        let mut edits = Overlay::new(&tree);
        rewrite(&mut edits, &CloneSpec { hostname: Some(new.into()), ..CloneSpec::default() })?;
        let edits = edits.into_edits();
        crate::guest::apply(&tree, &edits).unwrap();
        let read = |path: &Path| std::fs::read_to_string(root.path().join(path)).unwrap();
        Ok(edits.iter().map(|edit| (edit.path.display().to_string(), read(&edit.path))).collect())
    }

    #[test]
    fn hostname_and_mailname_follow() {
        let files = [("hostname", "# ours\nmercure\n"), ("mailname", "mercure.example.org\n")];
        let expected = [("etc/hostname", "# ours\nmercure2\n"), ("etc/mailname", "mercure2.example.org\n")];
        assert_eq!(rename(&files, "mercure2").unwrap(), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn a_mail_domain_stays() {
        let files = [("hostname", "mercure\n"), ("mailname", "example.org\n")];
        assert_eq!(rename(&files, "mercure2").unwrap().len(), 1);
        assert!(rename(&[("hostname", "mercure2\n")], "mercure2").unwrap().is_empty());
    }

    /// initscripts' sysconfig.txt, `/etc/sysconfig/network`: "HOSTNAME=<fqdn by default, but whatever hostname you want>".
    #[test]
    fn sysconfig_has_the_name_before_systemd() {
        let before = "NETWORKING=yes\r\nHOSTNAME='mercure.example.org' # ours\r\nGATEWAY=10.0.5.1\r\n";
        let after = before.replace("mercure", "saturne");
        let expected = [("etc/mailname", "saturne.example.org\n"), ("etc/sysconfig/network", after.as_str())];
        let files = [("sysconfig/network", before), ("mailname", "mercure.example.org\n")];
        let done = rename(&files, "saturne.example.org").unwrap();
        assert_eq!(done, expected.map(|(a, b)| (a.to_owned(), b.to_owned())), "no /etc/hostname is made");
        let both = [("hostname", "mercure\n"), ("sysconfig/network", "HOSTNAME=old.example.org\n")];
        let expected = [("etc/hostname", "saturne\n"), ("etc/sysconfig/network", "HOSTNAME=saturne\n")];
        assert_eq!(rename(&both, "saturne").unwrap(), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(rename(&expected.map(|(path, text)| (&path[4..], text)), "saturne").unwrap().is_empty());
        // Code that may set the name: only a shell could tell.
        let code = [("sysconfig/network", "[ -f /x ] && HOSTNAME=$(cat /x)\n")];
        assert!(
            rename(&code, "saturne").unwrap_err().to_string().starts_with("/etc/sysconfig/network:1: only a shell")
        );
    }

    #[test]
    fn bad_names_are_refused() {
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "a_b", "a..b", "a b", "a\nb", "é", long.as_str()] {
            assert!(check(bad).is_err(), "{bad}");
        }
        for good in ["a", "mercure2", "3com", "a-b.example.org"] {
            check(good).unwrap();
        }
    }
}
