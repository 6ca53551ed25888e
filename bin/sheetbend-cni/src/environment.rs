//! The parameters that come as environment variables (CNI 1.1.0, "Parameters").

use sheetbend_cni_wire::{AttachmentRef, CniError, code};

/// Longest container id, bytes. The specification has no limit; a file name has.
const CONTAINER_ID_BYTES: usize = 200;
/// linux/if.h IFNAMSIZ − 1.
const IFNAME_BYTES: usize = 15;

/// What a runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
}

/// The variables, checked as far as the command needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) command: Command,
    /// Empty strings for GC and STATUS.
    pub(crate) attachment: AttachmentRef,
    /// Empty where DEL came without.
    pub(crate) netns: String,
    pub(crate) args: String,
}

fn invalid(msg: String, details: &str) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, msg, details)
}

impl Environment {
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let get = |name: &str| variable(name).unwrap_or_default();
        let command = match get("CNI_COMMAND").as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "" => {
                return Err(invalid(
                    "CNI_COMMAND is not set".to_owned(),
                    "a container runtime sets it; by hand: cnitool",
                ));
            }
            other => {
                let msg = format!("CNI_COMMAND is {other:?}");
                return Err(invalid(msg, "it must be ADD, DEL, CHECK, GC, STATUS or VERSION"));
            }
        };
        let needed: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Command::Gc | Command::Status => &[],
        };
        let missing: Vec<&str> = needed.iter().copied().filter(|name| get(name).is_empty()).collect();
        if !missing.is_empty() {
            return Err(invalid(format!("{} not set", missing.join(", ")), "the command needs them"));
        }
        let attachment = AttachmentRef { container_id: get("CNI_CONTAINERID"), ifname: get("CNI_IFNAME") };
        if !needed.is_empty() {
            check_container_id(&attachment.container_id)?;
            check_ifname(&attachment.ifname)?;
        }
        Ok(Self { command, attachment, netns: get("CNI_NETNS"), args: get("CNI_ARGS") })
    }
}

/// "Must start with an alphanumeric character, optionally followed by any combination of one or more alphanumeric
/// characters, underscore (), dot (.) or hyphen (-)" (CNI 1.1.0, "Parameters", of CNI_CONTAINERID; networks' names too).
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn check_container_id(id: &str) -> Result<(), CniError> {
    if !is_identifier(id) {
        let rule = "it must begin with a letter or digit and go on with letters, digits, '_', '.' or '-'";
        return Err(invalid(format!("CNI_CONTAINERID is {id:?}"), rule));
    }
    if id.len() > CONTAINER_ID_BYTES {
        let msg = format!("CNI_CONTAINERID has {} bytes", id.len());
        return Err(invalid(msg, "at most 200 are taken, since files are named by it"));
    }
    Ok(())
}

/// The kernel's rules for names of interfaces (`dev_valid_name`), which the specification's agree with.
fn check_ifname(name: &str) -> Result<(), CniError> {
    let forbidden =
        |letter: char| letter == '/' || letter == ':' || letter.is_whitespace() || letter.is_control();
    if name.len() > IFNAME_BYTES || name == "." || name == ".." || name.contains(forbidden) {
        let rule = "an interface name has 1 to 15 bytes, is not '.' or '..', and has no '/', ':' or space";
        return Err(invalid(format!("CNI_IFNAME is {name:?}"), rule));
    }
    Ok(())
}
