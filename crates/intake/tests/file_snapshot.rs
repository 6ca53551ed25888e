//! Objects → Snapshot: the API's defaults, and `status` as it is written.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::Path;

use sheetbend_intake::file::{Assigned, Cluster, Object, Problem, Source, expand, parse, snapshot};
use sheetbend_model::state::{Algorithm, Peer, PodPhase, PortMatch, Snapshot, Weights};
use sheetbend_model::types::{NodeName, ObjectKey, Protocol};

fn read(text: &str) -> Snapshot {
    let sources = [Source { name: Path::new("x.yaml").into(), bytes: text.into() }];
    let manifests = parse(&sources).unwrap();
    snapshot(manifests.objects.values().map(|manifest| &*manifest.object))
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

#[test]
fn policy_types_default_to_ingress_and_to_egress_where_it_has_rules() {
    let policy = |spec: &str| {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {spec}"
        );
        let policy = read(&text).policies[&key("p")].clone();
        (policy.ingress.as_ref().map(Vec::len), policy.egress.as_ref().map(Vec::len))
    };
    assert_eq!(policy("{podSelector: {}}"), (Some(0), None));
    assert_eq!(policy("{egress: [{}]}"), (Some(0), Some(1)));
    assert_eq!(policy("{egress: []}"), (Some(0), None));
    assert_eq!(policy("{policyTypes: [Egress]}"), (None, Some(0)));
    assert_eq!(policy("{policyTypes: [Ingress], egress: [{}]}"), (Some(0), None));
    assert_eq!(policy("{policyTypes: [Egress], ingress: [{}], egress: [{}, {}]}"), (None, Some(2)));
}

#[test]
fn rules_keep_their_meaning() {
    let cluster = read(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  ingress:\n  - ports:\n    \
         - {port: 80, endPort: 90}\n    - {port: http, protocol: UDP}\n    - {protocol: SCTP}\n  - from:\n    \
         - ipBlock: {cidr: 10.1.2.3/8, except: [10.9.0.0/16, 10.8.0.0/16]}\n    - namespaceSelector: {}\n",
    );
    let rules = cluster.policies[&key("p")].ingress.clone().unwrap();
    let shown: Vec<String> = rules[0].ports.iter().map(|port| format!("{:?}", port.protocol)).collect();
    assert_eq!(shown, ["Tcp", "Udp", "Sctp"]);
    assert!(matches!(&rules[0].ports[0].port, PortMatch::Range(range) if range.last().get() == 90));
    assert!(matches!(&rules[0].ports[1].port, PortMatch::Named(name) if &**name == "http"));
    assert_eq!(rules[0].ports[2].port, PortMatch::All);
    assert!(rules[0].peers.is_empty(), "no `from` is every peer");
    let Peer::Block(block) = &rules[1].peers[0] else { panic!("{:?}", rules[1].peers) };
    assert_eq!(block.cidr.to_string(), "10.0.0.0/8");
    assert_eq!(
        block.except.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.8.0.0/16", "10.9.0.0/16"]
    );
    assert!(
        matches!(&rules[1].peers[1], Peer::Pods { namespaces: Some(all), pods: None } if all.to_string() == "*")
    );
}

#[test]
fn services_have_the_defaults_of_the_api_and_one_of_our_algorithms() {
    let service = |annotation: &str, spec: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s, annotations: {{note: x{annotation}}}}}\nspec: {spec}"
        );
        read(&text).services[&key("s")].clone()
    };
    let plain = service("", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}");
    assert_eq!(
        (plain.algorithm, plain.affinity_timeout, plain.cluster_ips.len()),
        (Algorithm::Random, None, 1)
    );
    assert_eq!(plain.ports[0].protocol, Protocol::Tcp);
    let sticky = service("", "{sessionAffinity: ClientIP, ports: [{port: 80}]}");
    assert_eq!(sticky.affinity_timeout, Some(10_800));
    assert!(service("", "{clusterIP: None, ports: [{port: 80}]}").cluster_ips.is_empty(), "headless");
    let chosen = |word: &str| {
        let annotation = format!(", sheetbend.dev/load-balancing: {word}");
        let service = service(&annotation, "{ports: [{port: 80}]}");
        (service.algorithm, service.unknown_algorithm.as_deref().map(str::to_owned))
    };
    for algorithm in Algorithm::ALL {
        assert_eq!(chosen(algorithm.name()), (algorithm, None));
    }
    for unknown in ["wurst", "Random", "RoundRobin", "\"\""] {
        let text = unknown.trim_matches('"').to_owned();
        assert_eq!(chosen(unknown), (Algorithm::Random, Some(text)));
    }
}

#[test]
fn weights_come_from_slices_and_services() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: s, annotations: {sheetbend.dev/weights: a=2}}\n\
                spec: {ports: [{port: 80}]}\n---\n\
                apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                metadata: {name: s-1, labels: {kubernetes.io/service-name: s}, annotations: {sheetbend.dev/weights: \"10.0.0.9=0\"}}\n\
                addressType: IPv4\nendpoints: [{addresses: [10.0.0.9]}, {addresses: [10.0.0.8]}]\n---\n\
                apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                metadata: {name: s-2, annotations: {sheetbend.dev/weights: \"a=b\"}}\naddressType: IPv4\nendpoints: []\n";
    let read = read(text);
    assert_eq!(read.services[&key("s")].weights, Weights::read("a=2"));
    let slice = &read.endpoint_slices[&key("s-1")];
    let weights: Vec<Option<u8>> = slice.endpoints.iter().map(|one| slice.weights.of(one)).collect();
    assert_eq!(weights, [Some(0), None]);
    assert!(read.endpoint_slices[&key("s-2")].weights.fault().is_some());
}

#[test]
fn status_counts_where_a_directory_stands_for_the_api() {
    let cluster = read(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, uid: u, deletionTimestamp: \"2026-01-02T03:04:05Z\"}\nspec:\n  \
         nodeName: n\n  containers: [{name: c, ports: [{name: dns, containerPort: 53, protocol: UDP}]}]\n  \
         initContainers: [{name: i, ports: [{containerPort: 1}]}, {name: s, restartPolicy: Always, ports: [{containerPort: 2}]}]\n\
         status:\n  phase: Running\n  podIP: 10.0.0.1\n  podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}, {ip: 10.0.0.2}]\n  \
         conditions: [{type: Ready, status: \"True\"}]\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {name: n}\nspec: {podCIDR: 10.0.0.9/24}\n\
         status: {addresses: [{type: Hostname, address: n}, {type: InternalIP, address: 192.168.0.1}]}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n",
    );
    let pod = &cluster.pods[&key("a")];
    let addresses: Vec<String> = pod.addresses.iter().map(|addr| addr.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
    assert_eq!(
        (pod.phase, pod.ready, pod.terminating, pod.uid.clone()),
        (PodPhase::Running, true, true, "u".into())
    );
    let ports: Vec<u16> = pod.ports.iter().map(|port| port.port.get()).collect();
    assert_eq!(ports, [53, 2], "of init containers only sidecars");
    let node = &cluster.nodes[&NodeName::new("n")];
    assert_eq!(node.addresses, ["192.168.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(node.pod_cidrs[0].to_string(), "10.0.0.0/24");
    assert_eq!(&*cluster.namespaces["x"].labels["kubernetes.io/metadata.name"], "x");
}

#[test]
fn endpoint_conditions_default_as_the_api_says() {
    let cluster = read(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {name: s, labels: {kubernetes.io/service-name: web}}\nports: [{port: 80}, {name: all}]\nendpoints:\n\
         - addresses: [10.0.0.1]\n- {addresses: [10.0.0.2], conditions: {ready: false}}\n\
         - {addresses: [10.0.0.3], conditions: {ready: false, serving: true, terminating: true}}\n",
    );
    let slice = &cluster.endpoint_slices[&key("s")];
    assert_eq!(slice.service.as_deref(), Some("web"));
    let flags: Vec<_> =
        slice.endpoints.iter().map(|each| (each.ready, each.serving, each.terminating)).collect();
    assert_eq!(flags, [(true, true, false), (false, false, false), (false, true, true)]);
    assert_eq!((slice.ports[0].port.unwrap().get(), slice.ports[1].port), (80, None));
}

#[test]
fn names_of_services_and_endpoints_are_kept() {
    let service = |spec: &str| {
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {spec}");
        read(&text).services[&key("s")].external_name.as_deref().map(str::to_owned)
    };
    let external = "{type: ExternalName, externalName: db.example.com.}";
    assert_eq!(service(external).as_deref(), Some("db.example.com"));
    assert_eq!(service("{externalName: db.example.com, ports: [{port: 80}]}"), None, "not its type");
    let cluster = read(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {name: s, labels: {kubernetes.io/service-name: web}}\nendpoints:\n\
         - {addresses: [10.0.0.1], hostname: web-0}\n- {addresses: [10.0.0.2]}\n",
    );
    let names: Vec<_> =
        cluster.endpoint_slices[&key("s")].endpoints.iter().map(|each| each.hostname.as_deref()).collect();
    assert_eq!(names, [Some("web-0"), None]);
}

#[test]
fn manifests_put_together_have_each_address_once() {
    let service = |name: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.9, ports: [{{port: 80}}]}}"
        );
        parse(&[Source { name: Path::new(name).into(), bytes: text.into() }]).unwrap()
    };
    let (a, b) = (service("a"), service("b"));
    assert!(a.merged(&a).is_ok(), "the same Service again");
    assert!(matches!(a.merged(&b).unwrap_err()[0].problem, Problem::AddressClash { .. }));
    let mut both = a;
    both.objects.extend(b.objects);
    let cluster =
        Cluster { nodes: vec![NodeName::new("n")], service_cidrs: Vec::new(), keep_addresses: false };
    let errors = expand(&both, &cluster, &Assigned::default()).unwrap_err();
    assert!(matches!(errors[0].problem, Problem::AddressClash { .. }), "{}", errors[0]);
}

#[test]
fn a_statefulset_pod_is_a_host_of_its_service() {
    let text = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec:\n  serviceName: db\n  \
                selector: {matchLabels: {app: db}}\n  template:\n    metadata: {labels: {app: db}}\n    \
                spec: {containers: [{name: c, image: x}]}\n";
    let manifests = parse(&[Source { name: Path::new("x.yaml").into(), bytes: text.into() }]).unwrap();
    let cluster =
        Cluster { nodes: vec![NodeName::new("n")], service_cidrs: Vec::new(), keep_addresses: false };
    let expanded = expand(&manifests, &cluster, &Assigned::default()).unwrap();
    let spec = expanded
        .objects
        .values()
        .find_map(|object| if let Object::Pod(pod) = object { pod.spec.clone() } else { None });
    let spec = spec.unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-0"), Some("db")));
}
