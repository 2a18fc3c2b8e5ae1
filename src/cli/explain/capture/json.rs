//! A notification as a JSON object, as frameworks log their parameter maps. Nested values are written out again
//! in their own order and without blanks, as Alipay writes the JSON in its values.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::super::parameters::Parameters;

/// The members of an object; `None` if it is none.
pub(super) fn read(content: &[u8]) -> Option<Parameters> {
    members(serde_json::from_slice(content).ok()?)
}

/// The members of the object that `content` begins with, whatever comes behind it.
pub(super) fn read_first(content: &[u8]) -> Option<Parameters> {
    members(serde_json::Deserializer::from_slice(content).into_iter().next()?.ok()?)
}

fn members(json: Json) -> Option<Parameters> {
    let Json::Object(members) = json else { return None };
    let pairs =
        members.into_iter().map(|(name, value)| (name.into_bytes(), value.into_parameter().into_bytes()));
    Some(pairs.collect())
}

enum Json {
    Text(String),
    Plain(String),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    /// As the value of a parameter. A list of one text is what servers make of a single parameter.
    fn into_parameter(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Plain(text) if text == "null" => String::new(),
            Self::Array(items) => match <[Self; 1]>::try_from(items) {
                Ok([Self::Text(text)]) => text,
                Ok(items) => Self::Array(items.into()).to_string(),
                Err(items) => Self::Array(items).to_string(),
            },
            other @ (Self::Plain(_) | Self::Object(_)) => other.to_string(),
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        match self {
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Plain(text) => f.write_str(text),
            Self::Array(items) => {
                let items: Vec<String> = items.iter().map(Self::to_string).collect();
                write!(f, "[{}]", items.join(","))
            }
            Self::Object(members) => {
                let member = |(name, value): &(String, Self)| format!("{}:{value}", quoted(name));
                let members: Vec<String> = members.iter().map(member).collect();
                write!(f, "{{{}}}", members.join(","))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Plain(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Plain(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Plain(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Plain(value.to_string()))
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Plain("null".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}
