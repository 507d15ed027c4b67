#!/bin/sh
# FreeBSD's programs on a machine that has none, as far as the steps use them. Called by their names. What they know is in the directory
# $FAKE; what they print is what was recorded (integration/tests/jail/replay/unit_standin.rs holds them to it). They do something with the tree, and say no where the real ones do.
me=${0##*/}
log() { echo "$me $*" >>"$FAKE/log"; }
say() { cat "$FAKE/$1" 2>/dev/null; }
bar() { echo "--------------------------------------------------------------"; echo ">>> $1"; echo "--------------------------------------------------------------"; }
flagged() { grep -qxF "$1" "$FAKE/schg" 2>/dev/null; }
locked() { test "$(say securelevel)" -gt 0; }
put() { # FILE: installs standard input there, past the flag if that is allowed
    if flagged "$1" && locked; then echo "install: $1: chflags: Operation not permitted"; return 1; fi
    mkdir -p "${1%/*}" && cat >"$1.inst" && mv -f "$1.inst" "$1"
}
release() { . "$1/sys/conf/newvers.sh"; echo "$REVISION-$BRANCH"; }

case $me in
uname)
    case $1 in -K) say kernel;; -U) say kernel;; -r) say running;; -p) echo amd64;; *) exit 1;; esac;;
freebsd-version)
    case $1 in -k) say installed;; -u) say running;; *) exit 1;; esac;;
sysctl)
    case "$*" in
    "-n kern.securelevel") say securelevel;;
    "-n hw.ncpu") echo 4;;
    "-N kern.features") say features;;
    "-n kern.boottime") echo "{ sec = 1, usec = 1 } x";;
    *) echo "sysctl: unknown oid" >&2; exit 1;;
    esac;;
sha256)
    test "$1" = -q || exit 1; sha256sum "$2" | cut -d ' ' -f 1;;
chflags)
    log "$@"
    test "$1 $2" = "-R noschg" || { echo "usage: chflags" >&2; exit 1; }
    if locked; then echo "chflags: $3/lib/libc.so.7: Operation not permitted" >&2; exit 1; fi
    grep -v "^$3/" "$FAKE/schg" >"$FAKE/schg.new"; mv "$FAKE/schg.new" "$FAKE/schg";;
find)
    case " $* " in
    *" -flags "*) while read -r f; do case $f in "$1"/*) test -e "$f" && echo "$f";; esac; done <"$FAKE/schg"; exit 0;;
    *) exec /usr/bin/find "$@";;
    esac;;
make)
    src=$(pwd)
    if test "$1" = -C; then src=$2; shift 2; fi
    log "$@"
    dest=; target=; jobs=
    while test $# -gt 0; do
        case $1 in
        -V) case $2 in OBJTOP) echo "${MAKEOBJDIRPREFIX:-$FAKE/obj}$src/amd64.amd64"; exit 0;; *) echo; exit 0;; esac;;
        -j) jobs=$2; shift;;
        -DBATCH_DELETE_OLD_FILES) batch=1;;
        DESTDIR=*) dest=${1#DESTDIR=};;
        *) target=$1;;
        esac
        shift
    done
    obj=${MAKEOBJDIRPREFIX:-$FAKE/obj}$src/amd64.amd64
    if ! test -f "$src/Makefile"; then
        echo "make: don't know how to make $target. Stop"; echo; echo "make: stopped in $src"; exit 2
    fi
    case $target in
    buildworld)
        bar "World build started on Sun Nov 22 01:39:26 UTC 2026"
        rm -rf "$obj"
        for f in bin/sh/sh usr.bin/yes/yes; do mkdir -p "$obj/${f%/*}"; echo x >"$obj/$f"; done
        mkdir -p "$obj/include"; grep __FreeBSD_version "$src/sys/sys/param.h" >"$obj/include/osreldate.h"
        # freebsd-version(1) came with 10.0.
        case $(release "$src") in
        [4-9].*) ;;
        *)
            mkdir -p "$obj/bin/freebsd-version"
            echo "USERLAND_VERSION=\"$(release "$src")\"" >"$obj/bin/freebsd-version/freebsd-version";;
        esac
        bar "World build completed on Sun Nov 22 01:39:54 UTC 2026";;
    installworld)
        bar "Install check world"
        test -f "$obj/usr.bin/yes/yes" || { echo "make[1]: don't know how to make $obj/x. Stop"; exit 2; }
        bar "Making hierarchy"
        bar "Installing everything started on Sun Nov 22 01:39:26 UTC 2026"
        echo "===> bin/sh (install)"
        put "$dest/bin/sh" <"$obj/bin/sh/sh" || { echo "*** [install] Error code 71"; exit 2; }
        test ! -f "$obj/bin/freebsd-version/freebsd-version" || put "$dest/bin/freebsd-version" <"$obj/bin/freebsd-version/freebsd-version" || { echo "*** [install] Error code 71"; exit 2; }
        left=$(say trips); left=${left:-0}
        if test "$left" -gt 0; then
            echo $((left - 1)) >"$FAKE/trips"
            echo "ld-elf.so.1: /lib/libc.so.7: version FBSD_1.7 required by x not defined"; echo "*** [install] Error code 1"; exit 2
        fi
        grep __FreeBSD_version "$src/sys/sys/param.h" | put "$dest/usr/include/osreldate.h"
        echo libc | put "$dest/lib/libc.so.7" || { echo "*** [install] Error code 71"; exit 2; }
        flagged "$dest/lib/libc.so.7" || echo "$dest/lib/libc.so.7" >>"$FAKE/schg"
        bar "Installing everything completed on Sun Nov 22 01:39:54 UTC 2026";;
    check-old)
        echo ">>> Checking for old files"
        while read -r f; do test -e "$dest$f" && echo "$dest$f"; done <"$FAKE/old-files"
        echo ">>> Checking for old libraries"
        while read -r f; do test -e "$dest$f" && echo "$dest$f"; done <"$FAKE/old-libs"
        echo ">>> Checking for old directories"
        echo "To remove old files and directories run 'make delete-old'."
        echo "To remove old libraries run 'make delete-old-libs'.";;
    delete-old)
        test -n "$batch" || exit 1
        echo ">>> Removing old files (only deletes safe to delete libs)"
        while read -r f; do rm -f "$dest$f"; done <"$FAKE/old-files"
        echo ">>> Old files removed"; echo ">>> Removing old directories"; echo ">>> Old directories removed"
        echo "To remove old libraries run 'make delete-old-libs'.";;
    delete-old-libs)
        test -n "$batch" || exit 1
        echo ">>> Removing old libraries"
        while read -r f; do rm -f "$dest$f"; done <"$FAKE/old-libs"
        echo ">>> Old libraries removed";;
    install)
        mkdir -p "$dest/etc/rc.d" && cp -p "$src"/* "$dest/etc/rc.d/" && rm -f "$dest/etc/rc.d/Makefile";;
    *) echo "make: don't know how to make $target. Stop"; exit 2;;
    esac;;
etcupdate)
    log "$@"
    cmd=merge
    case $1 in build|extract|status|resolve|diff) cmd=$1; shift;; esac
    dest=; ball=; src=; dry=; pre=; out=; work=
    while test $# -gt 0; do
        case $1 in
        -D) dest=$2; shift;; -t) ball=$2; shift;; -s) src=$2; shift;; -d) work=$2; shift;;
        -n) dry=1;; -p) pre=1;; -F|-B) ;;
        -*) echo "usage: etcupdate" ; exit 1;;
        build|extract|status|resolve|diff) echo "usage: etcupdate"; exit 1;;
        *) out=$1;;
        esac
        shift
    done
    test -n "$work" || work=$dest/var/db/etcupdate
    mkdir -p "$work"
    unpack() { rm -rf "$1"; mkdir -p "$1" && tar -xf "$ball" -C "$1"; }
    case $cmd in
    build) test -d "$src/etc" || exit 1; tar -cf "$out" -C "$src" etc;;
    extract) unpack "$work/new" && rm -rf "$work/current" && mv "$work/new" "$work/current";;
    status)
        if test -d "$work/conflicts"; then (cd "$work/conflicts" && /usr/bin/find . -type f | sort | sed 's/^\./  C /'); fi
        if test -s "$work/warnings"; then echo "Warnings:"; cat "$work/warnings"; fi;;
    resolve) while :; do sleep 1; done;;
    merge)
        if test -d "$work/conflicts" && test -n "$(/usr/bin/find "$work/conflicts" -type f)"; then
            echo "Conflicts remain from previous update, aborting."; exit 1
        fi
        if ! test -d "$work/current"; then
            echo "No previous tree to compare against, a sane comparison is not possible."; exit 1
        fi
        unpack "$work/tmp" || exit 1
        old=$work/current new=$work/tmp; warn=
        # What is gone first, then what both have, then what is new.
        for t in old new; do eval "cd \"\$$t\"" && /usr/bin/find . -type f | sed 's/^\.//' | sort >"$work/files.$t"; done
        for c in -23 -12 -13; do comm $c "$work/files.old" "$work/files.new"; done >"$work/files"
        : >"$work/warnings.new"
        while read -r f; do
            if test -n "$pre"; then case $f in /etc/master.passwd|/etc/group) ;; *) continue;; esac; fi
            cmp -s "$old$f" "$new$f" && continue
            if ! test -e "$new$f"; then
                if cmp -s "$dest$f" "$old$f"; then echo "  D $f"; test -n "$dry" || rm -f "$dest$f"; fi
                continue
            fi
            if ! test -e "$old$f" && ! test -e "$dest$f"; then
                echo "  A $f"; test -n "$dry" || { mkdir -p "$dest${f%/*}"; cp -p "$new$f" "$dest$f"; }
                continue
            fi
            cmp -s "$dest$f" "$new$f" && continue
            if cmp -s "$dest$f" "$old$f"; then
                echo "  U $f"
                test "$f" = /etc/mail/aliases && echo "  Needs update: /etc/mail/aliases.db (requires manual update via newaliases(1))" >>"$work/warnings.new"
                test -n "$dry" || cp -p "$new$f" "$dest$f"
            elif diff3 -E -m "$dest$f" "$old$f" "$new$f" >"$work/merged" 2>/dev/null; then
                echo "  M $f"
                if test -z "$dry"; then
                    cat "$work/merged" >"$dest$f"
                    test "$f" = /etc/master.passwd && pwd_mkdb -p -d "$dest/etc" "$dest/etc/master.passwd"
                fi
            else
                echo "  C $f"
                test -n "$dry" || { mkdir -p "$work/conflicts${f%/*}"; diff3 -m -A -L yours -L original -L new "$dest$f" "$old$f" "$new$f" >"$work/conflicts$f"; }
            fi
        done <"$work/files"
        if test -s "$work/warnings.new"; then echo "Warnings:"; cat "$work/warnings.new"; fi
        if test -n "$dry"; then rm -rf "$new"; exit 0; fi
        mv "$work/warnings.new" "$work/warnings"
        if test -n "$pre"; then rm -rf "$new"; exit 0; fi
        rm -rf "$work/old"; mv "$old" "$work/old"; mv "$new" "$old";;
    esac;;
pwd_mkdb)
    log "$@"
    test "$1 $2" = "-p -d" || exit 1
    if ! awk -F: '/^#/ { next } NF != 10 { exit 1 }' "$4"; then
        echo "pwd_mkdb: corrupted entry" >&2; echo "pwd_mkdb: at line #1" >&2
        echo "pwd_mkdb: $4: Inappropriate file type or format" >&2; exit 1
    fi
    echo db >"$3/spwd.db"; awk -F: -v OFS=: '/^#/ { next } { print $1, "*", $3, $4, $8, $9, $10 }' "$4" >"$3/passwd";;
cap_mkdb) log "$@"; test -f "$1" && echo db >"$1.db";;
services_mkdb) log "$@"; test "$1 $2" = "-q -o" && mkdir -p "${3%/*}" && echo db >"$3";;
mergemaster)
    log "$@"
    dest=; src=/usr/src; temp=
    while test $# -gt 0; do case $1 in -a) ;; -D) dest=$2; shift;; -m) src=$2; shift;; -t) temp=$2; shift;; *) exit 1;; esac; shift; done
    if ! test -d "$src/etc"; then
        echo; echo "*** $src was not found."; echo "    **** No suitable $src found, exiting"; exit 1
    fi
    rm -rf "$temp"; mkdir -p "$temp"; cp -Rp "$src/etc" "$temp/"
    cd "$temp" && /usr/bin/find . -type f | while read -r f; do cmp -s "$temp/$f" "$dest/$f" && rm -f "$temp/$f"; done
    echo "*** Comparison complete";;
mount) test "$1" = -p && say mounted; exit 0;;
umount) grep -v " $1 " "$FAKE/mounted" >"$FAKE/mounted.new"; mv "$FAKE/mounted.new" "$FAKE/mounted";;
jls)
    test -e "$FAKE/jails/$2" || { echo "jls: jail \"$2\" not found" >&2; test -n "$3" || echo "   JID  IP Address      Hostname                      Path"; exit 1; }
    echo jid; echo 7;;
jail)
    log "$@"
    case $1 in
    -r) test -e "$FAKE/jails/$2" || { echo "jail: \"$2\" not found" >&2; exit 1; }; rm "$FAKE/jails/$2"; exit 0;;
    -c) ;;
    *) exit 1;;
    esac
    shift
    while test $# -gt 0; do
        case $1 in
        name=*) name=${1#name=};; path=*) path=${1#path=};;
        mount.devfs) echo "devfs $path/dev devfs rw 0 0" >>"$FAKE/mounted";;
        command=*) program=${1#command=}; shift; break;;
        host.hostname=*|ip4=inherit|ip6=inherit|exec.clean) ;;
        *) echo "jail: unknown parameter: $1" >&2; exit 1;;
        esac
        shift
    done
    test -d "$path" || { echo "jail: $path: No such file or directory" >&2; exit 1; }
    case $name in *.*) echo "jail: no such parent" >&2; exit 1;; esac
    test -e "$FAKE/jails/$name" && { echo "jail: $name already exists" >&2; exit 1; }
    test -x "$path$program" || { echo "jail: execvp: $program: No such file or directory" >&2; exit 1; }
    # The program is played: the devices stay mounted when it ends, as they do.
    case "$program $*" in
    "/usr/bin/newaliases ") echo db >"$path/etc/mail/aliases.db";;
    "/usr/local/sbin/pkg-static install -fy pkg")
        test -e "$FAKE/network" || { echo "pkg-static: Unable to update repository FreeBSD"; exit 70; }
        echo "[1/1] Reinstalling pkg-1.21.3...";;
    "/usr/local/sbin/pkg-static upgrade -fFy")
        test -e "$FAKE/network" || { echo "pkg-static: Unable to update repository FreeBSD"; exit 70; }
        mkdir -p "$path/var/cache/pkg"
        for p in apache24-2.4.62 pcre2-10.43; do
            f="$path/var/cache/pkg/$p~$(echo "the package $p" | sha256sum | cut -c 1-10).pkg"
            test "$(cat "$f" 2>/dev/null)" = "the package $p" && continue
            log fetched "$p"; echo "[1/2] Fetching $p.pkg: 100%"
            rm -f "$f"; echo "the package $p" >"$f"; ln -sf "${f##*/}" "$path/var/cache/pkg/$p.pkg"
        done;;
    "/usr/local/sbin/pkg-static upgrade -fy")
        test -e "$FAKE/network" || { echo "pkg-static: Unable to update repository FreeBSD"; exit 70; }
        cp "$FAKE/new-elf" "$path/usr/local/bin/httpd"; echo "[1/1] Reinstalling apache24-2.4.62...";;
    *) echo "$program: usage" >&2; exit 64;;
    esac;;
freebsd-update)
    log "$@"
    while test $# -gt 0; do
        case $1 in
        --not-running-from-cron) ;; --currently-running) from=$2; shift;;
        -b) dest=$2; shift;; -d) work=$2; shift;; -f) conf=$2; shift;; -r) to=$2; shift;;
        upgrade|install) cmd=$1;; *) echo "usage: freebsd-update"; exit 1;;
        esac
        shift
    done
    grep -q '^Components world$' "$conf" && test -d "$work" || exit 1
    case $cmd in
    upgrade)
        echo "$to" >"$work/fetched"
        echo "The following files are affected by updates. No changes have"
        echo "been downloaded, however, because the files have been modified"
        echo "locally:"
        echo "/etc/newsyslog.conf"; echo;;
    install)
        test -s "$work/fetched" || { echo "No updates are available to install."; echo "Run '$me fetch' first."; exit 2; }
        if test -e "$work/worlddone"; then rm "$work/fetched" "$work/worlddone"; rm -f "$dest/lib/libedit.so.7"; echo "Installing updates... done."; exit 0; fi
        echo "USERLAND_VERSION=\"$(cat "$work/fetched")\"" >"$dest/bin/freebsd-version"; touch "$work/worlddone"
        echo "Installing updates..."; echo "Completing this upgrade requires removing old shared object files."
        echo "Please rebuild all installed 3rd party software (e.g., programs"; echo "installed from the ports tree) and then run \"$me install\""; exit 0;;
    esac;;
*) echo "no $me here" >&2; exit 127;;
esac
