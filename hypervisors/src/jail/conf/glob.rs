//! Wildcards in paths, as glob(3) reads them for `.include`. Pure.

/// Whether a pattern has wildcards at all; without, the file must be there.
pub(super) fn is_pattern(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Whether a path fits a pattern: component by component, a leading dot only where the pattern has one.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let (mut patterns, mut names) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), names.next()) {
            (None, None) => return true,
            (Some(pattern), Some(name)) => {
                let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
                if name.first() == Some(&'.') && pattern.first() != Some(&'.') || !component(&pattern, &name) {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

/// Goes through both once; a star that took too little takes one more.
fn component(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&'*') {
            star = Some((p + 1, n));
            p += 1;
            continue;
        }
        let one = name.get(n).and_then(|c| single(&pattern[p..], *c));
        match one {
            Some(length) => (p, n) = (p + length, n + 1),
            None if p == pattern.len() && n == name.len() => return true,
            None => match star {
                Some((after, taken)) if taken < name.len() => {
                    star = Some((after, taken + 1));
                    (p, n) = (after, taken + 1);
                }
                _ => return false,
            },
        }
    }
}

/// How long the pattern's first element is, if this character fits it.
fn single(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', literal, ..] => (*literal == c).then_some(2),
        ['[', rest @ ..] => {
            let not = matches!(rest.first(), Some('!' | '^'));
            let set = &rest[usize::from(not)..];
            // A bracket that comes first stands for itself.
            let Some(end) = set.iter().skip(1).position(|c| *c == ']').map(|end| end + 1) else {
                return (c == '[').then_some(1);
            };
            let (mut at, mut found) = (0, false);
            while at < end {
                if at + 2 < end && set[at + 1] == '-' {
                    found |= (set[at]..=set[at + 2]).contains(&c);
                    at += 3;
                } else {
                    found |= set[at] == c;
                    at += 1;
                }
            }
            (found != not).then_some(1 + usize::from(not) + end + 1)
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}
