//! The product is light to start: `status` is typed often, and the boot units start it every minute.

use super::bench::Bench;

/// libvirt's library brings forty others with it; whoever asks for no libvirt host does not wait for them.
#[test]
fn the_library_is_loaded_late() {
    let bench = Bench::new();
    // ld.so(8): lists what would be loaded, and does not start the program.
    let listed = bench.ctl.command(["--version"]).env("LD_TRACE_LOADED_OBJECTS", "1").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("libc.so"), "{listed}");
    assert!(
        !listed.contains("libvirt"),
        "a function of libvirt is missing in hypervisors/src/libvirt/late.rs:\n{listed}"
    );
}
