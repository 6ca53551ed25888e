//! What many objects have in common, kept once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{ContainerPort, EndpointSlice, Hints, Pod, Service};
use crate::types::{Labels, ObjectKey};

/// Texts, label sets and port lists of objects that an intake holds. Pods of one workload differ in name, uid and
/// address only; kept apart, the rest of a pod takes 700 bytes, shared, 30.
#[derive(Debug, Default)]
pub struct Sharing {
    texts: BTreeSet<Arc<str>>,
    labels: BTreeSet<Arc<Labels>>,
    ports: BTreeSet<Arc<[ContainerPort]>>,
    hints: BTreeSet<Arc<Hints>>,
}

impl Sharing {
    /// Lets `pod` use what others have too: namespace, ServiceAccount, node, labels, ports.
    pub fn pod(&mut self, pod: &mut Pod) {
        self.key(&mut pod.key);
        self.text(&mut pod.service_account);
        if let Some(node) = &mut pod.node {
            self.text(&mut node.0);
        }
        match self.labels.get(&pod.labels) {
            Some(known) => pod.labels = Arc::clone(known),
            None => {
                let own = self.texts_of(&pod.labels);
                pod.labels = Arc::new(own);
                self.labels.insert(Arc::clone(&pod.labels));
            }
        }
        match self.ports.get(&pod.ports) {
            Some(known) => pod.ports = Arc::clone(known),
            None => drop(self.ports.insert(Arc::clone(&pod.ports))),
        }
    }

    /// Lets `service` use what others have too: namespace, port names, selector.
    pub fn service(&mut self, service: &mut Service) {
        self.key(&mut service.key);
        service.ports.iter_mut().for_each(|port| self.text(&mut port.name));
        service.selector = self.texts_of(&service.selector);
        service.ports.shrink_to_fit();
        service.cluster_ips.shrink_to_fit();
    }

    /// Lets `slice` use what others have too: namespace, port names, nodes, hints.
    pub fn endpoint_slice(&mut self, slice: &mut EndpointSlice) {
        self.key(&mut slice.key);
        slice.ports.iter_mut().for_each(|port| self.text(&mut port.name));
        for endpoint in &mut slice.endpoints {
            if let Some(node) = &mut endpoint.node {
                self.text(&mut node.0);
            }
            if let Some((pod, _)) = &mut endpoint.pod {
                self.key(pod);
            }
            if let Some(hints) = &mut endpoint.hints {
                match self.hints.get(&*hints) {
                    Some(known) => *hints = Arc::clone(known),
                    None => drop(self.hints.insert(Arc::clone(hints))),
                }
            }
        }
        slice.ports.shrink_to_fit();
        slice.endpoints.shrink_to_fit();
    }

    /// Forgets what no object has any more.
    pub fn sweep(&mut self) {
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        self.hints.retain(|hints| Arc::strong_count(hints) > 1);
        // Label sets hold texts.
        self.labels.retain(|labels| Arc::strong_count(labels) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
    }

    fn key(&mut self, key: &mut ObjectKey) {
        self.text(&mut key.namespace);
    }

    fn text(&mut self, text: &mut Arc<str>) {
        match self.texts.get(text) {
            Some(known) => *text = Arc::clone(known),
            None => drop(self.texts.insert(Arc::clone(text))),
        }
    }

    fn texts_of(&mut self, labels: &Labels) -> Labels {
        let mut shared = BTreeMap::new();
        for (key, value) in labels {
            let (mut key, mut value) = (Arc::clone(key), Arc::clone(value));
            self.text(&mut key);
            self.text(&mut value);
            shared.insert(key, value);
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;
    use crate::state::PodPhase;
    use crate::types::{NetworkId, NodeName, Port, Protocol};

    fn pod(name: &str, app: &str) -> Pod {
        let port = ContainerPort {
            name: Some("http".into()),
            port: Port::new(80).unwrap(),
            protocol: Protocol::Tcp,
            host_port: None,
            host_ip: None,
        };
        Pod {
            key: ObjectKey::new("shop", name),
            uid: name.into(),
            labels: Arc::new(BTreeMap::from([("app".into(), app.into())])),
            service_account: "default".into(),
            node: Some(NodeName::new("a")),
            network: NetworkId::default(),
            addresses: vec!["10.0.0.1".parse().unwrap()].into(),
            host_network: false,
            phase: PodPhase::Running,
            ready: true,
            terminating: false,
            ports: [port].into(),
        }
    }

    #[test]
    fn what_is_equal_is_kept_once_and_nothing_changes() {
        let mut sharing = Sharing::default();
        let mut pods = [pod("web-0", "web"), pod("web-1", "web"), pod("db-0", "db")];
        let before = pods.clone();
        pods.iter_mut().for_each(|pod| sharing.pod(pod));
        assert_eq!(pods, before);
        let [web, other, db] = &pods;
        assert!(Arc::ptr_eq(&web.labels, &other.labels) && !Arc::ptr_eq(&web.labels, &db.labels));
        assert!(Arc::ptr_eq(&web.ports, &db.ports));
        assert!(Arc::ptr_eq(&web.key.namespace, &db.key.namespace));
        let key = |pod: &Pod| Arc::clone(pod.labels.keys().next().unwrap());
        assert!(Arc::ptr_eq(&key(web), &key(db)));
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let mut sharing = Sharing::default();
        let (mut web, mut db) = (pod("web-0", "web"), pod("db-0", "db"));
        sharing.pod(&mut web);
        sharing.pod(&mut db);
        drop(db);
        sharing.sweep();
        assert_eq!((sharing.labels.len(), sharing.ports.len()), (1, 1));
        assert!(!sharing.texts.contains("db") && sharing.texts.contains("web"));
        drop(web);
        sharing.sweep();
        assert_eq!((sharing.labels.len(), sharing.ports.len(), sharing.texts.len()), (0, 0, 0));
    }
}
