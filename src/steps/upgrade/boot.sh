# Which kernel the boot loader boots, by grubby(8) and grub2-reboot(8).
#   default            prints the kernel that is booted
#   set KERNEL         boots it from now on
#   once KERNEL        boots it the next time only, where the loader can; else from now on
#   never              forgets what was to be booted once
#   keep KERNEL PROGRAM…  runs a program that may install kernels, and boots KERNEL from then on, whatever became of the program: the
#                      package of a kernel makes that the default by itself. Status: the program's
#   owned              prints the releases of kernels in /boot that belong to a package
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin LC_ALL=C
export PATH LC_ALL
case $1 in
    default) grubby --default-kernel ;;
    set) grubby --set-default "$2" && sync ;;
    once)
        if command -v grub2-reboot > /dev/null 2>&1; then
            info=$(grubby --info="$2") || exit
            entry=$(echo "$info" | sed -n 's/^id="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' | head -n 1)
            [ "$entry" ] || entry=$(echo "$info" | sed -n 's/^index=//p' | head -n 1)
            [ "$entry" ] || { echo "grubby knows no entry of $2" >&2; exit 1; }
            grub2-reboot "$entry" && sync
        else
            grubby --set-default "$2" && sync
        fi
        ;;
    never) ! command -v grub2-editenv > /dev/null 2>&1 || { grub2-editenv - unset next_entry && sync; } ;;
    keep)
        kernel=$2
        shift 2
        "$@"
        status=$?
        grubby --set-default "$kernel" && sync || { [ "$status" -ne 0 ] || status=1; }
        exit "$status"
        ;;
    owned)
        for file in /boot/vmlinuz-*; do
            case $file in *rescue* | *'*') continue ;; esac
            rpm -qf "$file" > /dev/null 2>&1 && echo "${file#/boot/vmlinuz-}"
        done
        exit 0
        ;;
    *) exit 64 ;;
esac
