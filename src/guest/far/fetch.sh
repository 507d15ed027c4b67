# Packs files of a tree for another machine, as tar(1), on standard output.
#   ROOT WORDS PATH…   WORDS: only regular files that have one of these (a line each) in them; none: all of them
# Directories and links are packed as such, regular files up to 1 MiB, and nothing else; links are not followed. A PATH that
# lies behind a link is left out and told on standard error. The last thing packed is the root itself, and only if all that was
# asked for could be looked at.
set -f
unset TAR_OPTIONS TAR_READER_OPTIONS TAR_WRITER_OPTIONS GREP_OPTIONS
LC_ALL=C
export LC_ALL
root=$1 words=$2
shift 2
[ -d "$root" ] && [ ! -L "$root" ] && cd "$root" || { echo "there is no directory $root" >&2; exit 66; }

# Whether there is something, in directories that are none by a link only.
standing() {
    rest=$1 at=.
    while :; do
        case $rest in
            */*) at=$at/${rest%%/*} rest=${rest#*/} ;;
            *) [ -e "./$1" ] || [ -L "./$1" ]; return ;;
        esac
        [ -L "$at" ] && { echo "behind a link: $1" >&2; return 1; }
        [ -d "$at" ] || return 1
    done
}

for path do
    shift
    standing "$path" && set -- "$@" "./$path"
done

names() {
    if [ $# -eq 0 ]; then
        :
    elif [ -n "$words" ]; then
        find "$@" -xdev -type f -size -2049 -exec sh -c 'grep -lF --null -e "$0" "$@" || [ $? -eq 1 ]' "$words" '{}' +
    else
        find "$@" -xdev \( -type d -o -type l -o -type f -size -2049 \) -print0
    fi && find . -prune -print0
}

# Formats that hold names of any length and no sparse files; the oldest programs know one only.
case $(tar --version 2> /dev/null) in
    bsdtar\ [012].*) format='--format ustar' ;;
    bsdtar*) format='--format gnutar' ;;
    *\ 1.13*) format= ;;
    *) format='--format=gnu' ;;
esac
# shellcheck disable=SC2086
names "$@" | tar -c -f - $format --no-recursion --null -T -
