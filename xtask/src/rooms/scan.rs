//! Reads Rust source just well enough: code without comments and literals, and the paths in it.

/// The code of a file, line by line, with comments and the insides of literals blanked.
pub(crate) fn code_of(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let next = skip(&chars, at);
        if next > at {
            // Keep line numbers over a comment or literal of several lines.
            for _ in chars[at..next].iter().filter(|c| **c == '\n') {
                lines.push(String::new());
            }
            push(&mut lines, ' ');
            at = next;
        } else {
            if chars[at] == '\n' {
                lines.push(String::new());
            } else {
                push(&mut lines, chars[at]);
            }
            at += 1;
        }
    }
    lines
}

fn push(lines: &mut [String], c: char) {
    if let Some(last) = lines.last_mut() {
        last.push(c);
    }
}

/// The end of the comment or literal that starts at `at`, or `at` when none does.
fn skip(chars: &[char], at: usize) -> usize {
    let get = |index: usize| chars.get(index).copied().unwrap_or('\0');
    match (get(at), get(at + 1)) {
        ('/', '/') => (at..chars.len()).find(|index| chars[*index] == '\n').unwrap_or(chars.len()),
        ('/', '*') => block_comment(chars, at),
        ('"', _) => string(chars, at),
        ('r', '"' | '#') if at == 0 || !is_word(get(at - 1)) || get(at - 1) == 'b' => raw_string(chars, at),
        // A character, not a lifetime.
        ('\'', '\\') => (at + 3..chars.len()).find(|index| chars[*index] == '\'').map_or(at, |end| end + 1),
        ('\'', _) if get(at + 2) == '\'' => at + 3,
        _ => at,
    }
}

fn block_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut index) = (0_u32, at);
    while index < chars.len() {
        match (chars[index], chars.get(index + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                index += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                index += 2;
                if depth == 0 {
                    return index;
                }
            }
            _ => index += 1,
        }
    }
    chars.len()
}

fn string(chars: &[char], at: usize) -> usize {
    let mut index = at + 1;
    while index < chars.len() {
        match chars[index] {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    chars.len()
}

fn raw_string(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at; // a raw identifier
    }
    let closes = |index: &usize| {
        chars[*index] == '"'
            && chars[index + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (at + 2 + hashes..chars.len()).find(closes).map_or(chars.len(), |end| end + 1 + hashes)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words (identifiers) of a line of code, each with whether `::` follows it.
pub(crate) fn names_in(line: &str) -> Vec<(&str, bool)> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        found.push((word, after.trim_start().starts_with("::")));
        rest = after;
    }
    found
}
