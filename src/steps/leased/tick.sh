# Run again and again; with "now" as its argument it does not wait.
d=$state/$id until=$root/run/upgradectl-leased-$id
export HOME="${HOME:-/root}" PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
cd /
again
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
echo "upgradectl: nobody has renewed this change: it is taken back"
runs "$limit" "$@" || exit
drop
