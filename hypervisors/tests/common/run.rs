//! Programs that tests prepare and look with.

/// Runs one to its end: what it printed, or what it complained of.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = std::process::Command::new(program)
        .args(arguments)
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let said =
        String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr }).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{program} {arguments:?}: {said}")) }
}
