//! One program for all parsers: `$FUZZ_TARGET` names the one that is tried (`upgradectl::fuzz`).

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use upgradectl::fuzz::targets;

static PARSE: LazyLock<fn(&[u8], &Path)> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a parser");
    targets().find(|target| target.name == name).unwrap_or_else(|| panic!("there is no parser {name}")).run
});

/// Where files are written: in memory, if the machine has a place there.
static PLACE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let places = ["/dev/shm", "/tmp"].iter();
    let mut places = places.filter_map(|place| tempfile::TempDir::with_prefix_in("upgradectl-fuzz-", place).ok());
    places.next().expect("a place for files")
});

fuzz_target!(|bytes: &[u8]| {
    let root = PLACE.path().join("root");
    std::fs::create_dir(&root).expect("a directory");
    PARSE(bytes, &root);
    std::fs::remove_dir_all(&root).expect("the directory can be emptied");
});
