//! Names of a cluster whose API server goes away.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::server::World;

const PATIENCE: Duration = Duration::from_secs(30);

fn service(name: &str, address: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]}})
}

fn has(world: &World, name: &str, address: &str) -> Result<bool> {
    let said = world.dig(&["@127.0.0.1", &format!("{name}.cluster.local")])?;
    Ok(said.lines().any(|line| !line.starts_with(';') && line.ends_with(&format!("\t{address}"))))
}

fn until_it_has(world: &World, name: &str, address: &str) -> Result<()> {
    let start = Instant::now();
    while !has(world, name, address)? {
        ensure!(start.elapsed() < PATIENCE, "{name} has not {address} after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

pub(crate) fn names_outlive_it() -> Result<()> {
    let mut world = World::new()?;
    let mut server = world.with_api_server()?;
    server.put("namespaces", json!({"metadata": {"name": "shop"}}));
    server.put("services", service("web", "10.96.7.1"));
    let first = world.start(&["dns.drain=0"])?;
    ensure!(has(&world, "web.shop.svc", "10.96.7.1")?, "a Service has its name");
    ensure!(has(&world, "10-244-0-9.shop.pod", "10.244.0.9")?, "an address of a Namespace has its name");
    ensure!(!has(&world, "10-244-0-9.none.pod", "10.244.0.9")?, "there is no such Namespace");
    server.put("services", service("late", "10.96.7.2"));
    until_it_has(&world, "late.shop.svc", "10.96.7.2")?;

    server.stop();
    ensure!(has(&world, "web.shop.svc", "10.96.7.1")?, "what was known is served on");
    world.end(first)?;
    server.delete("services", "shop", "web");
    world.start(&["dns.drain=0"])?;
    for (name, address) in [("web.shop.svc", "10.96.7.1"), ("late.shop.svc", "10.96.7.2")] {
        ensure!(has(&world, name, address)?, "{name}: what an earlier process knew is served");
    }

    world.netns.run(|| {
        server.resume();
        Ok(())
    })?;
    server.put("services", service("new", "10.96.7.3"));
    until_it_has(&world, "new.shop.svc", "10.96.7.3")?;
    ensure!(!has(&world, "web.shop.svc", "10.96.7.1")?, "it was deleted meanwhile");
    Ok(())
}
