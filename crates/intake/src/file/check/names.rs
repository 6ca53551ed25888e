//! The forms of names, labels and ports (apimachinery `util/validation`).

/// Why a text is not of the form asked for, as "`value` why; fix".
pub(in crate::file) type Why = (String, String);

fn why(rule: &str, fix: &str) -> Result<(), Why> {
    Err((rule.to_owned(), fix.to_owned()))
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_label(text: &str) -> bool {
    text.bytes().all(is_label_byte) && !text.is_empty() && !text.starts_with('-') && !text.ends_with('-')
}

/// RFC 1123 label: Namespaces, port names of Services.
pub(in crate::file) fn dns_label(text: &str) -> Result<(), Why> {
    if text.len() > 63 {
        return why("is longer than 63 characters", "shorten it");
    }
    if !is_label(text) {
        return why("is no DNS label", "use lower-case letters, digits and '-', and no '-' at either end");
    }
    Ok(())
}

/// RFC 1035 label: Services.
pub(in crate::file) fn dns_1035_label(text: &str) -> Result<(), Why> {
    dns_label(text)?;
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return why("does not begin with a letter", "begin a Service's name with a lower-case letter");
    }
    Ok(())
}

/// RFC 1123 subdomain: most objects.
pub(in crate::file) fn dns_subdomain(text: &str) -> Result<(), Why> {
    if text.len() > 253 {
        return why("is longer than 253 characters", "shorten it");
    }
    if !text.split('.').all(is_label) {
        return why(
            "is no DNS subdomain",
            "use lower-case letters, digits, '-' and '.', with a letter or digit at both ends and around each '.'",
        );
    }
    Ok(())
}

/// `[prefix/]name` of a label or annotation.
pub(in crate::file) fn qualified_name(text: &str) -> Result<(), Why> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            if let Err((rule, fix)) = dns_subdomain(prefix) {
                return Err((format!("has a prefix that {rule}"), fix));
            }
            name
        }
        None => text,
    };
    if name.is_empty() || name.len() > 63 {
        return why("has a name of no or more than 63 characters", "use 1 to 63 characters after the prefix");
    }
    if !is_label_text(name) {
        return why(
            "is no key of a label or annotation",
            "write [prefix/]name; the name has letters, digits, '-', '_' and '.', with a letter or digit at both ends",
        );
    }
    Ok(())
}

/// A label's value.
pub(in crate::file) fn label_value(text: &str) -> Result<(), Why> {
    if text.len() > 63 {
        return why("is longer than 63 characters", "shorten it");
    }
    if !text.is_empty() && !is_label_text(text) {
        return why(
            "is no label value",
            "use letters, digits, '-', '_' and '.', with a letter or digit at both ends",
        );
    }
    Ok(())
}

fn is_label_text(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.bytes().all(inner) && text.starts_with(edge) && text.ends_with(edge)
}

/// IANA service name (RFC 6335 §5.1): names of container ports, and where they are referred to.
pub(in crate::file) fn port_name(text: &str) -> Result<(), Why> {
    if text.is_empty() || text.len() > 15 {
        return why("is not 1 to 15 characters long", "shorten the port's name");
    }
    if !is_label(text) || text.contains("--") || !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return why(
            "is no port name",
            "use lower-case letters, digits and single '-' inside, with at least one letter",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn forms() {
        for good in ["a", "web-0", "0"] {
            dns_label(good).unwrap();
        }
        for bad in ["", "-a", "a-", "A", "a.b", "ä", &"a".repeat(64)] {
            dns_label(bad).unwrap_err();
        }
        dns_subdomain("a.b-c.0").unwrap();
        for bad in ["a..b", ".a", "a.", "a_b"] {
            dns_subdomain(bad).unwrap_err();
        }
        dns_1035_label("0web").unwrap_err();
        for good in ["app", "app.kubernetes.io/name", "A_b.c"] {
            qualified_name(good).unwrap();
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "A/b"] {
            qualified_name(bad).unwrap_err();
        }
        label_value("").unwrap();
        label_value("V1.2_x").unwrap();
        label_value("a b").unwrap_err();
        port_name("http-8").unwrap();
        for bad in ["80", "a--b", "-a", "a-very-long-port-name", "Http"] {
            port_name(bad).unwrap_err();
        }
    }
}
