//! Versions as rpm compares them: `rpmvercmp` (rpm's `rpmio/rpmvercmp.c`), and epoch, version and release in that order. Pure.

use std::cmp::Ordering;

/// Compares two versions or releases: runs of digits as numbers, runs of letters as text, a number after letters; `~` sorts before
/// everything, even the end, and `^` after the end but before anything else. What else stands between is passed over.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        a = a.trim_start_matches(between);
        b = b.trim_start_matches(between);
        match (a.strip_prefix('~'), b.strip_prefix('~')) {
            (Some(rest_a), Some(rest_b)) => {
                (a, b) = (rest_a, rest_b);
                continue;
            }
            (Some(_), None) => return Ordering::Less,
            (None, Some(_)) => return Ordering::Greater,
            (None, None) => {}
        }
        match (a.strip_prefix('^'), b.strip_prefix('^')) {
            (Some(rest_a), Some(rest_b)) => {
                (a, b) = (rest_a, rest_b);
                continue;
            }
            (Some(_), None) => return if b.is_empty() { Ordering::Greater } else { Ordering::Less },
            (None, Some(_)) => return if a.is_empty() { Ordering::Less } else { Ordering::Greater },
            (None, None) => {}
        }
        if a.is_empty() || b.is_empty() {
            // Whatever is left decides.
            return a.len().cmp(&b.len());
        }
        let digits = a.starts_with(|c: char| c.is_ascii_digit());
        let run = |text: &str| {
            let end = text.find(|c: char| if digits { !c.is_ascii_digit() } else { !c.is_ascii_alphabetic() });
            end.unwrap_or(text.len())
        };
        let ((one, rest_a), (other, rest_b)) = (a.split_at(run(a)), b.split_at(run(b)));
        if other.is_empty() {
            return if digits { Ordering::Greater } else { Ordering::Less };
        }
        let order = match digits {
            true => {
                let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
                one.len().cmp(&other.len()).then_with(|| one.cmp(other))
            }
            false => one.cmp(other),
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

fn between(c: char) -> bool {
    !c.is_ascii_alphanumeric() && c != '~' && c != '^'
}

/// Compares kernel releases as `uname -r` says them (`2.6.18-238.9.1.el5`, `5.14.0-70.el9.x86_64`, `2.6.9-5.ELsmp`): the version, then
/// the release.
pub fn kernels(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| {
        let (version, release) = text.split_once('-').unwrap_or((text, ""));
        (version.to_owned(), release.to_owned())
    };
    let (a, b) = (parts(a), parts(b));
    compare(&a.0, &b.0).then_with(|| compare(&a.1, &b.1))
}

/// What kind of kernel a release is, by the letters behind `.elN`: `PAE`, `xen`, `debug` of old ones, `+debug` of new ones; empty for the
/// ordinary one.
fn flavour(release: &str) -> String {
    if let Some((_, rest)) = release.split_once('+') {
        return rest.to_owned();
    }
    let behind = release.rfind(".el").map_or("", |at| &release[at + 3..]);
    let letters = behind.trim_start_matches(|c: char| c.is_ascii_digit());
    letters.chars().take_while(char::is_ascii_alphabetic).collect()
}

/// The newest of these kernels that is newer than the running one, and of its flavour.
pub fn newest<'a>(all: impl Iterator<Item = &'a str>, running: &str) -> Option<&'a str> {
    let sound = |release: &&str| {
        !release.is_empty() && release.chars().all(|c| c.is_ascii_alphanumeric() || "._-+~^".contains(c))
    };
    all.filter(sound)
        .filter(|release| flavour(release) == flavour(running) && kernels(release, running) == Ordering::Greater)
        .max_by(|a, b| kernels(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of rpm's own test (tests/rpmvercmp.at), as far as it applies to ASCII.
    #[test]
    fn as_rpm_compares() {
        use Ordering::{Equal, Greater, Less};
        for (a, b, expected) in [
            ("1.0", "1.0", Equal),
            ("1.0", "2.0", Less),
            ("2.0", "1.0", Greater),
            ("2.0.1", "2.0", Greater),
            ("2.0.1a", "2.0.1", Greater),
            ("5.5p1", "5.5p2", Less),
            ("5.5p10", "5.5p1", Greater),
            ("10xyz", "10.1xyz", Less),
            ("xyz10", "xyz10.1", Less),
            ("xyz.4", "8", Less),
            ("8", "xyz.4", Greater),
            ("5.5p2", "5.6p1", Less),
            ("6.0.rc1", "6.0", Greater),
            ("10b2", "10a1", Greater),
            ("1.0aa", "1.0a", Greater),
            ("10.0001", "10.1", Equal),
            ("10.0001", "10.0039", Less),
            ("4.999.9", "5.0", Less),
            ("20101121", "20101122", Less),
            ("2_0", "2.0", Equal),
            ("a+", "a_", Equal),
            ("+", "_", Equal),
            ("1.0~rc1", "1.0", Less),
            ("1.0~rc1", "1.0~rc2", Less),
            ("1.0~rc1~git123", "1.0~rc1", Less),
            ("1.0^", "1.0", Greater),
            ("1.0^git1", "1.0^git2", Less),
            ("1.0^git1", "1.01", Less),
            ("1.0^20160101", "1.0.1", Less),
            ("1.0~rc1^git1", "1.0~rc1", Greater),
            ("1.0^git1~pre", "1.0^git1", Less),
        ] {
            assert_eq!(compare(a, b), expected, "{a} {b}");
            assert_eq!(compare(b, a), expected.reverse(), "{b} {a}");
        }
    }

    #[test]
    fn kernels_of_the_field() {
        assert_eq!(kernels("2.6.18-238.9.1.el5", "2.6.18-128.el5"), Ordering::Greater);
        assert_eq!(kernels("5.14.0-70.el9.x86_64", "5.14.0-162.el9.x86_64"), Ordering::Less);
        assert_eq!(kernels("2.6.32-431.el6.x86_64", "2.6.32-431.el6.x86_64"), Ordering::Equal);
    }

    #[test]
    fn the_newest_of_the_same_kind() {
        let all = ["2.6.18-128.el5", "2.6.18-238.9.1.el5", "2.6.18-238.9.1.el5xen", "2.6.18-99.el5", "$(x)-9"];
        assert_eq!(newest(all.into_iter(), "2.6.18-128.el5"), Some("2.6.18-238.9.1.el5"));
        assert_eq!(newest(all.into_iter(), "2.6.18-238.9.1.el5"), None);
        assert_eq!(newest(all.into_iter(), "2.6.18-128.el5xen"), Some("2.6.18-238.9.1.el5xen"));
        let new = ["5.14.0-70.el9.x86_64", "5.14.0-162.el9.x86_64", "5.14.0-300.el9.x86_64+debug"];
        assert_eq!(newest(new.into_iter(), "5.14.0-70.el9.x86_64"), Some("5.14.0-162.el9.x86_64"));
    }
}
