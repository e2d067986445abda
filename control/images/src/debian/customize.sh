# Run by mmdebstrap beside the finished root file system, whose path is $1.

set -eu

# The first boot gives each guest an identity of its own; popf gives it its name.
: > "$1/etc/machine-id"
rm -f "$1/etc/hostname"

# How the image was made is not how the guest is to go on: manual pages may come, the host's proxies need not suit.
rm -f "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$1/etc/apt/apt.conf.d/99mmdebstrap"
rm -f "$1/etc/.resolv.conf.systemd-resolved.bak"

echo 'LANG=C.UTF-8' > "$1/etc/default/locale"
echo '# The root file system is given by the kernel command line: root=/dev/vda rw' > "$1/etc/fstab"
printf '127.0.1.1\tdebian\n' >> "$1/etc/hosts"

chroot "$1" systemctl --quiet enable systemd-networkd.service
# Whoever does not wait for the network boots sooner, and a guest without one boots at all.
chroot "$1" systemctl --quiet disable systemd-networkd-wait-online.service
# Work at boot and behind the user's back: looking for updates, and for snapshots of LVM, which is not here.
chroot "$1" systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service
