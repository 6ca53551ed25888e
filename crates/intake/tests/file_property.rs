//! Whatever the bytes, reading ends in objects or errors; what was written is read again.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::Path;

use proptest::prelude::*;
use sheetbend_intake::file::{
    Assigned, Cluster, Manifests, Object, Source, build_endpoint_slices, expand, parse, read, snapshot,
    write_object,
};
use sheetbend_model::types::NodeName;

/// Pieces that make nearly right manifests more often than noise does.
const PIECES: [&str; 34] = [
    "apiVersion: v1\n",
    "kind: Service\n",
    "kind: Pod\n",
    "metadata:\n",
    "  name: a\n",
    "spec:\n",
    "  ports:\n",
    "  - port: 80\n",
    "  - ",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "\n",
    "---\n",
    "&a ",
    "*a",
    "<<: ",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "\t",
    "!!str ",
    "? ",
    "# x\n",
    "kind: List\n",
    "items:\n",
    "apiVersion: networking.k8s.io/v1\n",
    "kind: NetworkPolicy\n",
    "- ipBlock: {cidr: 10.0.0.0/8}\n",
    "99999999999999999999",
    "\u{feff}",
];

fn sources(bytes: Vec<u8>) -> [Source; 1] {
    [Source { name: Path::new("x.yaml").into(), bytes }]
}

/// Goes all the way with what was read.
fn use_all(manifests: &Manifests) {
    let cluster = Cluster {
        nodes: vec![NodeName::new("n1"), NodeName::new("n2")],
        service_cidrs: vec!["10.96.0.0/28".parse().unwrap(), "fd00::/124".parse().unwrap()],
        keep_addresses: true,
    };
    if let Ok(expanded) = expand(manifests, &cluster, &Assigned::default()) {
        snapshot(expanded.objects.values());
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&sources(bytes)).map(|manifests| use_all(&manifests));
    }

    #[test]
    fn nearly_yaml(pieces in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..40)) {
        let _ = parse(&sources(pieces.concat().into_bytes())).map(|manifests| use_all(&manifests));
    }

    /// One line of good manifests, damaged.
    #[test]
    fn damaged_manifests(at in any::<prop::sample::Index>(), with in "[ -~]{0,6}", cut in 0usize..4) {
        let good = include_str!("../testdata/expand/01-workloads.txt").split("-- want --").next().unwrap();
        let good = good.split_once("yaml --\n").unwrap().1;
        let start = at.index(good.len());
        let mut text = good.as_bytes().to_vec();
        text.splice(start..(start + cut).min(good.len()), with.bytes());
        let _ = parse(&sources(text)).map(|manifests| use_all(&manifests));
    }

    #[test]
    fn written_objects_are_read_again(objects in proptest::collection::btree_set(0usize..20, 1..10), text in "\\PC{0,40}") {
        let all = all_kinds();
        let dir = tempfile::tempdir().unwrap();
        let mut written: Vec<Object> = Vec::new();
        for index in objects {
            let mut object = all[index % all.len()].clone();
            // Annotations take any text: quotes, colons, line ends, other scripts.
            let metadata = object.metadata_mut();
            metadata.annotations = Some([("note".to_owned(), text.clone())].into());
            if index >= all.len() {
                metadata.name = Some(format!("copy-{index}"));
            }
            write_object(dir.path(), &object).unwrap();
            written.push(object);
        }
        let manifests = read(&[dir.path().to_owned()]).unwrap();
        prop_assert_eq!(manifests.objects.len(), written.len());
        for object in written {
            prop_assert_eq!(&*manifests.objects[&object.id()].object, &object);
        }
    }
}

/// An object of every kind, from the cases.
fn all_kinds() -> Vec<Object> {
    let mut objects = Vec::new();
    for text in [
        include_str!("../testdata/expand/01-workloads.txt"),
        include_str!("../testdata/expand/03-services.txt"),
        include_str!("../testdata/slices/01-endpoints.txt"),
    ] {
        let text = text.split("-- want --").next().unwrap().split_once("yaml --\n").unwrap().1;
        let manifests = parse(&sources(text.as_bytes().to_vec())).unwrap();
        objects.extend(manifests.objects.into_values().map(|manifest| (*manifest.object).clone()));
    }
    let pods: Vec<_> = objects
        .iter()
        .filter_map(|object| if let Object::Pod(pod) = object { Some((**pod).clone()) } else { None })
        .collect();
    let slices: Vec<Object> = objects
        .iter()
        .filter_map(|object| {
            if let Object::Service(service) = object {
                Some(build_endpoint_slices(service, &pods, []))
            } else {
                None
            }
        })
        .flatten()
        .map(Object::from)
        .collect();
    assert!(!slices.is_empty());
    objects.extend(slices);
    objects
}

#[test]
fn deep_nesting_and_many_aliases_are_refused() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(50_000), "a:\n ".repeat(5_000)] {
        parse(&sources(text.into_bytes())).unwrap_err();
    }
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..20 {
        let previous = format!("*a{}, ", level - 1).repeat(10);
        laughs.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
    }
    let errors = parse(&sources(laughs.into_bytes())).unwrap_err();
    assert!(errors[0].to_string().contains("values in one document"), "{}", errors[0]);
}
