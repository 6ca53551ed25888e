//! ServiceCIDR (networking/v1 `ValidateServiceCIDR`).

use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::Check;
use crate::file::field::Field;

pub(super) fn check(check: &mut Check<'_>, service_cidr: &ServiceCIDR) {
    let spec = Field::Root.key("spec");
    let field = spec.key("cidrs");
    let cidrs = service_cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    if cidrs.is_empty() {
        check.missing(&field, "write at least one range, as in - 10.96.0.0/16");
    }
    let mut families = Vec::new();
    for (index, text) in cidrs.iter().enumerate() {
        let field = field.index(index);
        let Some(block) = check.block(&field, text) else { continue };
        if block.trunc() != block {
            check.invalid(&field, text, "has host bits set", format!("write {}", block.trunc()));
        }
        check.one_per_family(&field, text, block.addr(), &mut families);
    }
}
