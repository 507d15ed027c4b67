#!/bin/sh
# Becomes the lab's own libvirtd, in a mount namespace of its own. Started by daemon.rs under `unshare --mount
# --propagation slave`, so nothing mounted here is seen outside, and what is unmounted outside goes here as well.
# $1: the lab's directory.
set -eu
lab=$1

# libvirt's LXC driver has its paths compiled in. Each of them is laid over with the lab's, so that the machine's own
# libvirt (and a second lab) shares nothing with this one.
lay_over() {
    mkdir -p "$lab/$1" "$2"
    mount --bind "$lab/$1" "$2"
}
lay_over etc /etc/libvirt
lay_over var /var/lib/libvirt
lay_over cache /var/cache/libvirt
lay_over log /var/log/libvirt
lay_over run /run/libvirt

# Hybrid cgroups (v1 controllers and a v2 tree beside them): libvirt_lxc tries to make directories in both and fails.
if mountpoint -q /sys/fs/cgroup/unified; then
    umount /sys/fs/cgroup/unified
fi

exec libvirtd --config "$lab/libvirtd.conf" --pid-file "$lab/run/libvirtd.pid"
