//! One JSON object a line.

use std::time::Instant;

/// Milliseconds since `start`.
pub(crate) fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1_000.0
}

/// Prints the median and the 99th percentile of `values`.
pub(crate) fn report(name: &str, values: &mut [f64], unit: &str) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    println!(r#"{{"name":"{name}","p50":{:.3},"p99":{:.3},"unit":"{unit}"}}"#, at(0.5), at(0.99));
}

/// Prints a number of things, or of KiB.
pub(crate) fn report_count(name: &str, value: usize) {
    let unit = if name.contains("resident") { "KiB" } else { "1" };
    println!(r#"{{"name":"{name}","p50":{value},"p99":{value},"unit":"{unit}"}}"#);
}

/// VmRSS of this process: the Snapshot, the compiler and what the allocator keeps.
pub(crate) fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or_default()
}
