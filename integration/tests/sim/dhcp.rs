//! A clone that gets its address by DHCP: found by its hardware address, again when the lease has changed.

use std::net::IpAddr;

use hypervisors::sim::How;

use crate::bench::Bench;

fn bench() -> Bench {
    let bench = Bench::new();
    bench.edit_inventory("ip = [\".16\"]", "ip = [\"dhcp\"]");
    pool(&bench, &[100, 101]);
    bench
}

/// What the server of the world gives from now on.
fn pool(bench: &Bench, hosts: &[u8]) {
    let pool: Vec<IpAddr> = hosts.iter().map(|host| [10, 0, 5, *host].into()).collect();
    bench.sim().configure(|config| config.lease_pool = pool).unwrap();
}

fn address(bench: &Bench) -> String {
    bench.run().expect("an open run")["clone"]["address"].as_str().unwrap().to_owned()
}

#[test]
fn the_whole_lifecycle() {
    let bench = bench();
    let plan = bench.ctl.run(["plan", "clone", "mercure"]).unwrap().expect(0).unwrap();
    assert!(plan.stdout.contains("by DHCP") && plan.stdout.contains("learn the address"), "{plan}");
    bench.good("clone", "cloned");
    assert_eq!(address(&bench), "10.0.5.100");
    bench.good("upgrade", "upgraded");
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    let interfaces = bench.volume(&format!("{}-root", bench.run_id()), "etc/network/interfaces");
    assert!(!std::fs::read_to_string(interfaces).unwrap().contains("dhcp"), "production has its own address");
    bench.good("verify", "promoted");
    bench.good("rollback", "upgraded");
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    bench.good("commit", "committed");
    bench.no_conflicts("by DHCP");
}

#[test]
fn a_lease_that_changes_at_a_reboot_is_followed() {
    let bench = bench();
    bench.good("clone", "cloned");
    pool(&bench, &[120]);
    bench.good("upgrade", "upgraded");
    assert_eq!(address(&bench), "10.0.5.120");
    bench.good("verify", "verified");
    bench.good("promote", "promoted");
    // Somebody else has it when the clone comes back.
    let stranger: hypervisors::MacAddr = "02:00:00:00:00:01".parse().unwrap();
    bench.sim().configure(|config| config.neighbours.extend([([10, 0, 5, 120].into(), stranger)])).unwrap();
    pool(&bench, &[120, 121]);
    bench.good("rollback", "upgraded");
    assert_eq!(address(&bench), "10.0.5.121");
    bench.good("verify", "verified");
    bench.good("abort", "aborted");
    bench.no_conflicts("a changed lease");
}

#[test]
fn a_crash_between_start_and_learning_is_resumed() {
    for (op, object, how) in [
        ("start", "mercure--", How::KillAfter),
        ("net.find", "", How::KillBefore),
        ("net.find", "", How::KillAfter),
        ("net.owner", "10.0.5.100", How::KillAfter),
    ] {
        let bench = bench();
        bench.fault(op, object, 1, how);
        let said = bench.verb("clone");
        assert_eq!(bench.state(), "cloning", "{op} {how:?}: {said}");
        bench.no_faults();
        let said = bench.ctl_run(&["--json", "resume", "mercure"]);
        assert_eq!((said.code, bench.state().as_str()), (0, "cloned"), "{op} {how:?}: {said}");
        assert_eq!(address(&bench), "10.0.5.100");
        bench.good("abort", "aborted");
    }
}

#[test]
fn a_fenced_clone_may_have_its_address_by_dhcp() {
    let bench = bench();
    bench.edit_inventory("clone = {", "clone = { network = \"fenced\",");
    bench.good_way_to("promoted");
    bench.good("rollback", "upgraded");
    let elsewhere = "198.51.100.25:25".parse().unwrap();
    assert!(!bench.sim().lets_out(&bench.run_id(), 0, elsewhere).unwrap());
}

#[test]
fn what_needs_the_address_beforehand_is_refused() {
    let hook = "[[guests.mercure.hooks]]\nname = \"tell\"\naround = [\"clone\"]\non = \"controller\"\nbefore = [\"true\", \"{clone_address}\"]\n";
    let bench = Bench::with(hook);
    pool(&bench, &[100]);
    let said = bench.verb_with("clone", &["--ip", "dhcp"]);
    assert!(said.code == 7 && said.stdout.contains("the hook tell names {clone_address}"), "{said}");

    // ifup(8) would have nothing to ask with.
    let bench = self::bench();
    std::fs::remove_file(bench.volume("mercure", "usr/sbin/dhclient")).unwrap();
    let said = bench.verb("clone");
    assert!(said.code == 7 && said.stdout.contains("no DHCP client"), "{said}");

    // An original whose own address is a server's to choose cannot be swapped.
    let bench = bench_of_dhcp_original();
    let said = bench.verb_with("clone", &["--ip", "dhcp"]);
    assert!(said.code == 7 && said.stdout.contains("it gets its address by DHCP"), "{said}");
}

fn bench_of_dhcp_original() -> Bench {
    let bench = Bench::new();
    let interfaces = bench.volume("mercure", "etc/network/interfaces");
    std::fs::write(interfaces, "auto lo eth0\niface lo inet loopback\niface eth0 inet dhcp\n").unwrap();
    bench
}
