//! From a tree to typed objects, strictly: unknown fields and wrong types are collected with their lines.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::scalar::Scalar;
use super::tree::{Entry, Node, Value};
use crate::file::error::{Problem, nearest};
use crate::file::field::Field;

/// Wrong types after which reading an object is given up.
const MAX_PROBLEMS: usize = 50;

/// A problem and its line.
pub(in crate::file) type Found = (usize, Problem);

/// Reads `node` as a `T`. All problems are returned at once: a value of a wrong type is noted, then treated as
/// absent, and reading begins again. Below the fields named in `lenient` (of the object itself) nothing is a problem.
pub(in crate::file) fn read<T: for<'de> Deserialize<'de>>(
    node: &Node,
    lenient: &[&str],
) -> (Option<T>, Vec<Found>) {
    let reading = Reading { lenient, found: RefCell::default(), absent: RefCell::default() };
    let mut problems = Vec::new();
    for _ in 0..MAX_PROBLEMS {
        reading.found.borrow_mut().clear();
        let de = De { node, field: &Field::Root, reading: &reading, lenient: false };
        match T::deserialize(de) {
            Ok(value) => {
                problems.append(&mut reading.found.borrow_mut());
                return (Some(value), problems);
            }
            Err(error) => {
                let culprit = error.0.node.unwrap_or(node);
                if !error.0.lenient {
                    problems.push(error.found(node));
                }
                if !reading.absent.borrow_mut().insert(culprit) {
                    break;
                }
            }
        }
    }
    problems.append(&mut reading.found.borrow_mut());
    (None, problems)
}

struct Reading<'a> {
    lenient: &'a [&'a str],
    /// Unknown and doubled fields of this attempt.
    found: RefCell<Vec<Found>>,
    /// Values already reported, now treated as absent.
    absent: RefCell<HashSet<*const Node>>,
}

impl Reading<'_> {
    fn is_absent(&self, node: &Node) -> bool {
        self.absent.borrow().contains(&std::ptr::from_ref(node))
    }
}

#[derive(Clone, Copy)]
struct De<'a> {
    node: &'a Node,
    field: &'a Field<'a>,
    reading: &'a Reading<'a>,
    lenient: bool,
}

/// The first thing that stopped reading. Gets its place from the innermost value it passes on its way out.
#[derive(Debug)]
pub(in crate::file) struct DeError(Box<Stopped>);

#[derive(Debug, Default)]
struct Stopped {
    message: String,
    node: Option<*const Node>,
    line: usize,
    field: String,
    lenient: bool,
    /// What was found, what is wanted, how to fix it.
    typed: Option<(String, String, String)>,
}

impl DeError {
    fn found(self, root: &Node) -> Found {
        let stopped = *self.0;
        let line = if stopped.line == 0 { root.line } else { stopped.line };
        let field = stopped.field;
        let problem = match stopped.typed {
            Some((found, wanted, fix)) => Problem::WrongType { field, found, wanted, fix },
            None => Problem::Conflict {
                field,
                why: format!("cannot be read: {}", stopped.message),
                fix: "see the Kubernetes API reference for what this field holds".to_owned(),
            },
        };
        (line, problem)
    }
}

impl fmt::Display for DeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for DeError {}

impl de::Error for DeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Box::new(Stopped { message: message.to_string(), ..Stopped::default() }))
    }
}

impl<'a> De<'a> {
    /// Gives an error without a place this one.
    fn placed(self, mut error: DeError) -> DeError {
        let stopped = &mut *error.0;
        if stopped.node.is_none() {
            stopped.node = Some(std::ptr::from_ref(self.node));
            stopped.line = self.node.line;
            stopped.field = self.field.to_string();
            stopped.lenient = self.lenient;
            if let (None, Some(scalar)) = (&stopped.typed, self.node.scalar()) {
                let wanted = stopped.message.clone();
                stopped.typed = Some((shown(scalar, self.node), wanted, "correct the value".to_owned()));
            }
        }
        error
    }

    fn wrong(self, wanted: &str, fix: impl Into<String>) -> DeError {
        let found = match self.node.scalar() {
            Some(scalar) => shown(scalar, self.node),
            None if matches!(self.node.value, Value::List(_)) => "is a list".to_owned(),
            None => "is a mapping".to_owned(),
        };
        let mut error = <DeError as de::Error>::custom(wanted);
        error.0.typed = Some((found, wanted.to_owned(), fix.into()));
        self.placed(error)
    }

    fn note(self, line: usize, problem: Problem) {
        if !self.lenient {
            self.reading.found.borrow_mut().push((line, problem));
        }
    }

    /// Notes the keys of a mapping that are there twice, and returns the first of each.
    fn entries(self) -> Result<Vec<&'a Entry>, DeError> {
        let Value::Map(entries) = &self.node.value else {
            return Err(self.wrong("a mapping (key: value)", "write fields below it, indented"));
        };
        let mut kept: Vec<&Entry> = Vec::with_capacity(entries.len());
        let mut seen = std::collections::HashMap::with_capacity(entries.len());
        for entry in entries {
            if let Some(first) = seen.insert(entry.key.as_str(), entry.line) {
                let field = self.field.key(&entry.key).to_string();
                self.note(entry.line, Problem::DuplicateField { field, first });
            } else {
                kept.push(entry);
            }
        }
        Ok(kept)
    }

    fn map<'de, V: Visitor<'de>>(self, entries: Vec<&'a Entry>, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_map(Entries { de: self, entries: entries.into_iter(), value: None })
    }

    fn seq<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let Value::List(items) = &self.node.value else {
            return Err(self.wrong("a list", "write each element on a line that begins with \"- \""));
        };
        visitor.visit_seq(Items { de: self, items: items.iter().enumerate() })
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.scalar() {
            Some(Scalar::Text(text)) => visitor.visit_str(text).map_err(|error| self.placed(error)),
            Some(Scalar::Null) => Err(self.wrong("text", "write a value")),
            Some(Scalar::Bool(_) | Scalar::Int(_) | Scalar::UInt(_) | Scalar::Float(_)) => {
                let text = written(self.node);
                Err(self.wrong("text", format!("put it in quotes: \"{text}\"")))
            }
            None => Err(self.wrong("text", "write one value on the line of the key")),
        }
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.scalar() {
            Some(Scalar::Int(number)) => visitor.visit_i64(number).map_err(|error| self.placed(error)),
            Some(Scalar::UInt(number)) => visitor.visit_u64(number).map_err(|error| self.placed(error)),
            Some(Scalar::Text(text)) if text.parse::<i64>().is_ok() => {
                Err(self.wrong("a number", format!("remove the quotes: {text}")))
            }
            Some(_) | None => Err(self.wrong("a whole number", "write digits only")),
        }
    }
}

/// The scalar as written.
fn written(node: &Node) -> &str {
    match &node.value {
        Value::Scalar { text, .. } => text,
        Value::List(_) | Value::Map(_) => "",
    }
}

fn shown(scalar: Scalar<'_>, node: &Node) -> String {
    match scalar {
        Scalar::Null => "is empty".to_owned(),
        Scalar::Text(text) => format!("is the text {text:?}"),
        Scalar::Bool(_) | Scalar::Int(_) | Scalar::UInt(_) | Scalar::Float(_) => {
            format!("{} is {}", written(node), scalar.describe())
        }
    }
}

/// What to say about a field that `type_name` does not have.
fn unknown_hint(key: &str, type_name: &str, known: &[&'static str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None if known.len() <= 12 => format!("{type_name} has {}; remove it", known.join(", ")),
        None => format!("{type_name} has no such field; remove it, or check its indentation"),
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
            self.number(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for De<'_> {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let result = match self.node.scalar() {
            Some(Scalar::Null) => visitor.visit_unit(),
            Some(Scalar::Bool(value)) => visitor.visit_bool(value),
            Some(Scalar::Int(value)) => visitor.visit_i64(value),
            Some(Scalar::UInt(value)) => visitor.visit_u64(value),
            Some(Scalar::Float(value)) => visitor.visit_f64(value),
            Some(Scalar::Text(text)) => visitor.visit_str(text),
            None if matches!(self.node.value, Value::List(_)) => self.seq(visitor),
            None => self.entries().and_then(|entries| self.map(entries, visitor)),
        };
        result.map_err(|error| self.placed(error))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.scalar() {
            Some(Scalar::Bool(value)) => visitor.visit_bool(value),
            Some(Scalar::Text(text @ ("true" | "false"))) => {
                Err(self.wrong("true or false", format!("remove the quotes: {text}")))
            }
            Some(_) | None => Err(self.wrong("true or false", "write true or false")),
        }
    }

    numbers!(deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
             deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64);

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        if self.node.is_null() || self.reading.is_absent(self.node) {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        visitor.visit_newtype_struct(self).map_err(|error| self.placed(error))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.seq(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DeError> {
        self.seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let entries = self.entries()?;
        self.map(entries, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        let mut entries = self.entries()?;
        entries.retain(|entry| {
            let known = fields.contains(&entry.key.as_str());
            if !known {
                let field = self.field.key(&entry.key).to_string();
                let fix = unknown_hint(&entry.key, name, fields);
                self.note(entry.line, Problem::UnknownField { field, fix });
            }
            known
        });
        self.map(entries, visitor).map_err(|error| self.placed(error))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        match self.node.text() {
            Some(text) => visitor.visit_enum(text.into_deserializer()),
            None => Err(self.wrong("one word", "write one of the words that the field takes")),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_unit()
    }
}

struct Entries<'a> {
    de: De<'a>,
    entries: std::vec::IntoIter<&'a Entry>,
    value: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        // A reported value in a mapping of texts (labels) is left out; a struct's field reads it as null.
        let reading = self.de.reading;
        self.value = self.entries.find(|entry| !reading.is_absent(&entry.value));
        self.value.map(|entry| seed.deserialize(entry.key.as_str().into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let Some(entry) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let top = matches!(self.de.field, Field::Root);
        let lenient = self.de.lenient || (top && self.de.reading.lenient.contains(&entry.key.as_str()));
        let field = self.de.field.key(&entry.key);
        let de = De { node: &entry.value, field: &field, reading: self.de.reading, lenient };
        seed.deserialize(de).map_err(|mut error| {
            if error.0.node == Some(std::ptr::from_ref(&*entry.value)) {
                error.0.line = entry.line;
            }
            error
        })
    }
}

struct Items<'a> {
    de: De<'a>,
    items: std::iter::Enumerate<std::slice::Iter<'a, std::rc::Rc<Node>>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DeError> {
        let reading = self.de.reading;
        let Some((index, node)) = self.items.find(|(_, node)| !reading.is_absent(node)) else {
            return Ok(None);
        };
        let field = self.de.field.index(index);
        seed.deserialize(De { node, field: &field, reading, lenient: self.de.lenient }).map(Some)
    }
}
