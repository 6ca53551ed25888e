//! Files: the configuration, the last good Snapshot, attachments.

use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use sheetbend_apply::store;
use sheetbend_intake::last_good;
use sheetbend_shell::config::{Config, Sources};

pub(crate) const TOKENS: &[&str] =
    &["null", "[]", "{}", "\"\"", "\"10.0.0.1\"", "\"::1\"", "\"eth0\"", "\"ingress\":", "\"addresses\":"];

pub(crate) const KEYS: &[&str] = &[
    "network:\n",
    "  mode: ",
    "vxlan",
    "  podCIDRs: [",
    "10.244.0.0/16",
    "::/0",
    "nat:\n",
    "  ports: ",
    "1024-65535",
    "dns:\n",
    "limits:\n",
    "  RULES: ",
    "node:\n",
    "  name: ",
    "&a ",
    "*a",
    "? ",
    "---\n",
    "\t",
];

/// Either all of it is right, or all that is wrong is told.
pub(crate) fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(errors) = Config::load(Sources::default().yaml("config.yaml".to_owned(), text)) {
        assert!(!errors.0.is_empty() && !errors.to_string().is_empty());
    }
}

/// The lines of the file without the digest: what follows is as whole as an older version left it.
pub(crate) fn last_good(input: &[u8]) {
    let mut file = input.to_vec();
    if file.last().is_some_and(|byte| *byte != b'\n') {
        file.push(b'\n');
    }
    let digest: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    for text in [&b""[..], format!("sha256 {digest}\n").as_bytes()] {
        match last_good::parse([&file, text].concat().as_slice(), Path::new("last-good")) {
            Ok(snapshot) => crate::objects::compiled(&snapshot),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// One file of the directory of attachments.
pub(crate) fn attachment(input: &[u8]) {
    let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let attachments = directory.path().join("boot/attachments");
    let written =
        fs::create_dir_all(&attachments).and_then(|()| fs::write(attachments.join("a.json"), input));
    written.unwrap_or_else(|error| panic!("{error}"));
    if let Err(error) = store::read_back(directory.path(), "boot") {
        assert!(!error.to_string().is_empty());
    }
}
