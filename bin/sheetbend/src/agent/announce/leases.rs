//! The shell of the election: watches the Leases and writes them. Requests go out side by side; a slow one keeps
//! nobody waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use sheetbend_intake::kube::Client;
use sheetbend_model::types::NodeName;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::Meeting;
use super::election::{EXPIRY, Election, RENEW, Request, Seen};

/// Label of all Leases here.
const LABEL: &str = "sheetbend.dev/l2";
/// Names begin with this; the node's name follows.
const NODE: &str = "sheetbend-l2-node-";
/// Or with this; the address follows.
const ADDRESS: &str = "sheetbend-l2-";
/// An answer after this long is of no use.
const TIMEOUT: Duration = RENEW.saturating_mul(2);

/// What a Lease is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Node(NodeName),
    Address(IpAddr),
}

impl Key {
    fn name(&self) -> String {
        match self {
            Key::Node(node) => format!("{NODE}{node}"),
            Key::Address(IpAddr::V4(addr)) => format!("{ADDRESS}{addr}"),
            // Colons are no part of names.
            Key::Address(IpAddr::V6(addr)) => format!("{ADDRESS}{:032x}", addr.to_bits()),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        if let Some(node) = name.strip_prefix(NODE) {
            return Some(Key::Node(NodeName::new(node)));
        }
        let text = name.strip_prefix(ADDRESS)?;
        let addr = match text.parse() {
            Ok(addr) => addr,
            Err(_) => Ipv6Addr::from_bits(u128::from_str_radix(text, 16).ok()?).into(),
        };
        Some(Key::Address(addr))
    }
}

enum News {
    /// Every Lease there is.
    Listed(BTreeMap<Key, Seen>),
    Changed(Key, Option<Seen>),
    Renewed(Instant),
    Taken(IpAddr, String),
    /// A request for this address has ended.
    Answered(IpAddr),
}

/// This node's part in the election.
pub(super) struct Leases {
    api: Api<Lease>,
    election: Election,
    node: Option<NodeName>,
    sender: mpsc::UnboundedSender<News>,
    news: mpsc::UnboundedReceiver<News>,
    /// Addresses whose Lease is being written.
    asking: BTreeSet<IpAddr>,
    known: BTreeSet<Key>,
    watching: bool,
}

impl Leases {
    pub(super) fn new(meeting: Meeting, election: Election) -> Self {
        let Meeting { client, namespace } = meeting;
        let (sender, news) = mpsc::unbounded_channel();
        Self {
            api: Api::<Lease>::namespaced(Client::clone(&client), &namespace),
            election,
            node: None,
            sender,
            news,
            asking: BTreeSet::new(),
            known: BTreeSet::new(),
            watching: false,
        }
    }

    pub(super) fn want(&mut self, wanted: BTreeMap<IpAddr, Vec<NodeName>>) {
        self.election.want(wanted);
        // A node that never announces costs the API server nothing.
        if !self.watching && self.election.is_concerned() {
            self.watching = true;
            tokio::spawn(follow(self.api.clone(), self.sender.clone()));
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.watching && self.election.is_concerned()
    }

    pub(super) async fn hear(&mut self) {
        let Some(news) = self.news.recv().await else { return std::future::pending().await };
        let now = Instant::now();
        match news {
            News::Listed(all) => {
                let gone: Vec<Key> =
                    self.known.iter().filter(|key| !all.contains_key(key)).cloned().collect();
                gone.into_iter().for_each(|key| self.see(key, None, now));
                all.into_iter().for_each(|(key, seen)| self.see(key, Some(seen), now));
                self.election.sync(now);
            }
            News::Changed(key, seen) => self.see(key, seen, now),
            News::Renewed(began) => self.election.renewed(began),
            News::Taken(addr, version) => self.election.taken(addr, version, now),
            News::Answered(addr) => drop(self.asking.remove(&addr)),
        }
    }

    fn see(&mut self, key: Key, seen: Option<Seen>, now: Instant) {
        if seen.is_some() {
            self.known.insert(key.clone())
        } else {
            self.known.remove(&key)
        };
        match key {
            Key::Node(node) => self.election.heartbeat(node, seen, now),
            Key::Address(addr) => self.election.lease(addr, seen),
        }
    }

    /// Asks what is due, and says what this node answers for.
    pub(super) fn holds(&mut self, now: Instant) -> BTreeSet<IpAddr> {
        for request in self.election.due(now) {
            let addr = match &request {
                Request::Renew => None,
                Request::Take { addr, .. } | Request::Release { addr, .. } | Request::Remove { addr, .. } => {
                    Some(*addr)
                }
            };
            if addr.is_some_and(|addr| !self.asking.insert(addr)) {
                continue;
            }
            let (api, node, sender) = (self.api.clone(), self.election.node().clone(), self.sender.clone());
            self.node.get_or_insert_with(|| node.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(TIMEOUT, carry_out(&api, &node, request, now)).await {
                    // Nobody hears it when the agent ends.
                    Ok(Ok(Some(news))) => drop(sender.send(news)),
                    Ok(Ok(None)) => {}
                    Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                        debug!("another was first: {status}");
                    }
                    Ok(Err(error)) => warn!("a Lease of announcements cannot be written: {error}"),
                    Err(_) => warn!("a Lease of announcements was not written within {TIMEOUT:?}"),
                }
                if let Some(addr) = addr {
                    let _ = sender.send(News::Answered(addr));
                }
            });
        }
        self.election.holds(now)
    }

    /// Lets others take over at once.
    pub(super) async fn leave(self) {
        let Some(node) = self.node else { return };
        let patch = Patch::Merge(json!({"spec": {"holderIdentity": ""}}));
        let name = Key::Node(node).name();
        let params = PatchParams::default();
        let left = self.api.patch(&name, &params, &patch);
        if !matches!(tokio::time::timeout(TIMEOUT, left).await, Ok(Ok(_))) {
            warn!("the Lease {name} runs out by itself");
        }
    }
}

async fn carry_out(
    api: &Api<Lease>,
    node: &NodeName,
    request: Request,
    began: Instant,
) -> Result<Option<News>, kube::Error> {
    let params = PostParams::default();
    match request {
        Request::Renew => {
            let key = Key::Node(node.clone());
            let lease = written(&key, Some(node), None);
            let renewal = json!({"spec": lease.spec});
            match api.patch(&key.name(), &PatchParams::default(), &Patch::Merge(&renewal)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    drop(api.create(&params, &lease).await?)
                }
                Err(error) => return Err(error),
            }
            Ok(Some(News::Renewed(began)))
        }
        Request::Take { addr, version, dead } => {
            if let Some((holder, known)) = dead {
                // The watch may be slow, and the holder alive.
                let key = Key::Node(holder);
                let found = api.get_opt(&key.name()).await?.map(|lease| seen(&lease));
                if found.as_ref().map(|seen| &seen.version) != known.as_ref() {
                    return Ok(Some(News::Changed(key, found)));
                }
            }
            let key = Key::Address(addr);
            let lease = written(&key, Some(node), version.as_deref());
            let lease = match version {
                Some(_) => api.replace(&key.name(), &params, &lease).await?,
                None => api.create(&params, &lease).await?,
            };
            Ok(Some(News::Taken(addr, lease.metadata.resource_version.unwrap_or_default())))
        }
        Request::Release { addr, version } => {
            let key = Key::Address(addr);
            api.replace(&key.name(), &params, &written(&key, None, Some(&version))).await?;
            Ok(None)
        }
        Request::Remove { addr, version } => {
            let only = Preconditions { resource_version: Some(version), uid: None };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            api.delete(&Key::Address(addr).name(), &params).await?;
            Ok(None)
        }
    }
}

fn written(key: &Key, holder: Option<&NodeName>, version: Option<&str>) -> Lease {
    let now = MicroTime(Timestamp::now());
    let kind = if matches!(key, Key::Node(_)) { "node" } else { "address" };
    Lease {
        metadata: ObjectMeta {
            name: Some(key.name()),
            labels: Some([(LABEL.to_owned(), kind.to_owned())].into()),
            resource_version: version.map(ToOwned::to_owned),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.map(ToString::to_string).unwrap_or_default()),
            // For people: the field has whole seconds only.
            lease_duration_seconds: i32::try_from(EXPIRY.as_millis().div_ceil(1000)).ok(),
            acquire_time: matches!(key, Key::Address(_)).then(|| now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

fn seen(lease: &Lease) -> Seen {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    Seen {
        holder: holder.filter(|holder| !holder.is_empty()).map(NodeName::new),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// Tells of every Lease of announcements until nobody listens.
async fn follow(api: Api<Lease>, sender: mpsc::UnboundedSender<News>) {
    let config = watcher::Config::default().labels(LABEL);
    let mut events = pin!(kube::runtime::watcher(api, config).default_backoff());
    let mut listed = BTreeMap::new();
    let key = |lease: &Lease| Key::parse(lease.metadata.name.as_deref().unwrap_or_default());
    while let Some(event) = events.next().await {
        let news = match event {
            Ok(Event::Init) => {
                listed.clear();
                None
            }
            Ok(Event::InitApply(lease)) => {
                listed.extend(key(&lease).map(|key| (key, seen(&lease))));
                None
            }
            Ok(Event::InitDone) => Some(News::Listed(std::mem::take(&mut listed))),
            Ok(Event::Apply(lease)) => key(&lease).map(|key| News::Changed(key, Some(seen(&lease)))),
            Ok(Event::Delete(lease)) => key(&lease).map(|key| News::Changed(key, None)),
            Err(error) => {
                warn!("the watch of the Leases of announcements broke off: {error}");
                None
            }
        };
        if let Some(news) = news
            && sender.send(news).is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_leases_come_back() {
        for addr in [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0])] {
            let key = Key::Address(addr);
            assert_eq!(Key::parse(&key.name()), Some(key));
        }
        assert_eq!(Key::Address(IpAddr::from([192, 0, 2, 1])).name(), "sheetbend-l2-192.0.2.1");
        let node = Key::Node(NodeName::new("node-1.example"));
        assert_eq!(Key::parse(&node.name()), Some(node));
        assert_eq!(Key::parse("sheetbend-l2-x"), None);
        assert_eq!(Key::parse("sheetbend-controller"), None);
    }
}
