#!/bin/busybox sh
# The bench's first process, in a guest and in a chroot alike: does the lines of /bench/list, one after the other,
# and says when each begins and ends, with its status and a checksum of what it wrote. A line is a name, a tab, and
# what the shell is to do, of whose programs none may fail. bench.only= on the kernel's command line, or the environment's
# BENCH_ONLY, names some of them.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
busybox mount -t proc proc /proc 2>/dev/null
busybox mount -t tmpfs tmpfs /tmp
[ -e /dev/null ] || busybox mount -t devtmpfs dev /dev
read -r cmdline </proc/cmdline
guest=
for word in $cmdline; do
    case $word in
    init=/bench/run.sh) guest=yes ;;
    bench.only=*) BENCH_ONLY=${word#*=} ;;
    esac
done
cd /bench || exit
set -o pipefail
# Nothing that is measured waits for a disk.
while read -r path; do
    cat $path
done <reads >/dev/null
echo bench-ready
while IFS="$(printf '\t')" read -r name line; do
    case ,$BENCH_ONLY, in
    ,, | *,$name,*) ;;
    *) continue ;;
    esac
    echo "bench-begin $name"
    sum=$(sh -o pipefail -c "$line" </dev/null 2>&1 | busybox md5sum) && status=well || status=failed
    echo "bench-end $name ${sum%% *} $status"
done <list
echo bench-done
[ -z "$guest" ] || busybox poweroff -f
