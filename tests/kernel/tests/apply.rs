//! `apply/bpf` against a real kernel: `cargo xtask test kernel`.
#![allow(clippy::expect_used, reason = "a failed test may panic")]
#![allow(clippy::print_stdout, reason = "says which right is missing")]

use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use sheetbend_kernel_tests::apply::{Place, cases, need_root};

fn main() {
    let mut arguments = Arguments::from_args();
    // All cases share the namespaces of this process.
    arguments.test_threads = Some(1);
    let cases = cases();
    if need_root() && !arguments.list {
        println!("{} tests need root: cargo xtask test kernel", cases.len());
        return;
    }
    let place = (!arguments.list).then(|| Arc::new(Place::enter().expect("namespaces")));
    let trials = cases.iter().map(|(name, case)| {
        let place = place.clone();
        Trial::test(*name, move || {
            let place = place.expect("tests run in their own namespaces");
            case(&place).map_err(|error| Failed::from(format!("{error:?}")))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
