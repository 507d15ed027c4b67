//! Words for a shell that stands in between. The only place in which they are quoted.

/// A line of a POSIX shell as one that csh hands on unharmed, too: root's login shell on FreeBSD before 14 takes a newline and `!` for
/// its own even in quotes. printf(1) makes them of octal numbers.
pub(super) fn for_any_shell(line: String) -> String {
    use std::fmt::Write as _;
    if !line.contains(['\n', '!']) {
        return line;
    }
    let mut encoded = String::with_capacity(2 * line.len());
    for byte in line.bytes() {
        match byte {
            byte if byte.is_ascii_alphanumeric() || b" _./=:,@+-".contains(&byte) => encoded.push(char::from(byte)),
            byte => drop(write!(encoded, "\\{byte:03o}")),
        }
    }
    format!("sh -c 'eval \"$(printf \"{encoded}\")\"'")
}

/// Quotes words for a POSIX shell (and, without newlines and `!`, for csh), so that it hands on exactly these words.
pub fn shell_quote<S: AsRef<str>>(words: &[S]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+:,./-".contains(c);
    let quoted: Vec<String> = words
        .iter()
        .map(AsRef::as_ref)
        .map(|word| match word {
            "" => "''".to_owned(),
            word if word.chars().all(plain) => word.to_owned(),
            word => format!("'{}'", word.replace('\'', r"'\''")),
        })
        .collect();
    quoted.join(" ")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_gives_back_the_words(words in proptest::collection::vec("[^\0]{0,12}", 1..6)) {
            let line = format!("printf '%s\\0' {}", shell_quote(&words));
            let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            let expected: String = words.iter().map(|word| format!("{word}\0")).collect();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_line_that_csh_would_spoil_says_the_same(words in proptest::collection::vec("[^\0]{0,12}", 1..6)) {
            let line = for_any_shell(format!("printf '%s\\0' {} '!'", shell_quote(&words)));
            prop_assert!(!line.contains(['!', '\n']));
            let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            let expected: String = words.iter().map(String::as_str).chain(["!"]).map(|word| format!("{word}\0")).collect();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
        }
    }
}
