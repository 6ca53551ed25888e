//! `apply/bpf` against a kernel: what it writes, keeps and refuses.

pub mod draw;
mod flows;
mod growth;
mod life;
mod limits;
mod moves;
mod place;
mod policy_atomic;
mod sequences;

pub use place::{Place, links, need_root};

/// A test case.
pub type Case = fn(&Place) -> anyhow::Result<()>;

/// (name, case) of every test.
pub fn cases() -> &'static [(&'static str, Case)] {
    &[
        ("sequences_equal_a_fresh_sync", sequences::sequences_equal_a_fresh_sync),
        ("restart_keeps_numbers_and_writes_nothing", sequences::restart_keeps_numbers_and_writes_nothing),
        ("numbers_rest_through_a_sweep", sequences::numbers_rest_through_a_sweep),
        ("a_pinned_map_of_another_layout_is_refused", life::a_pinned_map_of_another_layout_is_refused),
        ("facts_of_the_node_outlive_the_agent", life::facts_of_the_node_outlive_the_agent),
        ("no_bpffs_is_refused", life::no_bpffs_is_refused),
        ("link_replacement_keeps_the_link", life::link_replacement_keeps_the_link),
        ("programs_of_sockets_outlive_the_agent", life::programs_of_sockets_outlive_the_agent),
        ("links_of_gone_devices_are_removed", life::links_of_gone_devices_are_removed),
        ("filters_become_links", moves::filters_become_links),
        ("filters_of_others_stay", moves::filters_of_others_stay),
        (
            "a_device_that_goes_while_it_moves_is_forgotten",
            moves::a_device_that_goes_while_it_moves_is_forgotten,
        ),
        ("a_sweep_frees_closed_and_idle_flows", flows::a_sweep_frees_closed_and_idle_flows),
        (
            "a_port_of_a_direct_flow_is_kept_while_it_may_go_on",
            flows::a_port_of_a_direct_flow_is_kept_while_it_may_go_on,
        ),
        (
            "a_sweep_leaves_a_clients_next_connection_alone",
            flows::a_sweep_leaves_a_clients_next_connection_alone,
        ),
        ("a_new_pod_inherits_no_flow", flows::a_new_pod_inherits_no_flow),
        ("counters_of_removed_pods_go", flows::counters_of_removed_pods_go),
        (
            "counts_of_live_flows_are_kept_over_a_restart_and_made_right",
            flows::counts_of_live_flows_are_kept_over_a_restart_and_made_right,
        ),
        ("flow_tables_grow_and_keep_every_flow", growth::flow_tables_grow_and_keep_every_flow),
        ("growth_goes_on_wherever_an_agent_was_killed", growth::growth_goes_on_wherever_an_agent_was_killed),
        ("what_reads_flows_reads_both_tables", growth::what_reads_flows_reads_both_tables),
        ("a_full_rule_table_denies_and_says_so", limits::a_full_rule_table_denies_and_says_so),
        ("a_pod_whose_tiers_do_not_fit_is_shut", limits::a_pod_whose_tiers_do_not_fit_is_shut),
        ("a_missing_exception_closes_the_block", limits::a_missing_exception_closes_the_block),
        (
            "policy_atomic::no_packet_is_judged_by_half_of_a_policy_set",
            policy_atomic::no_packet_is_judged_by_half_of_a_policy_set,
        ),
        ("policy_atomic::steps_out_of_order_are_noticed", policy_atomic::steps_out_of_order_are_noticed),
        (
            "policy_atomic::rules_that_change_in_place_are_noticed",
            policy_atomic::rules_that_change_in_place_are_noticed,
        ),
        (
            "policy_atomic::an_order_of_whole_sets_is_told_from_others",
            policy_atomic::an_order_of_whole_sets_is_told_from_others,
        ),
        ("a_full_slot_table_keeps_the_old_backends", limits::a_full_slot_table_keeps_the_old_backends),
    ]
}
