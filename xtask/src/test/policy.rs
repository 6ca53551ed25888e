//! The tests of policy among all the others.

/// Some tests of one kind.
pub(super) struct Part {
    /// Its name in the summary.
    pub(super) name: &'static str,
    /// Whether they need root and the binaries.
    pub(super) root: bool,
    /// Arguments of `cargo test` that choose the programs.
    pub(super) programs: &'static [&'static str],
    /// Only tests whose name contains one of these; none = all. Programs that need root take one at most.
    pub(super) filters: &'static [&'static str],
}

/// Changes of policy under load.
pub(super) const ATOMIC: Part =
    Part { name: "policy-atomic", root: true, programs: &["--test", "apply"], filters: &["policy_atomic"] };

/// Every test of policy, from pure functions to sockets.
pub(super) const ALL: &[Part] = &[
    Part {
        name: "unit",
        root: false,
        programs: &["--lib", "--bins"],
        filters: &["policy::", "network_policy", "tiers::"],
    },
    Part {
        name: "property",
        root: false,
        programs: &["--test", "properties"],
        filters: &["verdicts::", "tiers::", "atomicity::", "sequences::", "why::", "lint::", "hostile::"],
    },
    Part { name: "command", root: false, programs: &["--test", "policy"], filters: &[] },
    Part { name: "program", root: true, programs: &["--test", "program"], filters: &[] },
    ATOMIC,
    Part { name: "tables", root: true, programs: &["--test", "apply"], filters: &["a_full_rule_table"] },
    Part { name: "shut", root: true, programs: &["--test", "apply"], filters: &["tiers_do_not_fit"] },
    Part { name: "datapath", root: true, programs: &["--test", "datapath"], filters: &["judged"] },
    Part { name: "matrix", root: true, programs: &["--test", "lab"], filters: &["up_matrix"] },
    Part { name: "why", root: true, programs: &["--test", "lab"], filters: &["policies"] },
    Part { name: "cyclonus", root: true, programs: &["--test", "networkpolicy"], filters: &[] },
];
