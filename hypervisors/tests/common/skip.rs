//! Tests that cannot run everywhere.

/// Says that a test does not run, for want of what. In CI (`$CI`) that is a failure: what could not run was not tested.
pub fn skip(needs: impl std::fmt::Display) {
    assert!(std::env::var_os("CI").is_none(), "in CI every test has to run, and this one needs {needs}");
    eprintln!("SKIPPED: needs {needs}");
}
