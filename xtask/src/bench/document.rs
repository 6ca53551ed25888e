//! Tables in docs/performance.md, between markers that name them.

use serde_json::Value;

use super::Row;
use super::registry::Bench;

/// A benchmark's section: heading, what it measures, its rows.
pub(super) fn table(bench: &Bench, rows: &[Row]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = format!("## {}\n\n{}\n\n", bench.title, bench.about);
    text += &line(bench.columns.iter().map(|(_, heading)| heading.clone()).collect());
    text += &line(bench.columns.iter().map(|(key, _)| rule(rows, key)).collect());
    for row in rows {
        text += &line(bench.columns.iter().map(|(key, _)| cell(row.get(key))).collect());
    }
    text
}

/// Numbers stand right.
fn rule(rows: &[Row], key: &str) -> String {
    let numbers = rows.iter().any(|row| row.get(key).is_some_and(Value::is_number));
    if numbers { "--:".to_owned() } else { "---".to_owned() }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "**no**".to_owned(),
        Some(Value::String(text)) => text.replace('|', "\\|"),
        Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => thousands(whole),
            (None, Some(float)) => short(float),
            (None, None) => number.to_string(),
        },
        Some(other) => other.to_string(),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three significant digits, which is more than such measurements hold.
fn short(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 1.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

/// `document` with the section `name` replaced, or added at the end.
pub(super) fn put(document: &str, name: &str, section: &str) -> String {
    let (open, close) = (format!("<!-- bench:{name} -->"), format!("<!-- /bench:{name} -->"));
    let block = format!("{open}\n{}\n{close}", section.trim_end());
    match (document.find(&open), document.find(&close)) {
        (Some(start), Some(end)) if start < end => {
            format!("{}{block}{}", &document[..start], &document[end + close.len()..])
        }
        _ => format!("{}\n\n{block}\n", document.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn a_section_is_replaced_in_place_and_the_rest_kept() {
        let before = "# Performance\n\nText.\n\n<!-- bench:a -->\nold\n<!-- /bench:a -->\n\nEnd.\n";
        let after = put(before, "a", "new\n");
        assert_eq!(after, before.replace("old", "new"));
        assert!(put(&after, "b", "more").ends_with("End.\n\n<!-- bench:b -->\nmore\n<!-- /bench:b -->\n"));
    }

    #[test]
    fn rows_become_a_table_in_the_order_of_the_columns() {
        let bench = Bench {
            name: "a".into(),
            title: "T".into(),
            about: "A.".into(),
            package: String::new(),
            target: String::new(),
            is_example: true,
            arguments: Vec::new(),
            limit_seconds: 1,
            columns: vec![("z".into(), "Zed".into()), ("met".into(), "met".into())],
        };
        let row: Row = serde_json::from_str(r#"{"met":false,"z":44000,"more":1}"#).unwrap();
        assert_eq!(
            table(&bench, &[row]),
            "## T\n\nA.\n\n| Zed | met |\n| --: | --- |\n| 44,000 | **no** |\n"
        );
        assert_eq!(
            (short(0.01234), short(12.345), short(1234.5)),
            ("0.012".into(), "12.3".into(), "1234".into())
        );
    }
}
