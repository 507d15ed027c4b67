//! Cuts on a text, and how a statement goes with its line. Pure.

use std::ops::Range;

/// This span is replaced by that text.
pub(crate) type Cut = (Range<usize>, String);

/// Makes the cuts, which are on the original's positions; `None` if two are of one place.
pub(crate) fn cut(text: &str, mut cuts: Vec<Cut>) -> Option<String> {
    cuts.sort_by_key(|(span, _)| (span.start, span.end));
    let mut out = String::with_capacity(text.len() + 256);
    let mut at = 0;
    for (span, new) in cuts {
        if span.start < at {
            return None;
        }
        out.push_str(&text[at..span.start]);
        out.push_str(&new);
        at = span.end;
    }
    out.push_str(&text[at..]);
    Some(out)
}

fn is_blank(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
}

/// The end of the line, if nothing but blanks and a comment that ends with it stands there from here on.
pub(crate) fn rest_of_line(text: &str, at: usize) -> Option<usize> {
    let line = text[at..].split('\n').next().unwrap_or_default();
    let said = line.trim_matches([' ', '\t', '\r']);
    let block = said.strip_prefix("/*").and_then(|inside| inside.split_once("*/"));
    let comment = said.starts_with(['#']) || said.starts_with("//") || block.is_some_and(|(_, after)| after.is_empty());
    let ended = text[at + line.len()..].starts_with('\n');
    let end = at + line.strip_suffix('\r').filter(|_| ended).unwrap_or(line).len();
    (said.is_empty() || comment).then_some(end)
}

/// A line after the end of another, with a line end like its.
pub(crate) fn new_line(text: &str, end: usize, line: &str) -> Cut {
    let newline = if text[end..].starts_with("\r\n") { "\r\n" } else { "\n" };
    (end..end, format!("{newline}{line}"))
}

/// What goes when statements go: their lines, where nothing else stands in them, else the blanks beside them.
pub(crate) fn with_lines(text: &str, spans: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for span in spans {
        match groups.last_mut().filter(|last| is_blank(&text[last.end..span.start])) {
            Some(last) => last.end = span.end,
            None => groups.push(span.clone()),
        }
    }
    groups.into_iter().map(|group| with_line(text, group)).collect()
}

fn with_line(text: &str, span: Range<usize>) -> Range<usize> {
    let start = text[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
    let newline = text[span.end..].find('\n').map(|newline| span.end + newline);
    let (before, after) = (&text[start..span.start], &text[span.end..newline.unwrap_or(text.len())]);
    match (is_blank(before), is_blank(after), newline) {
        (true, true, Some(newline)) => start..newline + 1,
        (true, true, None) => start.saturating_sub(1)..text.len(),
        (true, false, _) => span.start..span.end + (after.len() - after.trim_start_matches([' ', '\t']).len()),
        (false, ..) => start + before.trim_end_matches([' ', '\t']).len()..span.end,
    }
}
