# Takes out of a stopped jail's tree what a jail does not need.
#   look  ROOT BACKUP COUNT PATH… MOUNTPOINT…   what is left to do, a line each: "etc" is not backed up, "left PATH"
#   prune ROOT BACKUP COUNT PATH… MOUNTPOINT…   does it; what is worth telling on standard error, as "told: …"
# COUNT is how many of the words are PATHs: relative to ROOT, with a slash at the end to empty a directory and keep it; the last
# part may have a *. A MOUNTPOINT is a directory afterwards, and empty. Nothing is done through a link, and nothing while
# something is mounted beneath ROOT.
set -f
unset TAR_OPTIONS TAR_READER_OPTIONS TAR_WRITER_OPTIONS
LC_ALL=C
export LC_ALL
# Names are not split into words.
IFS=
umask 077
verb=$1 root=$2 backup=$3 count=$4
shift 4
[ -d "$root" ] && [ ! -L "$root" ] && cd "$root" || { echo "there is no directory $root" >&2; exit 66; }
mounted=$(mount | grep -F " on $(pwd -P)/")

tell() {
    echo "told: $1" >&2
}

# Whether the directory that something is in is there, and is none by a link only.
beneath() {
    rest=$1 at=.
    while :; do
        case $rest in
            */?*) at=$at/${rest%%/*} rest=${rest#*/} ;;
            *) return 0 ;;
        esac
        [ -L "$at" ] && { tell "$1 lies behind a link and is left alone"; return 1; }
        [ -d "$at" ] || return 1
    done
}

is_directory() {
    [ -d "$1" ] && [ ! -L "$1" ]
}

is_empty() {
    [ -z "$(find "$1" -mindepth 1 -maxdepth 1 -print | head -n 1)" ]
}

# Flags of FreeBSD that keep a file from being removed.
noschg() {
    if command -v chflags > /dev/null 2>&1 && [ ! -L "$1" ]; then
        chflags -R noschg "$1" || exit 1
    fi
}

empty() {
    is_empty "$1" && return
    noschg "$1"
    find "$1" -mindepth 1 -maxdepth 1 -exec rm -rf '{}' + || exit 1
}

durable() {
    if command -v fsync > /dev/null 2>&1; then fsync "$1"; else sync "$1" 2> /dev/null || sync; fi
}

back_up() {
    [ -f "$backup/etc.tar" ] && return
    is_directory etc || { echo "etc is not a directory" >&2; exit 65; }
    mkdir -p "$backup" || exit 1
    find ./etc -xdev -type f -size +131072 -print | while read -r large; do tell "$large is too large for the backup of etc"; done
    find ./etc -xdev \( -type d -o -type l -o -type f -size -131073 \) -print0 > "$backup/etc.list" || exit 1
    tar -c -f "$backup/etc.tar.part" --no-recursion --null -T "$backup/etc.list" || exit 1
    durable "$backup/etc.tar.part"
    mv -f "$backup/etc.tar.part" "$backup/etc.tar" && rm -f "$backup/etc.list" || exit 1
    durable "$backup"
}

# One thing that a PATH stands for.
take() {
    case $1 in
        */)
            one=${1%/}
            if [ -L "$one" ]; then
                [ "$verb" = look ] || tell "${one#./} is a link and is left alone"
            elif [ -d "$one" ]; then
                if [ "$verb" = prune ]; then empty "$one"; elif ! is_empty "$one"; then echo "left ${1#./}"; fi
            fi
            ;;
        *)
            [ -e "$1" ] || [ -L "$1" ] || return 0
            if [ "$verb" = look ]; then
                echo "left ${1#./}"
            else
                noschg "$1"
                rm -rf "$1" || exit 1
            fi
            ;;
    esac
}

mount_point() {
    beneath "$1" || return 0
    one=./$1
    case $mounted in
        *" on $(pwd -P)/$1 "*) return ;;
    esac
    if [ "$verb" = look ]; then
        is_directory "$one" && is_empty "$one" || echo "left $1"
    elif is_directory "$one"; then
        empty "$one"
    else
        rm -f "$one" && mkdir -m 755 "$one" || exit 1
    fi
}

if [ "$verb" = prune ]; then
    [ -z "$mounted" ] || { echo "something is mounted in it: $mounted" >&2; exit 65; }
    back_up
elif [ ! -f "$backup/etc.tar" ]; then
    echo etc
fi
for path do
    if [ "$count" -le 0 ]; then
        mount_point "$path"
    elif beneath "$path"; then
        case $path in
            *\**)
                set +f
                for found in ./$path; do
                    set -f
                    take "$found"
                done
                set -f
                ;;
            *) take "./$path" ;;
        esac
    fi
    count=$((count - 1))
done
