//! Netlink attributes of nftables: length and type in the machine's order, numbers in network order.

/// `NLA_TYPE_MASK` of linux/netlink.h: what is left of a type without its flags.
const TYPE_MASK: u16 = 0x3fff;
const HEADER_BYTES: usize = 4;

/// The attributes in a run of bytes, as (type, value). Ends at the first that does not fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.rest.get(..HEADER_BYTES)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = self.rest.get(HEADER_BYTES..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The value of the first attribute of type `kind`.
pub(super) fn find(mut attributes: Attributes<'_>, kind: u16) -> Option<&[u8]> {
    attributes.find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A 32-bit number.
pub(super) fn word(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A string, without its terminator.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_padded_and_cut_off() {
        let bytes = [
            &9_u16.to_ne_bytes()[..],
            &3_u16.to_ne_bytes(),
            b"chain",
            &[0; 3], // 5 bytes, padded to 12
            &8_u16.to_ne_bytes(),
            &(0x8000_u16 | 5).to_ne_bytes(),
            &[0, 0, 0, 1], // a flag beside the type
            &99_u16.to_ne_bytes(),
            &7_u16.to_ne_bytes(),
            &[1, 2], // longer than what is there
        ]
        .concat();
        let all: Vec<_> = Attributes::new(&bytes).collect();
        assert_eq!(all, [(3, &b"chain"[..]), (5, &[0, 0, 0, 1][..])]);
        assert_eq!(find(Attributes::new(&bytes), 5).and_then(word), Some(1));
        assert_eq!(find(Attributes::new(&bytes), 3).map(text).as_deref(), Some("chain"));
        assert_eq!(word(b"chain"), None);
    }
}
