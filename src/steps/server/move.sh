# Moves this machine from its own addresses to another one (there), or back. Made by upgradectl; goes with the run.
# Arguments: directory, there|back, seconds to wait for its word, interface, parking address, netmask, gateway, then the own
# addresses, three words each: family, address, prefix length. A dash stands for what there is not.
PATH=$PATH:/sbin:/usr/sbin
export PATH
d=$1 way=$2 wait=$3 i=$4 p=$5 m=$6 g=$7
shift 7
sleep 1
# The same words for both: Linux has them of ip(8).
linux=
test "$(uname -s)" = Linux && linux=1
own() {
	what=$1
	shift
	while test $# -ge 3; do
		case $linux$what$1 in
		1-aliasinet) ip -4 address del "$2/$3" dev "$i" ;;
		1-aliasinet6) ip -6 address del "$2/$3" dev "$i" ;;
		1aliasinet) ip -4 address add "$2/$3" broadcast + dev "$i" ;;
		1aliasinet6) ip -6 address add "$2/$3" dev "$i" nodad ;;
		-aliasinet) ifconfig "$i" inet "$2" -alias ;;
		-aliasinet6) ifconfig "$i" inet6 "$2" -alias ;;
		aliasinet) ifconfig "$i" inet "$2/$3" alias ;;
		aliasinet6) ifconfig "$i" inet6 "$2" prefixlen "$3" alias ;;
		esac
		shift 3
	done
}
route_by() {
	test "$1" = - && return
	if test -n "$linux"; then
		ip -4 route replace default via "$1" dev "$i"
		return
	fi
	route delete default >/dev/null 2>&1
	route add default "$1"
}
there() {
	# The way out is kept in mind: it goes with the last address of its network.
	if test -n "$linux"; then
		ip -4 route show default dev "$i" | awk '$2 == "via" { print $3; exit }'
	else
		netstat -rn | awk '$1 == "default" && $2 !~ /:/ { print $2; exit }'
	fi >"$d/gateway"
	own -alias "$@"
	test "$p" = - && return
	if test -n "$linux"; then
		ip -4 address add "$p/$m" broadcast + dev "$i"
		route_by "$g"
		return
	fi
	ifconfig "$i" inet "$p" netmask "$m" alias
	route_by "$g"
}
back() {
	if test -n "$linux"; then
		test "$p" = - || ip -4 address del "$p/$m" dev "$i"
	else
		test "$p" = - || ifconfig "$i" inet "$p" -alias
	fi
	own alias "$@"
	test -s "$d/gateway" && route_by "$(cat "$d/gateway")"
}
case $way in
back)
	back "$@"
	exit
	;;
esac
there "$@"
test "$wait" -gt 0 || exit 0
while test "$wait" -gt 0; do
	test -d "$d/decided" && exit 0
	sleep 1
	wait=$((wait - 1))
done
mkdir "$d/decided" 2>/dev/null && : >"$d/decided/back" && back "$@"
