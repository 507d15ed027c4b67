# Holds a guest's file systems still, and lets go of them by itself.
#   can NAME SECONDS [DISK…]      what would be frozen: "can POINT…", or "none WHY"
#   freeze NAME SECONDS [DISK…]   freezes; "frozen POINT…", "failed WHY", "none WHY" or "late"
#   thaw NAME                     thaws; "thawed", "fired UPTIME" (it had thawed by itself), "lost POINT" or "gone"
# DISK: devices whose file systems are left alone. While they are frozen nothing is written to a disk: state lies in memory,
# and the timer runs before the first is frozen.
set -f
PATH=$PATH:/usr/sbin:/sbin
export PATH LC_ALL=C
verb=$1 name=$2 seconds=$3

memory=
for place in /run /dev/shm; do
    while read -r _ point type _; do
        [ "$point" = "$place" ] && [ "$type" = tmpfs ] && memory=$place
    done < /proc/mounts
    [ -n "$memory" ] && break
done
d=$memory/upgradectl-freeze-$name

undo() {
    [ -n "$memory" ] && [ -d "$d" ] || { echo gone; return; }
    points= fired= lost=
    read -r points < "$d/points"
    [ -e "$d/fired" ] && read -r fired < "$d/fired"
    : > "$d/done"
    for point in $points; do
        fsfreeze -u "$point" 2> /dev/null || lost=$point
    done
    # Fired, its number may be another process's by now.
    [ -n "$fired" ] || { read -r timer < "$d/timer" && kill -KILL "$timer" 2> /dev/null; }
    rm -r "$d"
    if [ -n "$fired" ]; then echo "fired $fired"
    elif [ -n "$lost" ]; then echo "lost $lost"
    else echo thawed
    fi
}

# Started before anything is frozen.
watch() {
    sleep "$seconds" &
    mine=$!
    echo "$mine" > "$d/timer"
    wait "$mine"
    [ -d "$d" ] && ! [ -e "$d/done" ] || return
    # Ended for another attempt, the directory is that one's by now.
    read -r timer < "$d/timer" && [ "$timer" = "$mine" ] || return
    read -r now _ < /proc/uptime
    echo "$now" > "$d/fired"
    while :; do
        idle=
        [ -e "$d/idle" ] && idle=yes
        for point in $points; do fsfreeze -u "$point" 2> /dev/null; done
        # Whoever freezes may be in the middle of it.
        [ -n "$idle" ] || ! [ -d "$d" ] && break
        sleep 1
    done
    echo "upgradectl: $points thawed by itself after $seconds s" > /dev/kmsg
}

hold() {
    trap '' HUP INT TERM
    watch &
    while ! [ -s "$d/timer" ]; do sleep 0.1; done
    why=
    for point in $points; do
        [ -e "$d/fired" ] && { why="it took too long"; break; }
        said=$(fsfreeze -f "$point" 2>&1) || { why="${said:-$point}"; break; }
    done
    : > "$d/idle"
    if [ -z "$why" ]; then
        echo "frozen $points" > "$d/state"
        return
    fi
    : > "$d/done"
    for point in $points; do fsfreeze -u "$point" 2> /dev/null; done
    read -r timer < "$d/timer" && kill -KILL "$timer"
    echo failed $why > "$d/state"
}

if [ "$verb" = thaw ]; then
    undo
    exit
fi

shift 3
[ -n "$memory" ] || { echo "none no directory that is in memory (/run, /dev/shm)"; exit; }
command -v fsfreeze > /dev/null || { echo "none no fsfreeze"; exit; }
points= seen=
while read -r device point type options _; do
    case $device in /dev/*) ;; *) continue ;; esac
    case $type in ext2 | ext3 | ext4 | xfs | f2fs | jfs | reiserfs) ;; *) continue ;; esac
    case ,$options, in *,rw,*) ;; *) continue ;; esac
    case " $seen " in *" $device "*) continue ;; esac
    for disk in "$@"; do
        case $device in "/dev/$disk" | "/dev/$disk"[0-9]* | "/dev/${disk}p"[0-9]*) continue 2 ;; esac
    done
    case $point in *\\*) echo "none $point has an odd name"; exit ;; esac
    seen="$seen $device"
    # What is mounted last, and may lie on the others, is frozen first.
    points="$point $points"
done < /proc/mounts
points=${points% }
[ -n "$points" ] || { echo "none nothing that can be frozen"; exit; }
[ "$verb" = can ] && { echo "can $points"; exit; }

# Of an attempt that was cut short.
undo > /dev/null
mkdir -m 700 "$d" && echo "$points" > "$d/points" || { echo "none $d cannot be made"; exit; }
# A subshell: for a function alone dash keeps what it redirects open beside, and ssh would wait for the timer to let go of it.
( hold ) < /dev/null > /dev/null 2>&1 &
tries=0
while ! [ -s "$d/state" ] && [ "$tries" -lt $((seconds * 5)) ]; do
    sleep 0.2
    tries=$((tries + 1))
done
state=late
[ -s "$d/state" ] && read -r state < "$d/state"
echo "$state"
