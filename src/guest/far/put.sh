# Puts files into a tree: all is looked at before anything is changed, then each is replaced in one step.
#   ROOT {new|file|dir|gone PATH TEMPORARY}…   standard input: a tar(1) of the temporaries and the directories
# No directory on the way may be a link. Nothing is written through what stands there: temporaries are removed first and made
# anew, and take the place of what they are for by rename(2).
set -f
unset TAR_OPTIONS TAR_READER_OPTIONS TAR_WRITER_OPTIONS
LC_ALL=C
export LC_ALL
umask 077
root=$1
shift
[ -d "$root" ] && [ ! -L "$root" ] && cd "$root" || { echo "there is no directory $root" >&2; exit 66; }

refuse() {
    echo "/$1: $2" >&2
    exit 65
}

# Writes what was written to the disk, for certain.
durable() {
    if command -v fsync > /dev/null 2>&1; then
        fsync "$@"
    else
        sync "$@" 2> /dev/null || sync
    fi
}

dirs=
beneath() {
    rest=$1 at=.
    while :; do
        case $rest in
            */*) at=$at/${rest%%/*} rest=${rest#*/} ;;
            *) return ;;
        esac
        [ -L "$at" ] && refuse "$1" "lies behind a link"
        [ -d "$at" ] && continue
        case $dirs in
            *"|$at|"*) ;;
            *) refuse "$1" "has no directory to be in" ;;
        esac
    done
}

look() {
    while [ $# -gt 0 ]; do
        path=./$2
        beneath "$2"
        case $1 in
            new) [ -e "$path" ] || [ -L "$path" ] && refuse "$2" "is there by now, or is not a file" ;;
            file) [ -L "$path" ] || [ -f "$path" ] || refuse "$2" "is not a file" ;;
            dir)
                [ -L "$path" ] && refuse "$2" "is a link"
                [ -e "$path" ] && [ ! -d "$path" ] && refuse "$2" "is not a directory"
                dirs="$dirs|$path|"
                ;;
        esac
        shift 3
    done
}

clear_away() {
    while [ $# -gt 0 ]; do
        [ -z "$3" ] || rm -f "./$3" || exit 1
        shift 3
    done
}

settle() {
    while [ $# -gt 0 ]; do
        path=./$2
        case $1 in
            new | file)
                durable "./$3" || exit 1
                # mv(1) goes through a link to a directory.
                if [ -L "$path" ]; then rm -f "$path" || exit 1; fi
                mv -f "./$3" "$path" || exit 1
                ;;
            gone)
                if [ -d "$path" ] && [ ! -L "$path" ]; then rmdir "$path"; else rm -f "$path"; fi || exit 1
                ;;
        esac
        durable "${path%/*}" || exit 1
        shift 3
    done
}

look "$@"
clear_away "$@"
tar -x -p -m -f - || exit 1
settle "$@"
