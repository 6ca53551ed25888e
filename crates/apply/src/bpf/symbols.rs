//! Symbols: what a number stands for, as a digest of its content.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use sheetbend_ebpf_abi::SymbolKind;
use sheetbend_model::plan::{Backend, Class, Frontend, Origin, PolicySet, Scope, ServiceEntry, Term};
use sheetbend_model::state::{Tier, TierPlace};
use sheetbend_model::types::{Direction, ObjectKey};

/// The first 16 bytes of the SHA-256 of a symbol's content. Equal content has equal digests in every version of this
/// crate with the same `LAYOUT_VERSION`: a restarted agent finds its numbers by them.
pub(super) type Digest = [u8; 16];

/// Writes a symbol's content without ambiguity: texts carry their length.
struct Content(Sha256);

impl Content {
    fn new(kind: SymbolKind) -> Self {
        let mut content = Self(Sha256::new());
        content.number(kind as u64);
        content
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text);
    }

    fn object(&mut self, object: &ObjectKey) {
        self.text(&object.namespace);
        self.text(&object.name);
    }

    fn addr(&mut self, addr: IpAddr) {
        self.0.update(super::rows::addr(addr));
    }

    fn digest(self) -> Digest {
        let full = self.0.finalize();
        let mut digest = [0; 16];
        digest.copy_from_slice(&full[..16]);
        digest
    }
}

/// Digest of a class.
pub(super) fn class(class: &Class) -> Digest {
    let mut content = Content::new(SymbolKind::Class);
    for term in class.terms() {
        match term {
            Term::Selector(text) => {
                content.number(1);
                content.text(text);
            }
            Term::Block(text) => {
                content.number(2);
                content.text(text);
            }
            Term::NamedPort(name, protocol, port) => {
                content.number(3);
                content.text(name);
                content.number(protocol.number().into());
                content.number(port.get().into());
            }
        }
    }
    content.digest()
}

/// Digest of a policy set.
pub(super) fn policy_set(set: &PolicySet) -> Digest {
    let mut content = Content::new(SymbolKind::PolicySet);
    content.number(set.policies.len() as u64);
    for policy in set.policies.iter() {
        content.object(&policy.policy);
        content.number(policy.digest);
        content.number(u64::from(policy.ingress) | u64::from(policy.egress) << 1);
    }
    if !set.tiers.is_empty() {
        // No text is so long: what follows is no named port. A set without tiers has the digest it always had.
        content.number(u64::MAX);
        content.number(set.tiers.len() as u64);
    }
    for tier in set.tiers.iter() {
        let place = |content: &mut Content, kind, place: &TierPlace| {
            content.number(kind);
            content.number(place.order.into());
            content.text(&place.name);
        };
        match &tier.tier {
            Tier::Admin => content.number(0),
            Tier::Baseline => content.number(1),
            Tier::Before(of) => place(&mut content, 2, of),
            Tier::Unnamed => content.number(3),
            Tier::Own => content.number(4),
            Tier::After(of) => place(&mut content, 5, of),
        }
        content.number(tier.priority.get().into());
        content.text(&tier.name);
        content.number(tier.digest);
        content.number(u64::from(tier.ingress) | u64::from(tier.egress) << 1);
    }
    for (name, protocol, port) in set.named_ports.iter() {
        content.text(name);
        content.number(protocol.number().into());
        content.number(port.get().into());
    }
    content.digest()
}

/// Digest of a rule's origin.
pub(super) fn origin(origin: &Origin) -> Digest {
    let mut content = Content::new(SymbolKind::Origin);
    content.object(&origin.policy);
    content.number(match origin.direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    });
    content.number(origin.rule.into());
    content.digest()
}

/// Digest of a Service port at its frontend.
pub(super) fn service(frontend: &Frontend, entry: &ServiceEntry) -> Digest {
    let mut content = Content::new(SymbolKind::Service);
    content.number(frontend.network.0.into());
    content.addr(frontend.addr);
    content.number(frontend.protocol.number().into());
    content.number(frontend.port.get().into());
    content.object(&entry.service);
    content.text(&entry.port_name);
    match frontend.scope {
        Scope::Inside => {}
        Scope::Outside => content.number(1),
        Scope::Names => content.number(2),
    }
    content.digest()
}

/// Digest of a backend.
pub(super) fn backend(backend: &Backend) -> Digest {
    let mut content = Content::new(SymbolKind::Backend);
    content.number(backend.network.0.into());
    content.addr(backend.addr);
    content.number(backend.protocol.number().into());
    content.number(backend.port.get().into());
    content.text(&backend.pod_uid.to_string());
    content.digest()
}
