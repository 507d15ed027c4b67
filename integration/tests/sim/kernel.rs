//! What else of a definition is the clone's own for a time: a kernel of the host, which has to be declared, and of which a change
//! goes with the clone; memory, which does not.

use std::fs;

use serde_json::{Value, json};

use crate::bench::{Bench, Ending as _};

fn kernel(version: &str) -> Value {
    json!({ "kernel": format!("/boot/vmlinuz-{version}"), "initrd": null, "arguments": "root=/dev/xvda1 ro" })
}

/// Gives a definition a kernel, as an operator's editor does.
fn give(bench: &Bench, guest: &str, kernel: &Value) {
    let path = bench.path(&format!("world/definitions/{guest}.json"));
    let mut definition: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    definition["kernel"] = kernel.clone();
    fs::write(path, serde_json::to_string_pretty(&definition).unwrap()).unwrap();
}

fn kernel_of(bench: &Bench, guest: &str) -> Value {
    let text = fs::read_to_string(bench.path(&format!("world/definitions/{guest}.json"))).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["kernel"].clone()
}

fn declare(bench: &Bench) {
    bench.edit_inventory("host = \"here\"\ndisks", "host = \"here\"\nkernel = \"host\"\ndisks");
}

#[test]
fn a_kernel_of_the_host_has_to_be_declared_and_only_that() {
    let bench = Bench::new();
    give(&bench, "mercure", &kernel("6.1"));
    let said = bench.verb("clone");
    assert_eq!(said.code, 7, "{said}");
    let words = said.to_string();
    assert!(words.contains("/boot/vmlinuz-6.1") && words.contains("kernel = \\\"host\\\""), "{said}");

    declare(&bench);
    give(&bench, "mercure", &json!({ "kernel": "/boot/vmlinuz", "arguments": "ip=10.0.5.12::10.0.5.1:255.255.255.0" }));
    let said = bench.verb("clone");
    assert!(said.code == 7 && said.to_string().contains("command line"), "{said}");

    give(&bench, "mercure", &Value::Null);
    let said = bench.verb("clone");
    assert!(said.code == 7 && said.to_string().contains("boots its own"), "{said}");
}

#[test]
fn a_kernel_that_the_clone_was_given_goes_with_it_and_comes_back() {
    let bench = Bench::new();
    declare(&bench);
    give(&bench, "mercure", &kernel("6.1"));
    bench.good("clone", "cloned");
    let run = bench.run_id();
    assert_eq!(kernel_of(&bench, &run), kernel("6.1"));
    give(&bench, &run, &kernel("6.12"));
    bench.good("upgrade", "upgraded");
    bench.good("verify", "verified");
    let said = bench.good("promote", "promoted");
    assert!(said.to_string().contains("/boot/vmlinuz-6.12"), "the page says so: {said}");
    assert_eq!(kernel_of(&bench, "mercure"), kernel("6.12"));
    bench.good("rollback", "upgraded");
    assert_eq!((kernel_of(&bench, "mercure"), kernel_of(&bench, &run)), (kernel("6.1"), kernel("6.12")));
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    assert_eq!(bench.verb("commit").state().as_deref(), Some("committed"));
    assert_eq!(kernel_of(&bench, "mercure"), kernel("6.12"));
}

#[test]
fn a_clone_with_less_memory_is_promoted_with_the_originals_and_rolled_back_to_its_own() {
    let memory = |bench: &Bench, guest: &str| {
        let text = fs::read_to_string(bench.path(&format!("world/definitions/{guest}.json"))).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["memory_bytes"].as_u64().unwrap() >> 20
    };
    let bench = Bench::new();
    bench.edit_inventory("clone = { ip = [\".16\"] }", "clone = { ip = [\".16\"], memory = \"256M\" }");
    bench.good("clone", "cloned");
    let run = bench.run_id();
    assert_eq!((memory(&bench, "mercure"), memory(&bench, &run)), (512, 256));
    bench.good("upgrade", "upgraded");
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    assert_eq!(memory(&bench, "mercure"), 512);
    bench.good("rollback", "upgraded");
    assert_eq!((memory(&bench, "mercure"), memory(&bench, &run)), (512, 256));
}
