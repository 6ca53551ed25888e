//! `sheetbend policy` as people start it. Each case of `testdata/policy` and each example of its pages in `docs/user` is
//! run, and what it prints compared; `UPDATE=1` rewrites what is expected.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Begins what is expected of a case.
const FINDINGS: &str = "=== findings\n";
/// An example of a page.
const PROMPT: &str = "    $ sheetbend policy ";
/// Ends an example before its output does.
const MORE: &str = "    ...";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sheetbend(arguments: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sheetbend"));
    command.arg("policy").args(arguments).current_dir(root()).env_remove("NO_COLOR").output().unwrap()
}

fn words(arguments: &str) -> Vec<String> {
    arguments.split_whitespace().map(|word| word.trim_matches('\'').to_owned()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Compares, or rewrites the file.
fn expect(path: &Path, written: &str, found: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, found).unwrap();
    } else {
        let name = path.display();
        assert_eq!(written, found, "{name} is not what is printed; UPDATE=1 rewrites it");
    }
}

#[test]
fn findings_are_those_of_the_cases() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/policy/lint");
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    let scratch = std::env::temp_dir().join(format!("sheetbend-policy-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    for case in cases {
        let written = std::fs::read_to_string(&case).unwrap();
        let manifests = written.split(FINDINGS).next().unwrap();
        let file = scratch.join("case.yaml");
        std::fs::write(&file, manifests).unwrap();
        let place = file.to_str().unwrap();
        let mut found = format!("{manifests}{FINDINGS}");
        for (level, shown) in [("info", true), ("error", false)] {
            let arguments = words(&format!("lint --level {level} -f {place}"));
            let output = sheetbend(&arguments);
            if shown {
                found += &text(&output.stdout).replace(place, "FILE");
            }
            let code = output.status.code().unwrap();
            let _ = writeln!(found, "exit code with --level {level}: {code}");
            assert!(code <= 1, "{}", text(&output.stderr));
        }
        expect(&case, &written, &found);
    }
    std::fs::remove_dir_all(scratch).unwrap();
}

#[test]
fn the_examples_of_the_pages_print_what_they_say() {
    for (page, least) in [("policy-why.md", 4), ("policy-lint.md", 1), ("policy-diff.md", 2)] {
        let path = root().join("docs/user").join(page);
        let written = std::fs::read_to_string(&path).unwrap();
        let (mut found, mut examples) = (String::new(), 0);
        let mut lines = written.lines().peekable();
        while let Some(line) = lines.next() {
            let _ = writeln!(found, "{line}");
            let Some(arguments) = line.strip_prefix(PROMPT) else { continue };
            examples += 1;
            let mut old = Vec::new();
            // An empty line within the output is one before more of it.
            let mut ahead = lines.clone();
            while let Some(next) = ahead.next() {
                let more = next.is_empty() && ahead.peek().is_some_and(|after| after.starts_with("    "));
                let ends = next.starts_with(PROMPT) || (!next.starts_with("    ") && !more);
                let example = ahead.peek().is_some_and(|after| after.starts_with(PROMPT));
                if ends || (next.is_empty() && example) {
                    break;
                }
                old.push(next);
                lines.next();
            }
            let output = sheetbend(&words(arguments));
            let printed = text(&output.stdout);
            let keep = match old.iter().position(|line| *line == MORE) {
                Some(cut) => cut,
                None => usize::MAX,
            };
            for line in printed.lines().take(keep) {
                let _ = if line.is_empty() { writeln!(found) } else { writeln!(found, "    {line}") };
            }
            if keep != usize::MAX {
                let _ = writeln!(found, "{MORE}");
            }
            assert!(!printed.is_empty(), "{arguments}: {}", text(&output.stderr));
        }
        assert!(examples >= least, "{page} has {examples} examples");
        expect(&path, &written, &found);
    }
}

#[test]
fn the_end_says_whether_the_verdict_is_the_expected_one() {
    let denied = "why -f examples/shop partners/crawler shop/cart-0:8081";
    let cases = [("", 0), (" --expect deny", 0), (" --expect allow", 1), (" -o json --expect allow", 1)];
    for (more, code) in cases {
        let output = sheetbend(&words(&format!("{denied}{more}")));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{more}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
    }
    for (wrong, code, says) in [
        ("why -f examples/shop ops/zzz shop/web-0:80", 4, "there is ops/agent"),
        ("why -f examples/shop shop/webb-0 shop/web-0:80", 4, "did you mean shop/web-0"),
        ("why -f examples/shop svc/shop/web shop/web-0:80", 2, "name a pod behind it"),
        ("why -f examples/shop shop/web-0 svc/shop/web:81", 4, "it has 80/TCP http"),
        ("why -f examples/shop shop/web-0 fd00::1:80", 2, "in brackets"),
        ("why -f examples/none shop/web-0 shop/web-0:80", 64, "examples/none"),
        ("lint --socket /none/admin.sock", 4, "no agent answers at /none/admin.sock"),
    ] {
        let output = sheetbend(&words(wrong));
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.contains(says)), (Some(code), true), "{wrong}: {said}");
    }
}

#[test]
fn the_end_says_whether_a_verdict_changes() {
    let shop = "diff --objects examples/shop";
    for (more, code, says) in [
        ("-f examples/shop/policies.yaml", 0, "no verdict changes"),
        ("-f docs/user/policy-diff.yaml", 1, "OPENS ingress of shop/cart"),
        ("--delete NetworkPolicy/shop/web-for-everybody", 1, "CLOSES ingress of shop/web"),
        ("--delete NetworkPolicy/shop/default-deny-ingress", 0, "no verdict changes"),
        ("--staged", 0, "no verdict changes"),
        ("--delete NetworkPolicy/shop/zzz", 4, "there is no NetworkPolicy shop/zzz"),
        ("--delete Pod/shop/web-0", 2, "is no kind on which verdicts depend"),
        ("", 2, "--filename"),
        ("-f examples/none", 64, "examples/none"),
        ("-f examples/shop/data.yaml --limit 0", 64, "no policy among the manifests"),
    ] {
        let output = sheetbend(&words(&format!("{shop} {more}")));
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!((output.status.code(), said.contains(says)), (Some(code), true), "{more}: {said}");
    }
    let live = sheetbend(&words("diff --staged --socket /none/admin.sock"));
    assert_eq!(live.status.code(), Some(4), "{}", text(&live.stderr));

    let output = sheetbend(&words(&format!("{shop} -f docs/user/policy-diff.yaml -o json")));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let changes = json["changes"].as_array().unwrap();
    let change = changes.iter().find(|change| change["effect"] == "opens").unwrap();
    assert_eq!((&change["direction"], &change["source"][0]["name"]), (&"ingress".into(), &"shop/web".into()));
    assert_eq!((&change["before"]["verdict"], &change["ports"]), (&"deny".into(), &["8080/TCP"][..].into()));
    assert_eq!(change["after"]["policy"], "shop/cart-from-web");
    assert_eq!(json["opens"], 6);
    assert!(
        changes.iter().any(|change| change["after"]["selectedBy"][0] == "ops/collector-takes-measurements")
    );
}

#[test]
fn pictures_are_whole_and_their_texts_escaped() {
    let question = "why -f examples/tenants blue/web-0 red/web-0:8080 -o";
    let svg = text(&sheetbend(&words(&format!("{question} svg"))).stdout);
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{svg}");
    for tag in ["text", "rect", "line", "polygon"] {
        let opened = svg.matches(&format!("<{tag} ")).count();
        let closed = if tag == "text" { svg.matches("</text>").count() } else { opened };
        assert!(opened > 0 && opened == closed, "{tag}");
    }
    // What is denied is not reached: the first arrow is whole, and the last broken.
    assert_eq!(svg.matches("stroke-dasharray").count(), 1, "{svg}");
    assert!(svg.contains("red-apart") && svg.contains("DECIDES:"), "{svg}");

    let dot = text(&sheetbend(&words(&format!("{question} dot"))).stdout);
    assert!(dot.starts_with("digraph why {") && dot.ends_with("}\n"), "{dot}");
    assert_eq!(dot.matches(" -> ").count(), 3, "{dot}");
    for line in dot.lines() {
        let quotes = line.replace("\\\"", "").matches('"').count();
        assert!(quotes.is_multiple_of(2), "{line}");
    }
}

#[test]
fn json_has_every_policy_that_was_asked() {
    let output = sheetbend(&words("why -f examples/tenants blue/web-0 red/web-0:8080 -o json"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ingress = &json["paths"][0]["ingress"];
    assert_eq!(json["verdict"], "deny");
    assert_eq!(ingress["decidedBy"]["policy"], "red-apart");
    assert_eq!(ingress["decidedBy"]["rule"], 1);
    let asked =
        ingress["consulted"].as_array().unwrap().iter().map(|policy| policy["name"].as_str().unwrap());
    assert_eq!(asked.collect::<Vec<_>>(), ["platform", "red-apart", "red/everybody", "cautious"]);
}

/// An address of Services that nobody serves has no endpoint that policies could let anybody reach.
#[test]
fn an_address_that_no_service_has_is_denied_though_policies_let_go() {
    for address in ["10.96.255.200:80", "10.96.255.200/ICMP", "[fd00:10:96::ffff]:80"] {
        let why = sheetbend(&words(&format!("why -f examples/tenants blue/web-0 {address} --expect deny")));
        let (said, errors) = (text(&why.stdout), text(&why.stderr));
        assert_eq!(why.status.code(), Some(0), "{address}: {said}{errors}");
        assert!(said.contains("no Service has it") && said.contains("(no_such_service)"), "{said}");
        assert!(said.contains("egress of blue/web-0: allowed"), "{said}");
    }
}
