//! Compares two eBPF objects by what the kernel gets of them, without debug information.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHT_REL: u32 = 9;

struct Section<'a> {
    name: String,
    kind: u32,
    link: usize,
    info: usize,
    bytes: &'a [u8],
}

/// One relocation: where, of which type, against which symbol (its name, or its section and value for local ones).
type Relocation = (u64, u32, String);

/// What a loader uses of an object: section name → its bytes and relocations.
type Loaded = BTreeMap<String, (Vec<u8>, Vec<Relocation>)>;

/// The names of program, map and data sections whose bytes or relocations differ.
pub(super) fn differences(old: &[u8], new: &[u8]) -> Result<Vec<String>> {
    let (old, new) = (loaded(old).context("committed object")?, loaded(new).context("built object")?);
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differing = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    Ok(differing.map(|name| format!("section {name}")).collect())
}

fn loaded(object: &[u8]) -> Result<Loaded> {
    let sections = sections(object)?;
    let mut found = BTreeMap::new();
    for (index, section) in sections.iter().enumerate() {
        if section.kind == SHT_REL || section.kind == SHT_SYMTAB || is_debug(&section.name) {
            continue;
        }
        let mut relocations = Vec::new();
        for table in sections.iter().filter(|table| table.kind == SHT_REL && table.info == index) {
            relocations.extend(read_relocations(table, &sections)?);
        }
        found.insert(section.name.clone(), (section.bytes.to_vec(), relocations));
    }
    Ok(found)
}

fn is_debug(name: &str) -> bool {
    // BTF carries paths and lines; .strtab carries the names of local symbols.
    name.is_empty() || name.starts_with(".debug") || name.starts_with(".BTF") || name.ends_with("strtab")
}

fn sections(object: &[u8]) -> Result<Vec<Section<'_>>> {
    if object.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        bail!("not a little-endian ELF64 file");
    }
    let start = usize::try_from(u64_at(object, 40)?)?;
    let (size, count, names) = (u16_at(object, 58)?, u16_at(object, 60)?, u16_at(object, 62)?);
    let header = |index: u16| start + usize::from(index) * usize::from(size);
    let names_at = usize::try_from(u64_at(object, header(names) + 24)?)?;
    (0..count)
        .map(|index| {
            let at = header(index);
            let kind = u32_at(object, at + 4)?;
            let (offset, length) =
                (usize::try_from(u64_at(object, at + 24)?)?, usize::try_from(u64_at(object, at + 32)?)?);
            let bytes = if kind == SHT_NOBITS { &[][..] } else { slice(object, offset, length)? };
            Ok(Section {
                name: text_at(object, names_at + u32_at(object, at)? as usize)?,
                kind,
                link: u32_at(object, at + 40)? as usize,
                info: u32_at(object, at + 44)? as usize,
                bytes,
            })
        })
        .collect()
}

fn read_relocations(table: &Section<'_>, sections: &[Section<'_>]) -> Result<Vec<Relocation>> {
    let symbols = sections.get(table.link).context("relocations without symbols")?;
    let strings = sections.get(symbols.link).context("symbols without names")?;
    let mut found = Vec::new();
    for at in (0..table.bytes.len()).step_by(16) {
        let info = u64_at(table.bytes, at + 8)?;
        let symbol = usize::try_from(info >> 32)? * 24;
        let (kind, section) =
            (symbols.bytes.get(symbol + 4).copied().unwrap_or(0), u16_at(symbols.bytes, symbol + 6)?);
        // A local symbol's name holds a hash of the crate's path: its place says as much.
        let name = if kind >> 4 == 0 {
            let place = sections.get(usize::from(section)).map_or("", |section| section.name.as_str());
            format!("{place}+{}", u64_at(symbols.bytes, symbol + 8)?)
        } else {
            text_at(strings.bytes, u32_at(symbols.bytes, symbol)? as usize)?
        };
        found.push((u64_at(table.bytes, at)?, u32::try_from(info & 0xffff_ffff)?, name));
    }
    found.sort();
    Ok(found)
}

fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    let end = at.checked_add(length).context("section overflows")?;
    bytes.get(at..end).context("the file is cut short")
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    Ok(slice(bytes, at, N)?.try_into()?)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(array(bytes, at)?))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(array(bytes, at)?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(array(bytes, at)?))
}

fn text_at(bytes: &[u8], at: usize) -> Result<String> {
    let rest = bytes.get(at..).context("a name outside the file")?;
    let end = rest.iter().position(|byte| *byte == 0).context("a name without end")?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    /// An ELF64 file with a program section, a debug section and the section names.
    fn object(program: &[u8], debug: &[u8]) -> Vec<u8> {
        let names = b"\0classifier\0.BTF\0.shstrtab\0";
        let mut file = vec![0u8; 64];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        let mut headers = vec![[0u8; 64]];
        for (name, bytes) in [(1u32, program), (12, debug), (17, &names[..])] {
            let mut header = [0u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&1u32.to_le_bytes());
            header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            file.extend_from_slice(bytes);
            headers.push(header);
        }
        let start = file.len() as u64;
        file[40..48].copy_from_slice(&start.to_le_bytes());
        file[58..60].copy_from_slice(&64u16.to_le_bytes());
        file[60..62].copy_from_slice(&4u16.to_le_bytes());
        file[62..64].copy_from_slice(&3u16.to_le_bytes());
        file.extend(headers.concat());
        file
    }

    #[test]
    fn debug_information_does_not_count() {
        assert!(differences(&object(b"code", b"here"), &object(b"code", b"elsewhere")).unwrap().is_empty());
    }

    #[test]
    fn a_changed_instruction_is_named_by_its_section() {
        let found = differences(&object(b"code", b"x"), &object(b"c0de", b"x")).unwrap();
        assert_eq!(found, ["section classifier"]);
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let whole = object(b"code", b"x");
        assert!(differences(&whole, &whole[..70]).is_err());
    }
}
