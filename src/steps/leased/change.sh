# Changes of this machine that it takes back by itself unless they are renewed.
#   can                                 what keeps time here: "systemd", "at", or "none WHY"
#   make ID GRACE TICK LIMIT PROGRAM…   sees to it that the change is taken back by the script on standard input, then runs PROGRAM
#   renew ID                            "renewed", "gone" or "busy"
#   take ID LIMIT PROGRAM…              runs PROGRAM, and sees to it that nothing more is done
#   list                                "ID LEFT ABOUT" each; LEFT: seconds, or "dead" if nothing looks at it any more
# GRACE, TICK, LIMIT: seconds from a renewal until it is due, between two looks at that, and for PROGRAM.

named() {
    case $1 in '' | .* | *[!A-Za-z0-9._-]*) echo "upgradectl: no id: $1" >&2; exit 76 ;; esac
    id=$1 d=$state/$1 until=$root/run/upgradectl-leased-$1
}

can() {
    if ! command -v flock > /dev/null; then
        echo none there is no flock
    elif [ -d "$root/run/systemd/system" ]; then
        if [ -w "$units" ]; then echo systemd; else echo "none $units cannot be written"; fi
    elif command -v at > /dev/null && { [ -e "$root/run/atd.pid" ] || [ -e "$root/var/run/atd.pid" ]; }; then
        echo at
    else
        echo none there is neither systemd nor atd
    fi
}

cannot() {
    echo "upgradectl: this machine cannot be made to take it back: $1" >&2
    drop
    exit 76
}

arm() {
    (
        umask 077
        cat > "$d/tick.new" && echo "$1" > "$d/grace" && machine > "$d/machine" && echo "$keeper" > "$d/keeper" &&
            mv -f "$d/tick.new" "$d/tick"
    ) || cannot "$d cannot be written"
    renewed || cannot "$until cannot be written"
    if [ "$keeper" = at ]; then
        sync
        again || cannot "at refuses"
        return
    fi
    unit=upgradectl-leased-$id
    # What the reversal starts outlives it.
    mkdir -p "$units/timers.target.wants" && cat > "$units/$unit.service" << END && cat > "$units/$unit.timer" << END &&
[Unit]
Description=A change that upgradectl made, taken back unless it is renewed
[Service]
Type=oneshot
ExecStart=/bin/sh $d/tick
KillMode=process
END
[Unit]
Description=A change that upgradectl made, taken back unless it is renewed
[Timer]
OnActiveSec=$2
OnUnitInactiveSec=$2
AccuracySec=1
[Install]
WantedBy=timers.target
END
        ln -sf "../$unit.timer" "$units/timers.target.wants/$unit.timer" || cannot "$units cannot be written"
    sync
    systemctl daemon-reload && systemctl restart "$unit.timer" || cannot "systemd refuses"
}

make() {
    named "$1"
    grace=$2 tick=$3 limit=$4
    shift 4
    keeper=$(can)
    case $keeper in none*) echo "upgradectl: $keeper" >&2; exit 76 ;; esac
    got=1
    for _ in 1 2 3; do
        (umask 077; mkdir -p "$d") || exit 76
        lock "$limit"
        got=$?
        [ "$got" -eq 1 ] || break
    done
    [ "$got" -eq 0 ] || { echo "upgradectl: it is being taken back for too long" >&2; exit 75; }
    arm "$grace" "$tick"
    runs "$limit" "$@"
    status=$?
    renewed
    exit "$status"
}

renew() {
    named "$1"
    lock 5
    case $? in
        1) echo gone; return ;;
        2) echo busy; return ;;
    esac
    if ! mine || ! [ -e "$d/tick" ]; then echo gone; return; fi
    renewed || exit 76
    unit=upgradectl-leased-$id
    if [ "$(cat "$d/keeper")" = systemd ]; then
        systemctl --quiet is-active "$unit.timer" || systemctl start "$unit.timer" || exit 76
    fi
    echo renewed
}

take() {
    named "$1"
    limit=$2
    shift 2
    lock "$limit"
    got=$?
    [ "$got" -ne 2 ] || { echo "upgradectl: it is being taken back for too long" >&2; exit 75; }
    runs "$limit" "$@" || exit
    [ "$got" -ne 0 ] || drop
}

list() {
    for d in "$state"/*; do
        [ -d "$d" ] || continue
        id=${d##*/}
        until=$root/run/upgradectl-leased-$id
        seconds=dead
        case $(cat "$d/keeper" 2> /dev/null) in
            systemd) systemctl --quiet is-active "upgradectl-leased-$id.timer" && seconds=$(left) ;;
            at) [ -s "$d/job" ] && seconds=$(left) ;;
        esac
        printf '%s %s %s\n' "$id" "$seconds" "$(sed -n 's/^# //p;q' "$d/tick" 2> /dev/null)"
    done
}

verb=$1
shift
case $verb in
    can | make | renew | take | list) "$verb" "$@" ;;
    *) exit 76 ;;
esac
