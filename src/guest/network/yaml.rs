//! YAML with the place of everything, for editing by byte range. Only what netplan's files use: one document, no
//! aliases; depth and size are bounded.

use std::ops::Range;

use saphyr_parser::{Event, Marker, Parser, Span};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 64;

/// A value and where it is.
#[derive(Clone, Debug)]
pub struct Node {
    /// Byte range of what was written; of a collection: from its first character to the end of its last value (block
    /// style), or brackets included (flow style).
    pub range: Range<usize>,
    /// Line, from 1.
    pub line: usize,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Value {
    /// A scalar, unquoted.
    Scalar(String),
    /// A sequence; `true`: flow style (`[a, b]`).
    Sequence(Vec<Node>, bool),
    /// A mapping; `true`: flow style (`{a: b}`).
    Mapping(Vec<(Node, Node)>, bool),
}

/// What is wrong, and in which line.
pub type Error = (usize, String);

impl Node {
    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }
    /// The pairs of a mapping.
    pub fn pairs(&self) -> &[(Node, Node)] {
        match &self.value {
            Value::Mapping(pairs, _) => pairs,
            _ => &[],
        }
    }
    /// The items of a sequence.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Sequence(items, _) => items,
            _ => &[],
        }
    }
    /// Whether a collection is in flow style.
    pub fn is_flow(&self) -> bool {
        matches!(&self.value, Value::Sequence(_, true) | Value::Mapping(_, true))
    }
    /// Key and value of a mapping's entry.
    pub fn entry(&self, key: &str) -> Option<&(Node, Node)> {
        self.pairs().iter().find(|(name, _)| name.text() == Some(key))
    }
    /// Value of a mapping's entry.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|(_, value)| value)
    }
}

/// Reads the only document of a text; none if it is empty.
pub fn read(text: &str) -> Result<Option<Node>, Error> {
    // The parser counts characters; we cut bytes.
    let offsets: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut reader = Reader { events: Parser::new_from_str(text), offsets, text };
    let mut found = None;
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(found),
            (Event::DocumentStart(_), span) => {
                if found.is_some() {
                    return Err((span.start.line(), "a second document".into()));
                }
                let first = reader.next()?;
                found = Some(reader.node(first, 0)?);
            }
            _ => {}
        }
    }
}

struct Reader<'t> {
    events: Parser<'t, saphyr_parser::StrInput<'t>>,
    offsets: Vec<usize>,
    text: &'t str,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Error> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err((error.marker().line(), error.info().to_owned())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn byte(&self, marker: &Marker) -> usize {
        self.offsets.get(marker.index()).copied().unwrap_or(self.text.len())
    }

    fn node(&mut self, (event, span): (Event<'t>, Span), depth: usize) -> Result<Node, Error> {
        let line = span.start.line();
        let (start, mut end) = (self.byte(&span.start), self.byte(&span.end));
        if depth > MAX_DEPTH {
            return Err((line, "nested too deeply".into()));
        }
        let value = match event {
            Event::Scalar(text, ..) => Value::Scalar(text.into_owned()),
            Event::SequenceStart(..) => {
                let flow = self.text[start..].starts_with('[');
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, span) => {
                            end = if flow { self.byte(&span.end) } else { last(end, items.last()) };
                            break;
                        }
                        event => items.push(self.node(event, depth + 1)?),
                    }
                }
                Value::Sequence(items, flow)
            }
            Event::MappingStart(..) => {
                let flow = self.text[start..].starts_with('{');
                let mut pairs = Vec::new();
                loop {
                    match self.next()? {
                        (Event::MappingEnd, span) => {
                            end = if flow { self.byte(&span.end) } else { last(end, pairs.last().map(|(_, v)| v)) };
                            break;
                        }
                        event => {
                            let key = self.node(event, depth + 1)?;
                            let next = self.next()?;
                            pairs.push((key, self.node(next, depth + 1)?));
                        }
                    }
                }
                Value::Mapping(pairs, flow)
            }
            Event::Alias(_) => return Err((line, "an alias, which netplan does not know".into())),
            _ => return Err((line, "not understood".into())),
        };
        Ok(Node { range: start..end.max(start), line, value })
    }
}

fn last(end: usize, node: Option<&Node>) -> usize {
    node.map_or(end, |node| node.range.end)
}
