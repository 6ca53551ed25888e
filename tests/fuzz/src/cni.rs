//! What the plugin sends to the agent.

use sheetbend_cni_wire::{Request, read, write};

pub(crate) const TOKENS: &[&str] = &[
    "\"ADD\"",
    "\"DEL\"",
    "\"GC\"",
    "\"CHECK\"",
    "\"STATUS\"",
    "null",
    "[]",
    "{}",
    "\"requested\":",
    "\"bandwidth\":",
];

/// A request that is understood is written and read back the same.
pub(crate) fn request(input: &[u8]) {
    let Ok(request) = read::<Request>(input) else { return };
    let mut written = Vec::new();
    write(&mut written, &request).unwrap_or_else(|error| panic!("{request:?}: {error}"));
    let again = read::<Request>(written.as_slice()).unwrap_or_else(|error| panic!("{request:?}: {error}"));
    assert_eq!(again, request);
}
