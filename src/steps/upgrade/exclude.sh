# Comments lines of a configuration file out, and in again.
#   state FILE KEPT LINES               absent, lifted, begun, or foreign: someone else changed it since
#   lift FILE KEPT LINES SHA256         KEPT becomes a copy of FILE, and FILE has those lines commented out
#   restore FILE KEPT LINES             FILE as it was: KEPT itself; if someone else changed it since, those lines alone
# LINES: FIRST-LAST, and more of them behind commas.
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH
verb=$1 file=$2 kept=$3 lines=$4
# Of awk: marks the lines.
marks='BEGIN { n = split(lines, range, ","); for (i = 1; i <= n; i++) { split(range[i], ends, "-")
    for (line = ends[1] + 0; line <= ends[2] + 0; line++) ours[line] = 1 } }'

sum() { sha256sum < "$1" | cut -d ' ' -f 1; }
commented() { awk -v lines="$lines" "$marks"' NR in ours { printf "#" } { print }' "$kept"; }
state() {
    if ! [ -e "$kept" ]; then
        echo absent
    elif [ "$(sum "$file")" = "$(commented | sha256sum | cut -d ' ' -f 1)" ]; then
        echo lifted
    elif [ "$(sum "$file")" = "$(sum "$kept")" ]; then
        echo begun
    else
        echo foreign
    fi
}
# Puts what is on standard input in the place of the file, with its owner, mode and label.
replace() {
    rm -f "$file.upgradectl-new"
    cp -a "$file" "$file.upgradectl-new" && cat > "$file.upgradectl-new" && sync && mv -f "$file.upgradectl-new" "$file" && sync
}

case $verb in
    state) state ;;
    lift)
        case $(state) in
            lifted) exit 0 ;;
            foreign) echo "$file was changed since its exclude was lifted" >&2; exit 78 ;;
            absent)
                [ "$(sum "$file")" = "$5" ] || { echo "$file has changed since the plan was made" >&2; exit 77; }
                cp -a "$file" "$kept.new" && sync && mv -f "$kept.new" "$kept" && sync || exit
                ;;
        esac
        # By a file: of a pipe only the end is asked whether it went well.
        commented > "$kept.lifted" && [ -s "$kept.lifted" ] && replace < "$kept.lifted"
        status=$?
        rm -f "$kept.lifted"
        exit "$status"
        ;;
    restore)
        case $(state) in
            absent) rm -f "$kept.new" "$kept.lifted" "$file.upgradectl-new" ;;
            lifted | begun) mv -f "$kept" "$file" && rm -f "$kept.lifted" "$file.upgradectl-new" && sync ;;
            foreign)
                # Every line that was commented out is looked for by what it says; all of them are there, or nothing is done.
                awk -v lines="$lines" "$marks"'
                    FNR == NR { if (FNR in ours) wanted["#" $0] += 1; next }
                    wanted[$0] > 0 { wanted[$0] -= 1; $0 = substr($0, 2) }
                    { print }
                    END { for (line in wanted) if (wanted[line] > 0) exit 1 }
                ' "$kept" "$file" > "$kept.mended" ||
                    { rm -f "$kept.mended"; echo "$file: the exclude that was commented out is not there any more; $kept has it" >&2; exit 78; }
                replace < "$kept.mended" && rm -f "$kept.mended" "$kept.lifted" "$kept" && sync
                ;;
        esac
        ;;
    *) exit 64 ;;
esac
