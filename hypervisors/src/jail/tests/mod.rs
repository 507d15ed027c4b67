//! Tests of jails' texts: the corpus, what is refused, edits of all kinds and at random.

mod address;
mod corpus;
mod edits;
mod random;
mod rc;
mod rc_random;
mod refused;
mod variables;

use std::path::Path;

use super::conf::{Config, Dialect, Files};

/// Every file of the corpus in a directory, by the path it would have on a host.
fn files(directory: &str, on_host: &str) -> Files {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jail").join(directory);
    let mut found = Files::new();
    for entry in std::fs::read_dir(&top).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&format!("{directory}/{name}"), &format!("{on_host}/{name}")));
        } else {
            found.insert(format!("{on_host}/{name}"), std::fs::read_to_string(entry.path()).unwrap());
        }
    }
    found
}

/// A configuration of one file.
fn config(text: &str) -> Config {
    let files = Files::from([("/etc/jail.conf".to_owned(), text.to_owned())]);
    Config::read("/etc/jail.conf", &files, Dialect::Including).unwrap()
}

/// A jail as `jail -e :` prints it.
fn exported(config: &Config, jail: &str) -> String {
    let effective = config.effective(jail).unwrap();
    let quoted = |value: &String| match value.is_empty() || value.contains(' ') || value.contains('\t') {
        true => format!(
            "\"{}\"",
            value.replace('\\', "\\\\").replace('"', "\\\"").replace('\t', "\\t").replace('\n', "\\n")
        ),
        false => value.clone(),
    };
    let params = effective.params.iter().map(|param| match param.values.as_slice() {
        [] => param.name.clone(),
        values => format!("{}={}", param.name, values.iter().map(quoted).collect::<Vec<_>>().join(",")),
    });
    params.collect::<Vec<_>>().join(":")
}
