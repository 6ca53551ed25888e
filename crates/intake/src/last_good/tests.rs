#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::sync::Arc;

use super::*;
use crate::file::{Object, Source, parse, snapshot};

/// One object of each kind, each with every part of the model in use.
const OBJECTS: &str = include_str!("../../testdata/last_good/objects.yaml");
const WRITTEN: &str = include_str!("../../testdata/last_good/format-8.txt");

fn example() -> Snapshot {
    let source = Source { name: Path::new("objects.yaml").into(), bytes: OBJECTS.into() };
    let manifests = parse(&[source]).unwrap_or_else(|errors| panic!("{errors:?}"));
    let objects: Vec<Arc<Object>> = manifests.objects.into_values().map(|manifest| manifest.object).collect();
    snapshot(objects.iter().map(AsRef::as_ref))
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state").join("snapshot");
    assert!(read(&path).unwrap().is_none(), "no file is no error");
    write(&path, &example()).unwrap();
    assert_eq!(read(&path).unwrap().unwrap(), example());
}

/// A change of the model's serialised form must raise [`FORMAT`], so that no process reads what it understands
/// otherwise. `UPDATE=1 cargo test` rewrites the file.
#[test]
fn the_format_has_a_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    write(&path, &example()).unwrap();
    let written = fs::read_to_string(&path).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        let golden = format!("{}/testdata/last_good/format-{FORMAT}.txt", env!("CARGO_MANIFEST_DIR"));
        return fs::write(golden, written).unwrap();
    }
    assert_eq!(written, WRITTEN, "the form differs: raise FORMAT, then UPDATE=1 cargo test");
}

#[test]
fn damage_and_other_versions_are_told_apart_and_nothing_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    write(&path, &example()).unwrap();
    let whole = fs::read_to_string(&path).unwrap();
    let spoiled = [
        whole.replacen("10.244", "10.245", 1),
        whole.lines().take(3).map(|line| format!("{line}\n")).collect(),
        whole.replacen("\"Pod\"", "\"Pud\"", 1),
        whole[..whole.len() / 2].to_owned(),
    ];
    for text in spoiled {
        assert_ne!(text, whole);
        fs::write(&path, &text).unwrap();
        assert!(matches!(read(&path), Err(LastGoodError::Damaged { .. })), "{text}");
    }
    for text in
        [whole.replacen(&format!(":{FORMAT}}}"), ":1}", 1), String::from("{}\n"), String::from("hello\n")]
    {
        fs::write(&path, &text).unwrap();
        assert!(matches!(read(&path), Err(LastGoodError::Format { .. })), "{text}");
    }
}

#[tokio::test]
async fn only_fresh_readings_are_kept_and_the_last_one_always() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    for fresh in [false, true] {
        let reading = Reading { snapshot: Arc::new(example()), fresh };
        let (_sender, receiver) = watch::channel(Some(reading));
        keep(path.clone(), receiver, async {}).await;
        assert_eq!(path.exists(), fresh, "what an earlier process knew is on disk already");
    }
    assert_eq!(read(&path).unwrap().unwrap(), example());
}
