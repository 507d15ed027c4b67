# What stands behind a machine of the simulated vCenter: a guest of the lab, with its root on a btrfs subvolume. Called as control.go
# says; before this the lab writes: pool, uri, bridge, nobr (a bridge that leads nowhere), state (a directory of ours).
#
# state/MACHINE is the name of the guest; state/plain.xml the definition that all are made of.
vm=$1 verb=$2
shift 2
guest=$(cat "$state/$vm" 2> /dev/null || true)
root=$pool/guests/$guest
kept=$pool/kept
v() { virsh -q -c "$uri" "$@"; }
running() { [ "$(v domstate "$guest" 2> /dev/null)" = running ]; }
init() { pgrep -P "$(v dominfo "$guest" | awk '$1 == "Id:" { print $2 }')" | head -n 1; }
inside() { nsenter -t "$(init)" -m -u -i -n -p -- "$@"; }
# A copy of a root: what is a subvolume of its own in it comes as an empty directory that nobody may write to.
copy() {
    btrfs -q subvolume snapshot "$1" "$2"
    rmdir "$2/var/cache" 2> /dev/null && mkdir "$2/var/cache" || true
}
drop() {
    for nested in "$1/var/cache" "$1"; do
        ! btrfs subvolume show "$nested" > /dev/null 2>&1 || btrfs -q subvolume delete "$nested"
    done
}
where() { if [ "$1" = true ]; then echo "$bridge"; else echo "$nobr"; fi; }

case $verb in
    enter) inside /bin/sh -c "$1" ;;
    snapshot)
        mkdir -p "$kept"
        btrfs -q subvolume snapshot "$root" "$kept/$1"
        ;;
    remove) btrfs -q subvolume delete "$kept/$1" ;;
    revert)
        v destroy "$guest" || true
        drop "$root"
        copy "$kept/$1" "$root"
        ;;
    clone)
        copy "$kept/$1" "$pool/guests/$2"
        echo "$2" > "$state/$2"
        ;;
    on)
        ! running || exit 0
        card=$1
        mac=${card%%,*}
        at=$(where "${card##*,}")
        sed -e "s,<name>.*</name>,<name>$guest</name>," -e '/<uuid>/d' -e "s,guests/[^/']*,guests/$guest," \
            -e "s,<mac address='[^']*',<mac address='$mac'," -e "s,<source bridge='[^']*',<source bridge='$at'," \
            "$state/plain.xml" > "$state/$vm.xml"
        v undefine "$guest" 2> /dev/null || true
        v define "$state/$vm.xml"
        v start "$guest"
        # Its tools are a service of its own.
        for _ in $(seq 100); do
            case $(inside systemctl is-system-running 2> /dev/null) in running | degraded) break ;; esac
            sleep 0.2
        done
        ;;
    off)
        running || exit 0
        inside systemctl poweroff || true
        for _ in $(seq 100); do
            running || exit 0
            sleep 0.2
        done
        v destroy "$guest"
        ;;
    cards)
        for card; do
            interface=$(v domiflist "$guest" | awk -v mac="${card%%,*}" '$5 == mac { print $1 }')
            connected=${card#*,}
            [ -z "$interface" ] || ip link set "$interface" master "$(where "${connected%,*}")"
        done
        ;;
    destroy)
        v destroy "$guest" 2> /dev/null || true
        v undefine "$guest" 2> /dev/null || true
        drop "$root"
        rm -f "$state/$vm"
        ;;
esac
