//! From what the user asked for to the plan of every machine. Pure but for keys, which are drawn.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use super::build::Components;
use super::internet::Internet;
use super::pki::Authority;
use super::plan::{Machine, OWN, Plan, Router};
use super::settings::{Network, Settings};
use super::{control_plane, node, peer};

/// The plan, and the administrator's kubeconfig.
pub(super) fn plan(settings: &Settings, components: &Components, directory: &Path) -> Result<(Plan, String)> {
    let authority = Authority::new()?;
    let mut machines = vec![machine(settings, components, directory, 0)];
    machines[0].files.extend(control_plane::files(settings, &authority)?);
    machines[0].services = control_plane::services(settings);
    let libraries = Path::new(OWN).join("cache").join(&components.libraries).display().to_string();
    for index in 1..=usize::from(settings.nodes) {
        let mut planned = machine(settings, components, directory, index);
        planned.plugins = Some(components.plugins.clone());
        planned.files.extend(node::files(settings, &authority, index)?);
        planned.services = node::services(settings, index, &libraries);
        planned.sysctls = forwarding();
        if settings.network == Network::Peer {
            planned.files.extend(peer::files(settings, &authority, index)?);
            planned.services.push(peer::kube_proxy());
        }
        machines.push(planned);
    }
    let admin = authority.kubeconfig(&settings.api_url(), "admin", Some("system:masters"))?;
    let router = Router {
        underlay: settings.underlay(),
        gateways: settings.gateways(),
        world: settings.world(),
        internet: Internet::new(settings, components.program("coredns")?),
    };
    let plan = Plan { cluster: settings.name.clone(), directory: directory.to_owned(), router, machines };
    Ok((plan, admin))
}

fn machine(settings: &Settings, components: &Components, directory: &Path, index: usize) -> Machine {
    let name = settings.machines()[index].clone();
    let files = BTreeMap::from([
        ("/etc/hostname".to_owned(), format!("{name}\n")),
        ("/etc/hosts".to_owned(), hosts(settings)),
        ("/etc/resolv.conf".to_owned(), format!("nameserver {}\n", settings.gateways()[0])),
    ]);
    Machine {
        directory: directory.join("machines").join(&name),
        logs: directory.join("logs"),
        cache: components.cache.clone(),
        addresses: settings.addresses(index),
        programs: components.programs.clone(),
        plugins: None,
        files,
        sysctls: BTreeMap::new(),
        services: Vec::new(),
        name,
    }
}

fn hosts(settings: &Settings) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for (index, name) in settings.machines().iter().enumerate() {
        for address in settings.addresses(index) {
            text += &format!("{address} {name}\n");
        }
    }
    text
}

/// What every Kubernetes node has set.
fn forwarding() -> BTreeMap<String, String> {
    let names = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    names.map(|name| (name.to_owned(), "1".to_owned())).into()
}
