//! YAML documents as trees of values that know their line.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::scalar::Scalar;
use crate::file::field::Field;

/// Deepest nesting that is read. Kubernetes objects stay below 30.
const MAX_DEPTH: usize = 100;
/// Most values in one document, each use of an alias counted anew ("billion laughs").
const MAX_NODES: usize = 5_000_000;

/// A value and the line on which it starts, from 1.
#[derive(Debug)]
pub(in crate::file) struct Node {
    pub(in crate::file) line: usize,
    pub(in crate::file) value: Value,
    /// Values in it, itself included, aliases counted each time.
    weight: usize,
}

#[derive(Debug)]
pub(in crate::file) enum Value {
    Scalar { text: String, plain: bool },
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

/// A key of a mapping, always taken as text, and its value.
#[derive(Debug)]
pub(in crate::file) struct Entry {
    pub(in crate::file) key: String,
    pub(in crate::file) line: usize,
    pub(in crate::file) value: Rc<Node>,
}

/// Why a text is no YAML, or none that we read.
#[derive(Debug)]
pub(in crate::file) struct SyntaxError {
    pub(in crate::file) line: usize,
    pub(in crate::file) detail: String,
}

impl Node {
    /// What the value means; `None` for lists and mappings.
    pub(in crate::file) fn scalar(&self) -> Option<Scalar<'_>> {
        match &self.value {
            Value::Scalar { text, plain: true } => Some(Scalar::plain(text)),
            Value::Scalar { text, plain: false } => Some(Scalar::Text(text)),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The scalar's text, if it is text.
    pub(in crate::file) fn text(&self) -> Option<&str> {
        match self.scalar()? {
            Scalar::Text(text) => Some(text),
            Scalar::Null | Scalar::Bool(_) | Scalar::Int(_) | Scalar::UInt(_) | Scalar::Float(_) => None,
        }
    }

    /// The value under `key`, where this is a mapping that has it.
    pub(in crate::file) fn get(&self, key: &str) -> Option<&Rc<Node>> {
        self.entry(key).map(|entry| &entry.value)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Value::Scalar { .. } | Value::List(_) => None,
        }
    }

    /// Whether this is an empty document, or says null.
    pub(in crate::file) fn is_null(&self) -> bool {
        self.scalar() == Some(Scalar::Null)
    }

    /// The line of `field` (of its key), or of the nearest thing around it that exists.
    pub(in crate::file) fn line_of(&self, field: &Field<'_>) -> usize {
        self.locate(field).map_or_else(|line| line, |(line, _)| line)
    }

    /// Whether `field` exists and is not null.
    pub(in crate::file) fn has(&self, field: &Field<'_>) -> bool {
        self.locate(field).is_ok_and(|(_, node)| !node.is_null())
    }

    fn locate(&self, field: &Field<'_>) -> Result<(usize, &Node), usize> {
        match field {
            Field::Root => Ok((self.line, self)),
            Field::Key(parent, name) => {
                let (line, node) = self.locate(parent)?;
                node.entry(name).map(|entry| (entry.line, &*entry.value)).ok_or(line)
            }
            Field::Index(parent, index) => {
                let (line, node) = self.locate(parent)?;
                match &node.value {
                    Value::List(items) => items.get(*index).map(|item| (item.line, &**item)).ok_or(line),
                    Value::Scalar { .. } | Value::Map(_) => Err(line),
                }
            }
        }
    }
}

/// The documents of `text` up to the first syntax error, and that error.
pub(in crate::file) fn parse(text: &str) -> (Vec<Rc<Node>>, Option<SyntaxError>) {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    while let Some(event) = parser.next_event() {
        let result = match event {
            Ok((event, span)) => builder.event(event, span.start.line()),
            Err(error) => Err(SyntaxError { line: error.marker().line(), detail: error.info().to_owned() }),
        };
        if let Err(error) = result {
            return (builder.documents, Some(error));
        }
    }
    (builder.documents, None)
}

#[derive(Default)]
struct Builder {
    documents: Vec<Rc<Node>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
}

/// A list or mapping whose end has not been seen.
struct Open {
    line: usize,
    anchor: usize,
    weight: usize,
    value: OpenValue,
}

enum OpenValue {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<Entry>, key: Option<(String, usize)> },
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), SyntaxError> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or_else(|| SyntaxError {
                    line,
                    detail: "an alias (*name) stands inside the value that it refers to".to_owned(),
                })?;
                self.add(node, line)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !is_text_tag(tag.as_deref());
                let value = Value::Scalar { text: Cow::into_owned(text), plain };
                self.finish(Node { line, value, weight: 1 }, anchor, line)
            }
            Event::SequenceStart(anchor, _) => self.open(line, anchor, OpenValue::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.open(line, anchor, OpenValue::Map { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    fn open(&mut self, line: usize, anchor: usize, value: OpenValue) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(SyntaxError { line, detail: format!("nested more than {MAX_DEPTH} levels deep") });
        }
        if self.open.last().is_some_and(Open::wants_key) {
            return Err(SyntaxError { line, detail: "a list or mapping is used as a key".to_owned() });
        }
        self.open.push(Open { line, anchor, weight: 1, value });
        Ok(())
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        let Some(Open { line, anchor, weight, value }) = self.open.pop() else { return Ok(()) };
        let value = match value {
            OpenValue::List(items) => Value::List(items),
            OpenValue::Map { entries, .. } => Value::Map(merged(entries)),
        };
        self.finish(Node { line, value, weight }, anchor, line)
    }

    fn finish(&mut self, node: Node, anchor: usize, line: usize) -> Result<(), SyntaxError> {
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.add(node, line)
    }

    fn add(&mut self, node: Rc<Node>, line: usize) -> Result<(), SyntaxError> {
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        open.weight = open.weight.saturating_add(node.weight);
        if open.weight > MAX_NODES {
            return Err(SyntaxError {
                line,
                detail: format!("more than {MAX_NODES} values in one document"),
            });
        }
        match &mut open.value {
            OpenValue::List(items) => items.push(node),
            OpenValue::Map { entries, key } => match key.take() {
                Some((key, line)) => entries.push(Entry { key, line, value: node }),
                None => match &node.value {
                    Value::Scalar { text, .. } => *key = Some((text.clone(), line)),
                    Value::List(_) | Value::Map(_) => {
                        return Err(SyntaxError {
                            line,
                            detail: "a list or mapping is used as a key".to_owned(),
                        });
                    }
                },
            },
        }
        Ok(())
    }
}

impl Open {
    fn wants_key(&self) -> bool {
        matches!(&self.value, OpenValue::Map { key: None, .. })
    }
}

fn is_text_tag(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| {
        tag.is_yaml_core_schema() && matches!(tag.suffix.as_str(), "str" | "binary" | "timestamp")
    })
}

/// Replaces a merge key (`<<: *defaults`) by the entries that the mapping does not have itself.
fn merged(mut entries: Vec<Entry>) -> Vec<Entry> {
    while let Some(index) = entries.iter().position(|entry| entry.key == "<<") {
        let source = entries.remove(index).value;
        let sources: Vec<&Rc<Node>> = match &source.value {
            Value::List(items) => items.iter().collect(),
            Value::Scalar { .. } | Value::Map(_) => vec![&source],
        };
        for node in sources {
            let Value::Map(defaults) = &node.value else { continue };
            for default in defaults {
                if entries.iter().all(|entry| entry.key != default.key) {
                    let value = Rc::clone(&default.value);
                    entries.push(Entry { key: default.key.clone(), line: default.line, value });
                }
            }
        }
    }
    entries
}
