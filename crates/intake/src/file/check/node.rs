//! Node (core/v1 `ValidateNode`).

use k8s_openapi::api::core::v1::Node;

use super::Check;
use crate::file::field::Field;

pub(super) fn check(check: &mut Check<'_>, node: &Node) {
    let spec_field = Field::Root.key("spec");
    let Some(spec) = &node.spec else { return };
    let field = spec_field.key("podCIDRs");
    let mut families = Vec::new();
    for (index, text) in spec.pod_cidrs.iter().flatten().enumerate() {
        let field = field.index(index);
        if let Some(block) = check.block(&field, text) {
            check.one_per_family(&field, text, block.addr(), &mut families);
        }
    }
    if let (Some(one), Some(first)) = (&spec.pod_cidr, spec.pod_cidrs.as_ref().and_then(|all| all.first()))
        && one != first
    {
        let field = spec_field.key("podCIDR");
        check.conflict(&field, format!("{one} is not podCIDRs[0], {first}"), "write the same block in both");
    }
}
