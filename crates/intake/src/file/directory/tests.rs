#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::Path;

use super::*;

fn namespace(name: &str, team: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{team: {team}}}}}\n")
}

fn service(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}\n"
    )
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

/// Older than [`MTIME_GRAIN`], so that a stamp counts.
fn age(path: &Path) {
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
}

#[test]
fn unchanged_objects_are_shared_and_removed_ones_leave() {
    let dir = tempfile::tempdir().unwrap();
    let mut directory = Directory::default();
    write(dir.path(), "a.yaml", &namespace("a", "x"));
    write(dir.path(), "b.yaml", &namespace("b", "x"));
    assert!(directory.read(dir.path()).unwrap());
    let first = directory.snapshot().clone();
    assert!(!directory.read(dir.path()).unwrap(), "nothing changed");

    write(dir.path(), "b.yaml", &namespace("b", "y"));
    assert!(directory.read(dir.path()).unwrap());
    let second = directory.snapshot().clone();
    assert!(Arc::ptr_eq(&first.namespaces["a"], &second.namespaces["a"]));
    assert_eq!(&*second.namespaces["b"].labels["team"], "y");

    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert!(directory.read(dir.path()).unwrap());
    assert_eq!(directory.snapshot().namespaces.keys().map(|name| &**name).collect::<Vec<_>>(), ["b"]);
    fs::remove_file(dir.path().join("b.yaml")).unwrap();
    assert!(directory.read(dir.path()).unwrap());
    assert_eq!(*directory.snapshot(), Snapshot::default());
    assert!(directory.claims.is_empty());
}

#[test]
fn a_swapped_directory_of_hard_links_is_not_parsed_again() {
    let top = tempfile::tempdir().unwrap();
    let (one, two, link) = (top.path().join("c.1"), top.path().join("c.2"), top.path().join("c"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    write(&one, "a.yaml", &namespace("a", "x"));
    age(&one.join("a.yaml"));
    std::os::unix::fs::symlink("c.1", &link).unwrap();
    let mut directory = Directory::default();
    assert!(directory.read(&link).unwrap());
    let before = Arc::clone(&directory.snapshot().namespaces["a"]);

    fs::hard_link(one.join("a.yaml"), two.join("a.yaml")).unwrap();
    write(&two, "b.yaml", &namespace("b", "x"));
    std::os::unix::fs::symlink("c.2", top.path().join("new")).unwrap();
    fs::rename(top.path().join("new"), &link).unwrap();
    fs::remove_dir_all(&one).unwrap();
    // Were `a` parsed again, this would be found in it.
    let stamp = directory.files[Path::new("a.yaml")].stamp;
    assert!(Stamp::of(&fs::metadata(link.join("a.yaml")).unwrap()) == stamp && !stamp.fresh);
    assert!(directory.read(&link).unwrap());
    assert!(Arc::ptr_eq(&before, &directory.snapshot().namespaces["a"]));
    assert_eq!(directory.snapshot().namespaces.len(), 2);
}

#[test]
fn a_broken_file_keeps_the_whole_previous_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut directory = Directory::default();
    write(dir.path(), "a.yaml", &namespace("a", "x"));
    directory.read(dir.path()).unwrap();
    let before = directory.snapshot().clone();
    write(dir.path(), "b.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {nmae: b}\n");
    write(dir.path(), "c.yaml", &namespace("c", "x"));
    let errors = directory.read(dir.path()).unwrap_err();
    assert!(errors[0].to_string().contains("b.yaml:3"), "{}", errors[0]);
    assert_eq!(*directory.snapshot(), before);
    write(dir.path(), "b.yaml", &namespace("b", "x"));
    assert!(directory.read(dir.path()).unwrap());
    assert_eq!(directory.snapshot().namespaces.len(), 3);
}

#[test]
fn an_object_moves_between_files_and_is_never_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut directory = Directory::default();
    write(dir.path(), "a.yaml", &namespace("a", "x"));
    directory.read(dir.path()).unwrap();
    write(dir.path(), "b.yaml", &namespace("a", "x"));
    let errors = directory.read(dir.path()).unwrap_err();
    assert!(matches!(errors[0].problem, Problem::DuplicateObject { .. }), "{}", errors[0]);
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert!(!directory.read(dir.path()).unwrap(), "the same object in another file");
    assert_eq!(directory.snapshot().namespaces.len(), 1);
}

#[test]
fn an_address_changes_hands_in_one_reading_but_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let mut directory = Directory::default();
    write(dir.path(), "a.yaml", &service("a", "10.96.0.1"));
    write(dir.path(), "b.yaml", &service("b", "10.96.0.2"));
    directory.read(dir.path()).unwrap();
    write(dir.path(), "a.yaml", &service("a", "10.96.0.2"));
    let errors = directory.read(dir.path()).unwrap_err();
    assert!(matches!(errors[0].problem, Problem::AddressClash { .. }), "{}", errors[0]);
    write(dir.path(), "b.yaml", &service("b", "10.96.0.1"));
    assert!(directory.read(dir.path()).unwrap());
}
