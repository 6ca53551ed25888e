//! `sheetbend lab` with manifests nobody tuned for: `cargo xtask test kernel`.
#![allow(clippy::print_stdout, reason = "says which right is missing")]

mod audit;
mod domains;
mod explained;
mod isolated;
mod staged;
mod traffic;

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use sheetbend_kernel_tests::lab::Lab;

type Case = fn() -> anyhow::Result<()>;

const CASES: &[(&str, Case)] = &[
    ("up_matrix_exec_down_vxlan", || everything("vxlan")),
    ("up_matrix_exec_down_host_gw", || everything("host-gw")),
    ("apply_and_delete_are_all_or_nothing", all_or_nothing),
    ("odd_annotations_are_named_and_left_out", odd_annotations),
    ("a_dead_agent_does_not_change_the_matrix", dead_agent),
    ("a_killed_supervisor_leaves_nothing", killed_supervisor),
    ("bad_manifests_start_nothing", bad_manifests),
    ("services_are_shown_with_live_connections_and_reasons", shown_services),
    ("policies_are_explained_as_sockets_see_them", explained::policies),
    ("namespaces_are_isolated_as_their_labels_say", isolated::namespaces),
    ("traffic_policies_hold_on_sockets", traffic::policies),
    ("staged_policies_change_nothing_and_are_told_of", staged::policies),
    ("a_namespace_in_audit_passes_and_is_told_of_until_it_is_enforced", audit::namespace),
    ("domain_names_open_what_answers_say", domains::names),
    ("the_world_reaches_load_balancer_addresses", balanced),
    ("pods_ask_their_own_nodes_name_server_else_another", node_local),
];

fn main() {
    let arguments = Arguments::from_args();
    let wanted = std::env::var_os("SHEETBEND_KERNEL_TESTS").is_some_and(|value| value == "1");
    let may_run = geteuid().is_root() && wanted;
    if !may_run && !arguments.list {
        println!("{} tests need root: cargo xtask test kernel", CASES.len());
        return;
    }
    let trial = |(name, case): &(&'static str, Case)| {
        let case = *case;
        Trial::test(*name, move || case().map_err(|error| Failed::from(format!("{error:?}"))))
    };
    libtest_mimic::run(&arguments, CASES.iter().map(trial).collect()).exit();
}

fn data(file: &str) -> String {
    format!("{}/tests/lab/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn everything(mode: &str) -> anyhow::Result<()> {
    let lab = Lab::new(if mode == "vxlan" { "kx" } else { "kh" })?;
    lab.expect(0, "up", &["-f", &data("cluster.yaml"), "--mode", mode])?;
    let matrix = lab.json("matrix", &["-o", "json"])?;
    ensure!(matrix["summary"]["mismatches"] == 0 && matrix["mode"] == mode, "{}", matrix["summary"]);
    let cells = matrix["cells"].as_array().context("no cells")?;
    for family in ["IPv4", "IPv6"] {
        for verdict in ["allow", "deny", "refuse"] {
            let of = |cell: &&serde_json::Value| cell["family"] == family && cell["observed"] == verdict;
            ensure!(cells.iter().any(|cell| of(&cell)), "no cell of {family} is {verdict}");
        }
    }
    let denied = cells.iter().filter(|cell| cell["observed"] == "deny");
    // What no Service has is dropped by no policy.
    let (free, denied): (Vec<_>, Vec<_>) = denied.partition(|cell| cell["reason"] == "no_such_service");
    let named = denied.iter().all(|cell| !cell["decidedBy"]["policy"].is_null());
    ensure!(named, "a denied cell names no policy");
    for family in ["IPv4", "IPv6"] {
        let is_free =
            |cell: &&serde_json::Value| cell["family"] == family && cell["destination"] == "no Service";
        ensure!(free.iter().any(is_free), "no {family} address without a Service was asked");
        let is_closed =
            |cell: &&serde_json::Value| cell["family"] == family && cell["reason"] == "no_service_port";
        ensure!(cells.iter().any(|cell| is_closed(&cell)), "no {family} Service was asked at a wrong port");
    }
    let (out, _) = lab.expect(0, "exec", &["shop/client", "--", "ip", "-o", "addr", "show", "eth0"])?;
    ensure!(out.contains("10.244."), "{out}");
    // The resolver reads the pod's /etc/resolv.conf: search list, and the kube-dns Service on each family.
    for database in ["ahostsv4", "ahostsv6"] {
        let question = ["shop/client", "--", "getent", database, "web.shop"];
        let (out, _) = lab.expect(0, "exec", &question)?;
        ensure!(out.contains("web.shop.svc.cluster.local"), "{database}: {out}");
    }
    lab.expect(2, "exec", &["shop/client", "--", "getent", "hosts", "nobody.shop"])?;
    // The same at the node's own server.
    for addr in NODE_LOCAL {
        let script = format!(
            "file=$(mktemp) && echo nameserver {addr} > $file && mount --bind $file /etc/resolv.conf && rm $file && \
             getent ahosts web.shop.svc.cluster.local"
        );
        let question = ["shop/client", "--", "unshare", "--mount", "sh", "-c", &script];
        let (out, _) = lab.expect(0, "exec", &question)?;
        ensure!(out.contains("10.96.") && out.contains("fd00:10:96:"), "{addr}: {out}");
    }
    lab.expect(7, "exec", &["shop/client", "--", "sh", "-c", "exit 7"])?;
    lab.expect(4, "exec", &["shop/nobody", "--", "true"])?;
    lab.expect(0, "down", &[])?;
    lab.expect(5, "status", &[])?;
    ensure!(!lab.dir().exists(), "{} is left", lab.dir().display());
    Ok(())
}

/// Node-local DNS addresses of every lab.
const NODE_LOCAL: [&str; 2] = ["169.254.20.10", "fd5b:646e:73::a"];

fn node_local() -> anyhow::Result<()> {
    let lab = Lab::new("kn")?;
    let (names, own) = (data("node-local.yaml"), data("node-local-1.yaml"));
    lab.expect(0, "up", &["-f", &names, "-f", &own])?;
    let hear = |pod: &str, protocol: &str, to: &str| -> anyhow::Result<String> {
        // dd reads a datagram whole; the shell would read a byte of it and lose the rest.
        let script =
            format!("exec 3<>/dev/{protocol}/{to}/53 && echo who >&3 && dd bs=2048 count=1 status=none <&3");
        let output = lab.run("exec", &[pod, "--", "timeout", "2", "bash", "-c", &script])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let all_hear = |server: &str| -> anyhow::Result<()> {
        for (protocol, to) in ["udp", "tcp"].into_iter().flat_map(|one| NODE_LOCAL.map(|to| (one, to))) {
            for _ in 0..6 {
                let heard = hear("default/client", protocol, to)?;
                ensure!(heard.contains(server), "{protocol} to {to}: {heard:?}, not {server}");
            }
            let heard = hear("default/astray", protocol, to)?;
            ensure!(
                heard.trim().is_empty(),
                "a policy allowed {protocol} to {to} by its own address: {heard}"
            );
        }
        Ok(())
    };
    all_hear("kube-system/dns-1")?;
    lab.expect(0, "delete", &["-f", &own, "--grace-period", "0"])?;
    all_hear("kube-system/dns-2")?;
    lab.expect(0, "apply", &["-f", &own])?;
    all_hear("kube-system/dns-1")?;
    lab.expect(0, "matrix", &[]).map(drop)
}

fn all_or_nothing() -> anyhow::Result<()> {
    let lab = Lab::new("ka")?;
    lab.expect(0, "up", &["-f", &data("cluster.yaml")])?;
    let before = lab.json("status", &["-o", "json"])?;
    let (_, error) = lab.expect(64, "apply", &["-f", &data("half-bad.yaml")])?;
    ensure!(error.contains("half-bad.yaml:") && error.contains("containerz"), "{error}");
    let pods = |status: &serde_json::Value| status["pods"].as_array().map(Vec::len);
    ensure!(pods(&lab.json("status", &["-o", "json"])?) == pods(&before), "half of it was applied");
    lab.expect(0, "apply", &["-f", &data("late.yaml")])?;
    ensure!(
        pods(&lab.json("status", &["-o", "json"])?) == pods(&before).map(|count| count + 1),
        "no late pod"
    );
    lab.expect(0, "matrix", &[])?;
    lab.expect(0, "delete", &["-f", &data("late.yaml"), "--grace-period", "1"])?;
    lab.expect(4, "delete", &["-f", &data("late.yaml")])?;
    lab.expect(0, "matrix", &[]).map(drop)
}

fn odd_annotations() -> anyhow::Result<()> {
    let lab = Lab::new("ko")?;
    let (_, quiet) = lab.expect(0, "up", &["-f", &data("cluster.yaml")])?;
    ensure!(!quiet.contains("note: "), "{quiet}");
    let (_, said) = lab.expect(0, "apply", &["-f", &data("odd.yaml")])?;
    for part in
        ["Service shop/odd", "\"fastest\" is not known; use one of random,", "\"web-0=heavy\": a weight is"]
    {
        ensure!(said.contains(part), "{said}");
    }
    // It is served all the same.
    lab.expect(0, "matrix", &[]).map(drop)
}

fn dead_agent() -> anyhow::Result<()> {
    let lab = Lab::new("kd")?;
    lab.expect(0, "up", &["-f", &data("cluster.yaml")])?;
    lab.expect(0, "node", &["node-2", "kill"])?;
    let status = lab.json("status", &["-o", "json"])?;
    ensure!(status["nodes"][1]["agent"] == "stopped", "{}", status["nodes"]);
    lab.expect(0, "node", &["node-2", "start"])?;
    lab.expect(0, "matrix", &[]).map(drop)
}

fn killed_supervisor() -> anyhow::Result<()> {
    let lab = Lab::new("kk")?;
    lab.expect(0, "up", &["-f", &data("cluster.yaml")])?;
    let pid = lab.supervisor()?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    let (out, _) = lab.expect(0, "down", &[])?;
    ensure!(out.contains("removed what was left"), "{out}");
    ensure!(!lab.dir().exists(), "{} is left", lab.dir().display());
    let processes = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        std::fs::read_to_string(entry.path().join("cmdline"))
            .ok()
            .filter(|line| line.contains("/run/sheetbend/lab/kk-"))
    });
    let left: Vec<String> = processes.collect();
    ensure!(left.is_empty(), "processes are left: {left:?}");
    Ok(())
}

fn balanced() -> anyhow::Result<()> {
    let lab = Lab::new("kl")?;
    let (_, said) = lab.expect(0, "up", &["-f", &data("balanced.yaml"), "--nodes", "3"])?;
    ensure!(
        said.contains("Service shop/web has the load balancer address 172.30.0.200 and fd00:30::200"),
        "{said}"
    );
    ensure!(said.contains("the requested address 192.0.2.1 is in no LoadBalancerPool"), "{said}");
    let reach = |host: &str| {
        let script = format!(
            "import urllib.request as u; print(u.urlopen('http://{host}/', timeout=5).read().decode())"
        );
        lab.expect(0, "exec", &["world", "--", "python3", "-c", &script])
    };
    for host in ["172.30.0.200", "[fd00:30::200]"] {
        let (answer, _) = reach(host)?;
        ensure!(answer.contains("\"pod\":\"shop/web-"), "{host}: {answer}");
    }
    // A change of the cluster moves nothing.
    let (_, said) = lab.expect(0, "apply", &["-f", &data("late.yaml")])?;
    ensure!(!said.contains("172.30.0.201"), "{said}");
    reach("172.30.0.200")?;
    lab.expect(0, "matrix", &["--sample", "60"]).map(drop)
}

fn shown_services() -> anyhow::Result<()> {
    let lab = Lab::new("ks")?;
    lab.expect(0, "up", &["-f", &data("cluster.yaml"), "-f", &data("reasons.yaml")])?;
    let (text, _) = lab.ask("service", 0, &["list", "-n", "shop"])?;
    let line = text.lines().find(|line| line.contains("mixed")).context("no line of mixed")?;
    ensure!(line.contains("node-") && line.contains("ClusterIP") && line.contains("1/3"), "{text}");
    ensure!(!text.contains('\u{1b}'), "colours in a pipe: {text}");
    let (yaml, _) = lab.ask("service", 0, &["list", "-o", "yaml"])?;
    ensure!(yaml.starts_with("nodes:\n") && yaml.contains("name: mixed"), "{yaml}");

    // Two connections of one pod, held while we look.
    let hold = "import socket, time\n\
        held = [socket.create_connection(('web', 80)) for _ in range(2)]\n\
        print('held', flush=True); time.sleep(60)";
    let mut client = lab.begin(&["shop/client", "--", "python3", "-c", hold])?;
    let mut said = [0; 5];
    std::io::Read::read_exact(client.stdout.as_mut().context("no pipe")?, &mut said)?;
    let show = |name: &str| -> anyhow::Result<serde_json::Value> {
        let (out, _) = lab.ask("service", 0, &["show", name, "-o", "json"])?;
        Ok(serde_json::from_str(&out)?)
    };
    let web = show("shop/web")?;
    client.kill()?;
    client.wait()?;
    let nodes = web["nodes"].as_array().context("no nodes")?;
    ensure!(nodes.len() == 2, "{web:#}");
    let live: u64 = nodes.iter().filter_map(|node| node["service"]["connections"].as_u64()).sum();
    // The resolver's questions went to another Service.
    ensure!(live == 2, "{live} live connections: {web:#}");
    ensure!(nodes[0]["frontends"][0]["outcome"] == "balanced", "{web:#}");

    // Each node has one of the two pods.
    let here = show("shop/here")?;
    for node in here["nodes"].as_array().context("no nodes")? {
        for choice in node["choices"].as_array().context("no choices")? {
            for endpoint in choice["endpoints"].as_array().context("no endpoints")? {
                let wanted = if endpoint["node"] == node["node"] { "chosen" } else { "out" };
                ensure!(endpoint["state"] == wanted, "{here:#}");
                ensure!(wanted == "chosen" || endpoint["reason"] == "other_node", "{here:#}");
            }
        }
    }
    let mixed = show("shop/mixed")?;
    let told = |choice: usize| -> Vec<(String, String)> {
        let endpoints = mixed["nodes"][0]["choices"][choice]["endpoints"].as_array().into_iter().flatten();
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        endpoints.map(|endpoint| (word(&endpoint["state"]), word(&endpoint["reason"]))).collect()
    };
    let pairs = |words: &[(&str, &str)]| -> Vec<(String, String)> {
        words.iter().map(|(state, why)| ((*state).to_owned(), (*why).to_owned())).collect()
    };
    let wanted =
        [("chosen", ""), ("draining", "not_ready"), ("draining", "terminating"), ("out", "duplicate")];
    ensure!(told(0) == pairs(&wanted) && told(1) == pairs(&[("out", "no_port"); 4]), "{mixed:#}");
    let (text, _) = lab.ask("service", 0, &["show", "shop/mixed"])?;
    ensure!(text.contains("refused: no endpoint") && text.contains("OUT"), "{text}");

    let (_, error) = lab.ask("service", 4, &["show", "shop/mixd"])?;
    ensure!(error.contains("no Service shop/mixd; did you mean shop/mixed?"), "{error}");
    lab.ask("service", 2, &["show", "shop/Mixed"]).map(drop)
}

fn bad_manifests() -> anyhow::Result<()> {
    let lab = Lab::new("kb")?;
    lab.expect(64, "up", &["-f", &data("half-bad.yaml")])?;
    lab.expect(2, "up", &["-f", &data("cluster.yaml"), "--mode", "wireguard"])?;
    ensure!(!lab.dir().exists(), "{} was made", lab.dir().display());
    Ok(())
}
