//! Places at which tests let the process die.

/// A debug build whose environment has this variable dies by SIGKILL at the fail point that the variable names.
pub const FAIL_POINT_VARIABLE: &str = "SHEETBEND_FAIL_POINT";

/// Dies here, if a test says so. Release builds do nothing.
#[inline(always)]
pub fn fail_point(name: &str) {
    #[cfg(debug_assertions)]
    die_if_named(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
fn die_if_named(name: &str) {
    if std::env::var_os(FAIL_POINT_VARIABLE).is_some_and(|wanted| wanted == name) {
        // SIGKILL is not handled, so this does not return.
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}
