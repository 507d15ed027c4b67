//! libvirt (LXC here; Xen and QEMU by the same code) through the `virt` crate.
