//! What a JSON document must look like, and the first thing that is wrong with it.
//!
//! Reads like a schema: a table of [`Field`]s says which keys there are and what each holds. The leniencies of
//! Chronos that harm nobody are kept: numbers and booleans written as text, text written as a number, `null` for
//! absent. What Chronos guessed at (garbage as 0) is refused with the path of the field and what was expected.

use std::time::Duration;

use serde_json::{Map, Number, Value};

use super::duration;

/// Ten years: far beyond sense, far below overflow.
pub const SPAN_MAX: Duration = Duration::from_secs(3660 * 86_400);

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What kind of wrong.
    pub kind: Kind,
    /// Path of the field, as in `container.volumes[0].mode`; empty for the document itself.
    pub field: String,
    /// For people.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// What kind of wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not JSON.
    Malformed,
    /// JSON that says something impossible.
    Invalid,
    /// More than is taken in.
    TooLarge,
}

impl Problem {
    /// A field says something impossible.
    pub fn invalid(field: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: Kind::Invalid, field: field.into(), message: message.into(), hint: hint.into() }
    }
}

/// A key of an object.
#[derive(Debug)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// Whether the object makes no sense without it.
    pub required: bool,
}

/// A key that may be left out.
pub const fn optional(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false }
}

/// A key that must be there.
pub const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true }
}

/// What a value may be.
#[derive(Debug)]
pub enum Shape {
    /// Text without NUL.
    Text,
    /// True or false.
    Bool,
    /// A whole number, both bounds included.
    Whole(i64, i64),
    /// A number, both bounds included.
    Real(f64, f64),
    /// One of these words; read without regard to case.
    Word(&'static [&'static str]),
    /// See [`duration::parse`]; kept as written. Both bounds included.
    Span(Duration, Duration),
    /// Any number of one shape.
    List(&'static Shape),
    /// Exactly these, in a row.
    Row(&'static [Shape]),
    /// An object with these keys.
    Object(&'static [Field]),
    /// Likewise, and with no other: to leave one out would change what the rest means.
    Closed(&'static [Field]),
    /// An object with any keys, all of one shape.
    Dictionary(&'static Shape),
    /// The first shape whose JSON type fits.
    Either(&'static [Shape]),
}

impl Shape {
    fn expected(&self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::Bool => "true or false".into(),
            Self::Whole(min, max) if *max == i64::MAX => format!("a whole number, at least {min}"),
            Self::Whole(min, max) => format!("a whole number from {min} to {max}"),
            Self::Real(min, max) => format!("a number from {min} to {max}"),
            Self::Word(words) => words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(" or "),
            Self::Span(min, max) => {
                format!(
                    "{} (at least {}, at most {})",
                    duration::EXPECTED,
                    duration::text(*min),
                    duration::text(*max)
                )
            }
            Self::List(_) => "a list".into(),
            Self::Row(items) => format!("a list of exactly {}", items.len()),
            Self::Object(fields) | Self::Closed(fields) => {
                format!(
                    "an object with {}",
                    fields.iter().map(|f| format!("\"{}\"", f.name)).collect::<Vec<_>>().join(", ")
                )
            }
            Self::Dictionary(_) => "an object".into(),
            Self::Either(shapes) => shapes.iter().map(Self::expected).collect::<Vec<_>>().join(", or "),
        }
    }
}

/// Reads documents and collects what their authors should know.
#[derive(Debug, Default)]
pub struct Reader {
    /// One sentence each.
    pub warnings: Vec<String>,
    /// Unknown fields beyond those that are named.
    unnamed: usize,
}

impl Reader {
    /// `value` in its normal form, or what is wrong with it.
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(&mut self, value: &Value, shape: &Shape, path: &str) -> Result<Value, Problem> {
        let wrong = || {
            let message = format!("`{path}`: expected {}, found {}", shape.expected(), found(value));
            Problem::invalid(path, message, "")
        };
        match shape {
            Shape::Text => {
                let text = text(value).ok_or_else(wrong)?;
                if text.contains('\0') {
                    let message = format!("`{path}` contains a NUL character, which no process can be given");
                    return Err(Problem::invalid(path, message, "remove \\u0000 from it"));
                }
                Ok(Value::String(text))
            }
            Shape::Bool => match (value, value.as_i64()) {
                (Value::Bool(b), _) => Some(*b),
                (_, Some(n)) => Some(n != 0),
                (Value::String(s), _) => s.trim().parse().ok(),
                _ => None,
            }
            .map(Value::Bool)
            .ok_or_else(wrong),
            Shape::Whole(min, max) => {
                let n = whole(value).filter(|n| (min..=max).contains(&n)).ok_or_else(wrong)?;
                Ok(Value::Number(n.into()))
            }
            Shape::Real(min, max) => {
                let n = real(value).filter(|n| (min..=max).contains(&n)).ok_or_else(wrong)?;
                Ok(Number::from_f64(n).map_or(Value::Null, Value::Number))
            }
            Shape::Word(words) => {
                let given = value.as_str().ok_or_else(wrong)?;
                let word = words.iter().find(|w| w.eq_ignore_ascii_case(given.trim())).ok_or_else(wrong)?;
                Ok(Value::String((*word).into()))
            }
            Shape::Span(min, max) => {
                let span = value.as_str().and_then(duration::parse).filter(|d| (min..=max).contains(&d));
                span.map(|_| value.clone()).ok_or_else(wrong)
            }
            Shape::List(item) => {
                let items = value.as_array().ok_or_else(wrong)?.iter().enumerate();
                items
                    .map(|(i, v)| self.read(v, item, &format!("{path}[{i}]")))
                    .collect::<Result<_, _>>()
                    .map(Value::Array)
            }
            Shape::Row(shapes) => {
                let items = value.as_array().filter(|items| items.len() == shapes.len()).ok_or_else(wrong)?;
                let read = items.iter().zip(*shapes).enumerate();
                read.map(|(i, (v, s))| self.read(v, s, &format!("{path}[{i}]")))
                    .collect::<Result<_, _>>()
                    .map(Value::Array)
            }
            Shape::Object(fields) => {
                let object = value.as_object().ok_or_else(wrong)?;
                self.read_object(object, fields, &[], path).map(Value::Object)
            }
            Shape::Closed(fields) => {
                let object = value.as_object().ok_or_else(wrong)?;
                if let Some(key) = object.keys().find(|key| !fields.iter().any(|field| field.name == **key)) {
                    let at = join(path, &clip(key));
                    let message = format!("`{at}`: unknown field; expected {}", shape.expected());
                    return Err(Problem::invalid(&at, message, ""));
                }
                self.read_object(object, fields, &[], path).map(Value::Object)
            }
            Shape::Dictionary(item) => {
                let mut entries: Vec<_> =
                    value.as_object().ok_or_else(wrong)?.iter().filter(|(_, v)| !v.is_null()).collect();
                entries.sort_by_key(|(key, _)| *key);
                let read =
                    entries.into_iter().map(|(k, v)| Ok((k.clone(), self.read(v, item, &join(path, k))?)));
                read.collect::<Result<_, _>>().map(Value::Object)
            }
            Shape::Either(shapes) => {
                let fitting = shapes.iter().find(|s| match s {
                    Shape::Object(_) | Shape::Closed(_) | Shape::Dictionary(_) => value.is_object(),
                    Shape::List(_) | Shape::Row(_) => value.is_array(),
                    _ => !value.is_object() && !value.is_array(),
                });
                self.read(value, fitting.ok_or_else(wrong)?, path)
            }
        }
    }

    /// The known fields of an object that are not null, in the order of `fields`. Unknown keys become a warning each,
    /// those of `ignored` do not.
    /// # Errors
    /// The first thing that is wrong.
    pub fn read_object(
        &mut self,
        object: &Map<String, Value>,
        fields: &[Field],
        ignored: &[&str],
        path: &str,
    ) -> Result<Map<String, Value>, Problem> {
        let mut read = Map::new();
        for field in fields {
            let at = join(path, field.name);
            match object.get(field.name) {
                None | Some(Value::Null) if field.required => {
                    let message = format!("`{at}` is missing: expected {}", field.shape.expected());
                    return Err(Problem::invalid(&at, message, ""));
                }
                None | Some(Value::Null) => {}
                Some(value) => {
                    read.insert(field.name.into(), self.read(value, &field.shape, &at)?);
                }
            }
        }
        for key in
            object.keys().filter(|k| !ignored.contains(&k.as_str()) && !fields.iter().any(|f| f.name == **k))
        {
            if self.warnings.len() >= WARNINGS_MAX {
                // They share the last warning.
                self.warnings.truncate(WARNINGS_MAX);
                self.unnamed += 1;
                self.warnings.push(match self.unnamed {
                    1 => "1 more unknown field was ignored".into(),
                    n => format!("{n} more unknown fields were ignored"),
                });
            } else {
                let at = join(path, &clip(key));
                self.warnings.push(match nearest(key, fields.iter().map(|f| f.name)) {
                    Some(name) => format!("unknown field `{at}` was ignored; did you mean `{name}`?"),
                    None => format!("unknown field `{at}` was ignored"),
                });
            }
        }
        Ok(read)
    }
}

/// The first key that is none of `known`, where whoever wrote it must not be left to believe that it counts.
pub fn stray(object: &Map<String, Value>, known: &[&str]) -> Option<Problem> {
    let key = object.keys().find(|key| !known.contains(&key.as_str()))?;
    let hint = match nearest(key, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known are {}", known.join(", ")),
    };
    Some(Problem::invalid(&clip(key), format!("unknown field `{}`", clip(key)), hint))
}

/// Warnings travel in a header, which has room for so many and one that counts the others.
const WARNINGS_MAX: usize = 16;

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

fn whole(value: &Value) -> Option<i64> {
    if let Some(n) = value.as_i64() {
        return Some(n);
    }
    if let Some(n) = value.as_str().and_then(|s| s.trim().parse().ok()) {
        return Some(n);
    }
    // 2^53: beyond it not every whole number has a form of its own.
    let n = real(value).filter(|n| n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0)?;
    #[expect(clippy::cast_possible_truncation, reason = "whole and within 53 bits, as just checked")]
    Some(n as i64)
}

fn real(value: &Value) -> Option<f64> {
    let n = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    };
    n.filter(|n| n.is_finite())
}

/// A value as people are shown it.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the text {:?}", clip(s)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".into(),
    }
}

/// As much of a text as a message has room for.
pub fn clip(text: &str) -> String {
    let clipped: String = text.chars().take(60).collect();
    if clipped.len() < text.len() { format!("{clipped}...") } else { clipped }
}

/// The known name that `given` is probably meant to be: the same but for case, or at most two typing errors away.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if given.len() > 40 {
        return None;
    }
    let given = given.to_lowercase();
    let best = known.map(|name| (distance(&given, &name.to_lowercase()), name)).min()?;
    (best.0 <= 2.min(given.len() / 3)).then_some(best.1)
}

/// Levenshtein's: insertions, deletions and replacements that make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[row.len() - 1]
}
