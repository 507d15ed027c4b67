//! The run mark of a jail: the comment that is the first thing in its block. Pure.
//!
//! In a line of its own, `# upgradectl run RUN role ROLE`; where more stands after the brace, the same words within `/* */`.

use std::ops::Range;

use super::Block;
use super::cut::{Cut, new_line, rest_of_line};
use crate::Mark;

const WORDS: &str = "upgradectl run ";

/// What is wrong, and where.
type Bad = (usize, String);

/// The mark, and what of the text goes with it.
pub(super) fn find(text: &str, block: &Block) -> Result<Option<(Mark, Range<usize>)>, Bad> {
    let inside = &text[block.open..block.span.end];
    let start = inside.len() - inside.trim_start().len();
    let inside = &inside[start..];
    let (comment, words) = if let Some(rest) = inside.strip_prefix("/*") {
        let words = rest.split("*/").next().unwrap_or_default();
        (words.len() + 4, words)
    } else if let Some(rest) = inside.strip_prefix('#') {
        let words = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        (words.len() + 1, words)
    } else {
        return Ok(None);
    };
    let words = words.trim_ascii();
    if !words.starts_with(WORDS) {
        return Ok(None);
    }
    let bad = || (block.open + start, format!("this run mark is not \"{WORDS}RUN role ROLE\""));
    let mark = of_words(words).ok_or_else(bad)?;
    // The line end before it came with it, what stands after the brace did not.
    let between = &text[block.open..block.open + start];
    let from = between.rfind('\n').map_or(0, |newline| newline - usize::from(between[..newline].ends_with('\r')));
    Ok(Some((mark, block.open + from..block.open + start + comment)))
}

/// The mark that these words are.
pub(in crate::jail) fn of_words(words: &str) -> Option<Mark> {
    let (run, role) = words.strip_prefix(WORDS)?.split_once(" role ")?;
    format!("{run}.{role}").parse().ok()
}

/// The words of a mark.
pub(in crate::jail) fn words(mark: &Mark) -> String {
    format!("{WORDS}{} role {}", mark.run, mark.role.as_str())
}

/// Sets the mark, changes it where it stands, or takes it out.
pub(super) fn cut(text: &str, block: &Block, mark: Option<&Mark>) -> Result<Option<Cut>, Bad> {
    let words = mark.map(words);
    if words.as_ref().is_some_and(|words| words.contains(['\n', '\r', '*'])) {
        return Err((block.open, "a run cannot be named so".to_owned()));
    }
    Ok(match (find(text, block)?, words) {
        (None, None) => None,
        (Some((old, _)), Some(_)) if Some(&old) == mark => None,
        (Some((_, span)), None) => Some((span, String::new())),
        (Some((_, span)), Some(words)) => {
            let old = &text[span.clone()];
            let blanks = &old[..old.len() - old.trim_start().len()];
            let new = if old.ends_with("*/") { format!("{blanks}/* {words} */") } else { format!("{blanks}# {words}") };
            Some((span, new))
        }
        (None, Some(words)) => {
            let line = text[block.open..].split('\n').next().unwrap_or_default();
            match (line.trim_ascii().is_empty(), rest_of_line(text, block.open)) {
                (true, Some(end)) => Some(new_line(text, end, &format!("\t# {words}"))),
                _ => Some((block.open..block.open, format!(" /* {words} */"))),
            }
        }
    })
}
