//! Documents whose objects have a key twice. Readers of JSON and YAML keep the last one and say nothing, so that of two jobs
//! that somebody wrote into one object only the second is left.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::shape::Problem;

/// Keys that are told; whoever mends these finds the others.
const TOLD_MAX: usize = 8;
/// Of each so many characters.
const KEY_CHARS: usize = 60;

/// A document, in which the last of equal keys counts.
#[derive(Debug, Default)]
pub struct Document {
    /// What it says.
    pub value: Value,
    /// Where an object has a key twice, as in `container.image`; at most eight of them.
    pub twice: Vec<String>,
}

impl Document {
    /// Reads JSON.
    /// # Errors
    /// It is none.
    pub fn of_json(text: &[u8]) -> serde_json::Result<Self> {
        let mut source = serde_json::Deserializer::from_slice(text);
        let document = Self::read(&mut source)?;
        source.end()?;
        Ok(document)
    }

    /// Reads the next document of any format.
    /// # Errors
    /// What the format says.
    pub fn read<'de, D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let mut twice = Vec::new();
        let value = Reader { place: &Place::Top, twice: &mut twice }.deserialize(source)?;
        Ok(Self { value, twice })
    }

    /// What it says, if it says it once.
    /// # Errors
    /// The first key that is there twice.
    pub fn once(self) -> Result<Value, Problem> {
        match self.twice.first() {
            None => Ok(self.value),
            Some(key) => {
                let message = format!("`{key}` is written twice");
                Err(Problem::invalid(key, message, "keep one of them; each job is an object of its own"))
            }
        }
    }

    /// What its author should know, one sentence each.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.twice.iter().map(|key| format!("`{key}` is written twice; the last one counts"))
    }
}

/// Where in a document a value is; written only when there is something to tell.
enum Place<'a> {
    Top,
    Key(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Item(within, i) => write!(f, "{within}[{i}]"),
            Self::Key(within, key) => {
                let dot = if matches!(within, Self::Top) { "" } else { "." };
                let clipped: String = key.chars().take(KEY_CHARS).collect();
                write!(f, "{within}{dot}{clipped}")
            }
        }
    }
}

struct Reader<'a> {
    place: &'a Place<'a>,
    twice: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value of JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        self.deserialize(source)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let place = Place::Item(self.place, list.len());
            match items.next_element_seed(Reader { place: &place, twice: &mut *self.twice })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let place = Place::Key(self.place, &key);
            let value = entries.next_value_seed(Reader { place: &place, twice: &mut *self.twice })?;
            if object.contains_key(&key) && self.twice.len() < TOLD_MAX {
                self.twice.push(place.to_string());
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_that_are_there_twice_are_found_wherever_they_are() {
        let check = |text: &str, value: Value, twice: &[&str]| {
            let found = Document::of_json(text.as_bytes()).unwrap_or_default();
            assert_eq!(
                (&found.value, found.twice.as_slice()),
                (&value, &twice.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{text}"
            );
        };
        check(
            r#"{"a": 1, "b": [null, true, "x", -1, 1.5, 18446744073709551615]}"#,
            json!({"a": 1, "b": [null, true, "x", -1, 1.5, u64::MAX]}),
            &[],
        );
        check(r#"{"name": "b", "name": "c"}"#, json!({"name": "c"}), &["name"]);
        check(r#"{"a": [{"b": {"c": 1, "c": 2}}], "a": 3}"#, json!({"a": 3}), &["a[0].b.c", "a"]);
        check(r#"[{"x": 1, "x": 1}]"#, json!([{"x": 1}]), &["[0].x"]);
        check(r#"{"a": 1, "A": 2}"#, json!({"a": 1, "A": 2}), &[]);
        assert!(Document::of_json(b"{} {}").is_err());
        assert!(Document::of_json("[".repeat(2000).as_bytes()).is_err());
        let many = format!("{{{}}}", vec![r#""k": 1"#; 1000].join(","));
        assert_eq!(Document::of_json(many.as_bytes()).map(|found| found.twice.len()).ok(), Some(TOLD_MAX));
    }

    #[test]
    fn yaml_is_read_as_json_is() {
        let read =
            |text: &str| Document::read(serde_norway::Deserializer::from_str(text)).unwrap_or_default();
        let two = read("name: first\ncommand: a\nname: second\n");
        assert_eq!(
            (two.value["name"].as_str(), two.twice.as_slice()),
            (Some("second"), &["name".to_owned()][..])
        );
        let all = "a: 1\nb: [~, yes, 'x', -1, 1.5]\n1: c\nd: {}\ne: 2030-01-01\nf:\n";
        let known: Value = serde_norway::from_str(all).unwrap_or_default();
        assert!(known.is_object(), "{known}");
        assert_eq!(read(all).value, known);
    }
}
