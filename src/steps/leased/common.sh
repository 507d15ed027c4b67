# Shared by both scripts. A leased change has an id, and a directory $d as long as its reversal stands; whoever is at it holds
# a lock on that directory.
root=
state=$root/var/lib/upgradectl/leased
units=$root/etc/systemd/system

# Waits until nobody else is at it: 0, locked; 1, there is nothing; 2, not within $1 seconds.
lock() {
    while [ -d "$d" ]; do
        [ -r "$d" ] || return 2
        { command exec 9< "$d"; } 2> /dev/null || continue
        tries=$1
        until flock -n 9; do
            [ "$tries" -gt 0 ] || return 2
            tries=$((tries - 1))
            sleep 1
        done
        # It may have been removed, and made anew, meanwhile.
        [ "$d" -ef /proc/self/fd/9 ] && return 0
    done
    return 1
}

now() {
    read -r up _ < /proc/uptime
    echo "${up%%.*}"
}

# A copy of this machine has another id: what was changed here is not its to take back.
machine() { cat "$root/etc/machine-id" 2> /dev/null || echo none; }
mine() { [ "$(machine)" = "$(cat "$d/machine" 2> /dev/null)" ]; }

# Its time begins anew. By the clock that nobody sets, in a directory that is empty after a boot.
renewed() {
    { cat /proc/sys/kernel/random/boot_id && echo $(($(now) + $(cat "$d/grace"))); } > "$until.new" && mv -f "$until.new" "$until"
}

# Whether it has been renewed since this machine has started.
known() { { read -r boot && read -r due; } 2> /dev/null < "$until" && [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ]; }

# Seconds until it is due; a whole time from the next look on, if this machine has started since.
left() { if known; then echo $((due - $(now))); else cat "$d/grace"; fi; }

# Runs a program for so many seconds, without the lock: what it leaves running would hold on to it.
runs() {
    patience=$1
    shift
    if command -v timeout > /dev/null; then
        timeout -k 10 "$patience" "$@" 9<&- < /dev/null
    else
        (exec "$@") 9<&- < /dev/null
    fi
}

# Queues the next look, where at(1) keeps time. It mails what a look prints, unless that goes elsewhere; old ones know no switch for it.
again() {
    [ "$(cat "$d/keeper" 2> /dev/null)" = at ] || return 0
    echo "test ! -e '$d/tick' || /bin/sh '$d/tick' > /dev/null 2>&1" | at now + 1 minute 2>&1 |
        sed -n 's/^job \([0-9]*\) .*/\1/p' > "$d/job"
    [ -s "$d/job" ]
}

# Removes all that stands for it here.
drop() {
    unit=upgradectl-leased-$id
    case $(cat "$d/keeper" 2> /dev/null) in
        systemd)
            systemctl --quiet stop "$unit.timer" 2> /dev/null
            rm -f "$units/timers.target.wants/$unit.timer" "$units/$unit.timer" "$units/$unit.service"
            rmdir "$units/timers.target.wants" 2> /dev/null
            systemctl daemon-reload
            systemctl --quiet reset-failed "$unit.service" "$unit.timer" 2> /dev/null
            ;;
        at) [ -s "$d/job" ] && atrm "$(cat "$d/job")" 2> /dev/null ;;
    esac
    rm -f "$until" "$until.new"
    rm -rf "$d"
    rmdir "$state" "$root/var/lib/upgradectl" 2> /dev/null
    [ ! -e "$d" ]
}
