//! The configuration file as dotted keys.

use saphyr::{LoadableYamlNode, Scalar, Yaml};

/// Every leaf of a YAML mapping: dotted key → its items (one for a scalar).
pub(super) fn leaves(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    let documents = Yaml::load_from_str(text).map_err(|error| format!("is no YAML: {error}"))?;
    let mut leaves = Vec::new();
    match documents.as_slice() {
        [] => (),
        [document] => walk(document, "", &mut leaves)?,
        _ => return Err("has more than one document; keep one".to_owned()),
    }
    Ok(leaves)
}

fn walk(node: &Yaml<'_>, key: &str, leaves: &mut Vec<(String, Vec<String>)>) -> Result<(), String> {
    if let Some(mapping) = node.as_mapping() {
        for (name, value) in mapping {
            let name = scalar(name).ok_or_else(|| format!("below {key:?} a key is no text"))?;
            let inner = if key.is_empty() { name } else { format!("{key}.{name}") };
            walk(value, &inner, leaves)?;
        }
        return Ok(());
    }
    let items = match node.as_vec() {
        Some(list) => list
            .iter()
            .map(|item| scalar(item).ok_or_else(|| format!("{key}: takes a list of plain values")))
            .collect::<Result<_, _>>()?,
        None => vec![scalar(node).ok_or_else(|| format!("{key}: takes a plain value or a list of them"))?],
    };
    if key.is_empty() {
        return Err("is no mapping; write keys such as network: {mode: vxlan}".to_owned());
    }
    leaves.push((key.to_owned(), items));
    Ok(())
}

fn scalar(node: &Yaml<'_>) -> Option<String> {
    match node {
        Yaml::Value(Scalar::String(text)) => Some(text.to_string()),
        Yaml::Value(Scalar::Integer(number)) => Some(number.to_string()),
        Yaml::Value(Scalar::Boolean(flag)) => Some(flag.to_string()),
        Yaml::Value(Scalar::FloatingPoint(number)) => Some(number.to_string()),
        Yaml::Representation(text, ..) => Some(text.to_string()),
        Yaml::Value(Scalar::Null)
        | Yaml::Sequence(_)
        | Yaml::Mapping(_)
        | Yaml::Tagged(..)
        | Yaml::Alias(_)
        | Yaml::BadValue => None,
    }
}
