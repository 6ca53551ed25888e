//! Hostile input for every parser: a target is a function of bytes that must not panic, whatever they are.

mod cni;
mod dns;
mod events;
mod files;
mod made;
mod objects;

/// A parser under attack.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of its directory below `corpus`.
    pub name: &'static str,
    /// Words of its format, for mutations.
    pub tokens: &'static [&'static str],
    run: fn(&[u8]),
    made: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Inputs that are made, beside those in the corpus: what this version writes.
    pub fn made(&self) -> Vec<Vec<u8>> {
        (self.made)()
    }

    /// Reads `input`.
    ///
    /// # Panics
    /// Where something is wrong with the parser.
    pub fn run(&self, input: &[u8]) {
        (self.run)(input);
    }
}

/// Every target, by name.
pub const TARGETS: &[Target] = &[
    Target {
        name: "api_objects",
        tokens: objects::TOKENS,
        run: objects::from_api_server,
        made: made::objects,
    },
    Target {
        name: "attachment_file",
        tokens: files::TOKENS,
        run: files::attachment,
        made: made::attachments,
    },
    Target { name: "cni_request", tokens: cni::TOKENS, run: cni::request, made: Vec::new },
    Target { name: "configuration", tokens: files::KEYS, run: files::configuration, made: Vec::new },
    Target { name: "dns_answer", tokens: &[], run: dns::answer, made: Vec::new },
    Target { name: "dns_query", tokens: &[], run: dns::query, made: Vec::new },
    Target { name: "last_good", tokens: objects::TOKENS, run: files::last_good, made: made::last_good },
    Target { name: "manifests", tokens: objects::TOKENS, run: objects::manifests, made: Vec::new },
    Target { name: "packet_event", tokens: &[], run: events::packet, made: Vec::new },
    Target {
        name: "resolv_conf",
        tokens: &["nameserver ", "::1", "127.0.0.1", "%lo", "\n"],
        run: dns::resolv_conf,
        made: Vec::new,
    },
];

/// The target called `name`.
///
/// # Panics
/// Where there is none.
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    *found.unwrap_or_else(|| {
        panic!("no target {name}; there are {:?}", TARGETS.iter().map(|t| t.name).collect::<Vec<_>>())
    })
}
