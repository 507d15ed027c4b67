# Run again and again, with "due" as its argument in a scope of its own. With "now" it does not wait.
d=$state/$id until=$root/run/upgradectl-leased-$id
export HOME="${HOME:-/root}" PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
cd /
[ "$asked" ] || again
lock 0
case $? in
    1) exit ;;
    # It is being made, renewed or taken back.
    2) [ "$asked" = now ] || exit 0; exit 75 ;;
esac
mine || { drop; exit; }
if [ "$asked" != now ]; then
    # What cannot be written down is due at once.
    known || { renewed && exit 0; }
    ! known || [ "$(left)" -le 0 ] || exit 0
fi
# What the reversal leaves running outlives the unit: systemd forgets that it may (KillMode=) when the unit's file is removed.
if [ -z "$asked" ] && [ "$(cat "$d/keeper")" = systemd ]; then
    rm -f "$d/scoped"
    exec 9<&-
    systemd-run --quiet --scope -- /bin/sh "$d/tick" due
    status=$?
    [ -d "$d" ] && [ ! -e "$d/scoped" ] || exit "$status"
    lock 0 || exit 0
fi
: > "$d/scoped"
echo "upgradectl: nobody has renewed this change: it is taken back"
runs "$limit" "$@" || exit
drop
