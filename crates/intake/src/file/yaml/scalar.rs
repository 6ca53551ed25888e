//! What a plain scalar means.

/// A scalar's value. The rules are those of `kubectl` (sigs.k8s.io/yaml): YAML 1.1's words for true and false, and
/// octal numbers, so that a file means here what it means there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::file) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Text(&'a str),
}

impl<'a> Scalar<'a> {
    /// The value of an unquoted `text`.
    pub(in crate::file) fn plain(text: &'a str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
                return Scalar::Bool(true);
            }
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
                return Scalar::Bool(false);
            }
            _ => {}
        }
        if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
            return Scalar::Text(text);
        }
        integer(text).or_else(|| float(text)).unwrap_or(Scalar::Text(text))
    }

    /// "a number", for messages.
    pub(in crate::file) fn describe(self) -> &'static str {
        match self {
            Scalar::Null => "empty (null)",
            Scalar::Bool(_) => "true or false",
            Scalar::Int(_) | Scalar::UInt(_) => "a number",
            Scalar::Float(_) => "a fraction",
            Scalar::Text(_) => "text",
        }
    }
}

fn integer<'a>(text: &str) -> Option<Scalar<'a>> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some(two) if two.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            (8, &digits[1..])
        }
        _ => (10, digits),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let number = u64::from_str_radix(digits, radix).ok()?;
    match (negative, i64::try_from(number)) {
        (false, Ok(number)) => Some(Scalar::Int(number)),
        (false, Err(_)) => Some(Scalar::UInt(number)),
        (true, Ok(number)) => Some(Scalar::Int(-number)),
        (true, Err(_)) => None,
    }
}

fn float<'a>(text: &str) -> Option<Scalar<'a>> {
    let shape = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if !shape || !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite()).map(Scalar::Float)
}

#[cfg(test)]
mod tests {
    use super::Scalar::{self, Bool, Float, Int, Null, Text, UInt};

    #[test]
    fn plain_scalars_mean_what_kubectl_reads() {
        for (text, value) in [
            ("", Null),
            ("~", Null),
            ("yes", Bool(true)),
            ("off", Bool(false)),
            ("0", Int(0)),
            ("-1", Int(-1)),
            ("0644", Int(420)),
            ("0x1F", Int(31)),
            ("18446744073709551615", UInt(u64::MAX)),
            ("1.5", Float(1.5)),
            ("1e3", Float(1000.0)),
            ("08", Float(8.0)),
            ("10.96.0.10", Text("10.96.0.10")),
            ("1:2", Text("1:2")),
            ("-", Text("-")),
            (".", Text(".")),
            ("0x", Text("0x")),
            ("100m", Text("100m")),
            ("web", Text("web")),
        ] {
            assert_eq!(Scalar::plain(text), value, "{text:?}");
        }
    }
}
