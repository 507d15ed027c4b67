//! An index of byte positions over an XML text: which element, attribute and content is where. Pure.
//!
//! It is the ground on which [`super::xml`] reads and [`super::edit`] cuts. Invariants: every span lies on
//! character borders of the text and is what the reader saw there; a text that is not well formed, has a document
//! type, an entity beyond the five of XML, more than [`LIMIT`] bytes or more than [`DEPTH`] levels is refused.

use std::ops::Range;

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

/// Bytes a definition may have; libvirt's own are a few KiB.
pub(super) const LIMIT: usize = 1 << 20;
/// Levels of elements a definition may have.
pub(super) const DEPTH: usize = 64;

/// The index.
pub(super) struct Tree<'a> {
    text: &'a str,
    nodes: Vec<Node>,
}

struct Node {
    name: Range<usize>,
    parent: Option<usize>,
    children: Vec<usize>,
    attributes: Vec<Attribute>,
    open: Range<usize>,
    close: Option<Range<usize>>,
    value: String,
    commented: bool,
}

struct Attribute {
    name: Range<usize>,
    raw: Range<usize>,
    value: String,
}

/// One element of a [`Tree`].
#[derive(Clone, Copy)]
pub(super) struct Element<'t> {
    tree: &'t Tree<'t>,
    index: usize,
}

impl<'a> Tree<'a> {
    /// Indexes a text. The error says what is wrong with it, and where.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        if text.len() > LIMIT {
            return Err(format!("the text has {} bytes, more than the {LIMIT} allowed", text.len()));
        }
        let mut tree = Tree { text, nodes: Vec::new() };
        let mut open: Vec<usize> = Vec::new();
        let mut reader = Reader::from_str(text);
        loop {
            let start = position(&reader)?;
            let at = |what: &dyn std::fmt::Display| format!("{what} at byte {start}");
            let event = reader.read_event().map_err(|e| at(&e))?;
            let span = start..position(&reader)?;
            let raw = text.get(span.clone()).ok_or_else(|| at(&"a broken character"))?;
            match &event {
                Event::Start(tag) | Event::Empty(tag) => {
                    if open.len() >= DEPTH {
                        return Err(at(&format!("more than {DEPTH} levels")));
                    }
                    if open.is_empty() && !tree.nodes.is_empty() {
                        return Err(at(&"a second root element"));
                    }
                    let index = tree.push(tag, span, open.last().copied()).map_err(|e| at(&e))?;
                    if matches!(event, Event::Start(_)) {
                        open.push(index);
                    }
                }
                // quick-xml has compared its name with that of the start tag
                Event::End(_) => match open.pop() {
                    Some(index) => tree.nodes[index].close = Some(span),
                    None => return Err(at(&"an end tag too many")),
                },
                Event::Text(_) | Event::GeneralRef(_) | Event::CData(_) => {
                    let cdata = raw.strip_prefix("<![CDATA[").and_then(|rest| rest.strip_suffix("]]>"));
                    match (open.last(), cdata) {
                        (Some(&index), Some(verbatim)) => tree.nodes[index].value.push_str(verbatim),
                        (Some(&index), None) => tree.nodes[index].value.push_str(&unescape(raw).map_err(|e| at(&e))?),
                        (None, None) if raw.trim_ascii().is_empty() => {}
                        (None, _) => return Err(at(&"text outside of the root element")),
                    }
                }
                Event::Comment(_) | Event::PI(_) => {
                    if let Some(&index) = open.last() {
                        tree.nodes[index].commented = true;
                    }
                }
                Event::Decl(decl) => {
                    let utf8 = decl.encoding().is_none_or(|e| e.is_ok_and(|e| e.eq_ignore_ascii_case(b"utf-8")));
                    if start != 0 || !utf8 {
                        return Err(at(&"an XML declaration that is not UTF-8's"));
                    }
                }
                Event::DocType(_) => return Err(at(&"a document type, which a definition does not have,")),
                Event::Eof => break,
            }
        }
        if !open.is_empty() || tree.nodes.is_empty() {
            return Err("the text ends too early".to_owned());
        }
        Ok(tree)
    }

    fn push(&mut self, tag: &BytesStart<'_>, span: Range<usize>, parent: Option<usize>) -> Result<usize, String> {
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|e| e.to_string())?;
            let raw = self.locate(&attribute.value)?;
            // XML 1.0 §3.3.3: literal white space in a value reads as a space
            let flat = self.text[raw.clone()].replace(['\n', '\t', '\r'], " ");
            let value = unescape(&flat).map_err(|e| e.to_string())?.into_owned();
            attributes.push(Attribute { name: self.locate(attribute.key.as_ref())?, raw, value });
        }
        let name = self.locate(tag.name().as_ref())?;
        let index = self.nodes.len();
        self.nodes.push(Node {
            name,
            parent,
            children: Vec::new(),
            attributes,
            open: span,
            close: None,
            value: String::new(),
            commented: false,
        });
        if let Some(parent) = parent {
            self.nodes[parent].children.push(index);
        }
        Ok(index)
    }

    /// Where a slice that the reader borrowed from the text lies in it.
    fn locate(&self, part: &[u8]) -> Result<Range<usize>, String> {
        let start = (part.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        let span = start..start.wrapping_add(part.len());
        match self.text.get(span.clone()) {
            Some(found) if found.as_bytes() == part => Ok(span),
            _ => Err("a part that is not where it was read".to_owned()),
        }
    }

    /// The outermost element.
    pub(super) fn root(&'a self) -> Element<'a> {
        Element { tree: self, index: 0 }
    }
}

fn position(reader: &Reader<&[u8]>) -> Result<usize, String> {
    usize::try_from(reader.buffer_position()).map_err(|e| e.to_string())
}

impl<'t> Element<'t> {
    fn node(&self) -> &'t Node {
        &self.tree.nodes[self.index]
    }
    /// Name as written, prefix included.
    pub(super) fn name(&self) -> &'t str {
        &self.tree.text[self.node().name.clone()]
    }
    /// Content without that of elements and comments, entities resolved.
    pub(super) fn value(&self) -> &'t str {
        &self.node().value
    }
    /// Holds a comment or processing instruction.
    pub(super) fn commented(&self) -> bool {
        self.node().commented
    }
    /// From its `<` to behind its last `>`.
    pub(super) fn span(&self) -> Range<usize> {
        let node = self.node();
        node.open.start..node.close.as_ref().map_or(node.open.end, |close| close.end)
    }
    /// Between its tags; `None` for `<name/>`.
    pub(super) fn inner(&self) -> Option<Range<usize>> {
        let node = self.node();
        Some(node.open.end..node.close.as_ref()?.start)
    }
    /// Its elements, in order.
    pub(super) fn elements(&self) -> impl Iterator<Item = Element<'t>> + use<'t> {
        let tree = self.tree;
        self.node().children.iter().map(move |&index| Element { tree, index })
    }
    /// Its elements of a name.
    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = Element<'t>> + use<'t> {
        self.elements().filter(move |element| element.name() == name)
    }
    /// Its first element of a name.
    pub(super) fn child(&self, name: &'static str) -> Option<Element<'t>> {
        self.all(name).next()
    }
    /// An attribute's value, entities resolved.
    pub(super) fn attribute(&self, name: &str) -> Option<&'t str> {
        self.find(name).map(|attribute| attribute.value.as_str())
    }
    /// Where an attribute's value stands, without its quotes.
    pub(super) fn attribute_span(&self, name: &str) -> Option<Range<usize>> {
        self.find(name).map(|attribute| attribute.raw.clone())
    }
    /// An attribute of the first element of a name.
    pub(super) fn child_attribute(&self, child: &'static str, attribute: &str) -> Option<&'t str> {
        self.child(child)?.attribute(attribute)
    }
    fn find(&self, name: &str) -> Option<&'t Attribute> {
        self.node().attributes.iter().find(|attribute| &self.tree.text[attribute.name.clone()] == name)
    }
    /// Whether it has this local name in this namespace (Namespaces in XML 1.0 §6).
    pub(super) fn is(&self, local: &str, namespace: &str) -> bool {
        let (prefix, name) = match self.name().split_once(':') {
            Some((prefix, name)) => (format!("xmlns:{prefix}"), name),
            None => ("xmlns".to_owned(), self.name()),
        };
        let mut index = Some(self.index);
        while let Some(at) = index {
            let element = Element { tree: self.tree, index: at };
            if let Some(uri) = element.attribute(&prefix) {
                return name == local && uri == namespace;
            }
            index = element.node().parent;
        }
        false
    }
}
