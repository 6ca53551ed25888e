//! eBPF: loading, pins, links, numbers, tables.
