# Tells of a guest of the Red Hat family what an update of its kernel rests on: lines of KEY, a tab, VALUE.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin LC_ALL=C
export PATH LC_ALL
say() { printf '%s\t%s\n' "$1" "$2"; }
there() { command -v "$1" > /dev/null 2>&1; }

say kernel "$(uname -r)"
# The package that the running kernel is of: it is there to fall back to. rpm tells it of a file that is gone as well.
file=/boot/vmlinuz-$(uname -r)
[ -e "$file" ] && owner=$(rpm -qf --qf '%{NAME}\n' "$file" 2> /dev/null) && say owner "$(echo "$owner" | head -n 1)"
say user "$(id -u)"
# What tells one machine of VMware's from another. Linux before 2.6.24 leaves it to dmidecode(8).
dmi() { cat "/sys/class/dmi/id/$1" 2> /dev/null || dmidecode -s "$2" 2> /dev/null | grep -v '^#'; }
case $(dmi sys_vendor system-manufacturer) in VMware*) say uuid "$(dmi product_uuid system-uuid)" ;; esac
for file in /etc/redhat-release /etc/system-release; do
    [ -r "$file" ] && say release "$(head -n 1 "$file")" && break
done

five=
for tool in dnf yum; do
    there "$tool" || continue
    say tool "$tool"
    case $(readlink -f "$(command -v "$tool")") in
        */dnf5)
            five=yes
            say past '--setopt=disable_excludes=*'
            [ -f /etc/dnf/versionlock.toml ] && say locks5 /etc/dnf/versionlock.toml
            ;;
        *) case $("$tool" --help 2>&1) in *--disableexcludes*) say past --disableexcludes=all ;; esac ;;
    esac
    break
done
case $tool in
    dnf) set -- /etc/dnf/dnf.conf /etc/dnf/libdnf5.conf.d/*.conf ;;
    *) set -- /etc/yum.conf ;;
esac
for file in "$@" /etc/yum.repos.d/*.repo /etc/yum/repos.d/*.repo /etc/distro.repos.d/*.repo; do
    [ -f "$file" ] && say config "$(readlink -f "$file")"
done
for file in /etc/yum/pluginconf.d/versionlock.list /etc/dnf/plugins/versionlock.list; do
    [ -f "$file" ] && [ -z "$five" ] && say locks "$file"
done

there grubby && say boots grubby
if there grub2-reboot; then
    say boots grub2
elif [ -e /boot/grub/grub.conf ] || [ -e /boot/grub/menu.lst ]; then
    say boots legacy
fi
if [ -d /run/systemd/system ]; then
    say init systemd
elif [ -d /etc/rc.d/rc3.d ] && [ -d /etc/rc.d/init.d ]; then
    say init sysv
elif [ -f /etc/rc.d/rc.local ]; then
    say init rc.local
fi

if rpm -q open-vm-tools > /dev/null 2>&1; then
    say tools open
elif [ -n "$(rpm -qa 'vmware-tools-*' 'vmware-open-vm-tools*' 2> /dev/null)" ]; then
    say tools packages
elif [ -e /etc/vmware-tools/locations ] || there vmware-tools-upgrader || there vmware-config-tools.pl; then
    say tools tar
fi
for program in vmware-tools-upgrader vmware-config-tools.pl; do
    there "$program" && say again "$(command -v "$program")"
done
for name in vmtoolsd vmware-guestd; do
    pgrep -x "$name" > /dev/null 2>&1 && say running "$name"
done

lsmod 2> /dev/null | awk 'NR > 1 { print "loaded\t" $1 }'

# The modules between the root file system and its disk: along sysfs from the block device up, through device mapper's slaves.
behind() (
    node=$(readlink -f "$1")
    for slave in "$node"/slaves/*; do
        [ -e "$slave" ] && behind "$slave"
    done
    while [ "${#node}" -gt 4 ]; do
        [ -e "$node/driver/module" ] && say driver "$(basename "$(readlink -f "$node/driver/module")")"
        node=${node%/*}
    done
)
device=$(stat -c %d / 2> /dev/null || echo 0)
behind "/sys/dev/block/$((device / 256)):$((device % 256))"
# What mkinitrd(8) was told of it, before dracut.
sed -n 's/^alias[[:blank:]][[:blank:]]*scsi_hostadapter[0-9]*[[:blank:]][[:blank:]]*/driver\t/p' /etc/modprobe.conf 2> /dev/null

df -Pk /boot 2> /dev/null | awk 'NR == 2 { print "free\t" $4 }'
du -k /boot/vmlinuz-* /boot/initramfs-*.img /boot/initrd-*.img 2> /dev/null |
    awk '{ kind = $2 ~ /vmlinuz/; if ($1 > most[kind]) most[kind] = $1 } END { print "needs\t" most[0] + most[1] }'
exit 0
