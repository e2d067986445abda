//! The guest that is measured: the busybox image with the kernel's virtio modules and the host's iperf3 laid over it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::bench::boot;
use crate::metadata;

/// In the order in which they can be loaded.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
];

/// What the guest does, as its kernel's command line says: `net.KEY=VALUE`, blanks written as `%`.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /bin
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2>/dev/null
exec >/dev/ttyS0 2>&1 </dev/ttyS0
for word in $(cat /proc/cmdline); do
    case $word in net.*=*) word=${word#net.}; eval "$(echo "$word" | sed 's/%/ /g; s/=/="/; s/$/"/')";; esac
done
for module in $(cat /net/modules); do insmod /net/$module; done
until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
ip link set lo up; ip link set eth0 up; ip addr add $address dev eth0
iperf() { /net/ld.so --library-path /net/lib /net/iperf3 "$@"; }
if [ -z "$peer" ]; then
    echo "net: serving"
    while :; do iperf -s -1; done
fi
until ping -c 1 -W 1 $peer >/dev/null; do :; done
sleep 1
echo "net: sending"; iperf -c $peer -f m -t $seconds -i 0
sleep 1
echo "net: receiving"; iperf -c $peer -f m -t $seconds -i 0 -R
echo "net: done"
poweroff -f
"#;

/// What both monitors boot.
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

#[derive(Deserialize)]
struct Manifest {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

impl Guest {
    /// Makes it below the build directory.
    pub fn make(popf: &Path) -> Result<Self, String> {
        let image = boot::find_image(popf, "busybox")?;
        let folder = metadata::read()?.target_directory.join("bench-net");
        let modules = fetch_modules(&image.kernel, &folder)?;
        let mut archive = read(&image.initrd)?;
        let mut entries = Archive(Vec::new());
        entries.folder("net");
        entries.folder("net/lib");
        entries.file("init", INIT.as_bytes());
        let mut names = String::new();
        for module in MODULES {
            let name = module.rsplit('/').next().unwrap_or(module);
            entries.file(&format!("net/{name}"), &read(&modules.join(module))?);
            names.push_str(name);
            names.push('\n');
        }
        entries.file("net/modules", names.as_bytes());
        let (iperf, libraries) = iperf()?;
        entries.file("net/iperf3", &read(&iperf)?);
        for library in libraries {
            let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let place = if name.starts_with("ld-") { "net/ld.so".into() } else { format!("net/lib/{name}") };
            entries.file(&place, &read(&library)?);
        }
        archive.extend(entries.finish());
        let initrd = folder.join("initrd");
        fs::write(&initrd, archive).map_err(|error| format!("cannot write {}: {error}", initrd.display()))?;
        Ok(Self { kernel: image.kernel, initrd })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// The modules of the image's kernel, from its Debian package.
fn fetch_modules(kernel: &Path, folder: &Path) -> Result<PathBuf, String> {
    let manifest = read(&kernel.with_file_name("manifest.json"))?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| error.to_string())?;
    let package = manifest.packages.into_iter().find_map(|package| {
        package.name.strip_prefix("linux-image-").map(|version| (package.name.clone(), version.to_owned()))
    });
    let (package, version) = package.ok_or("the image has no kernel package")?;
    let unpacked = folder.join(&package);
    let modules = unpacked.join("lib/modules").join(version).join("kernel");
    if !modules.is_dir() {
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let script =
            format!("apt-get download {package} && dpkg-deb -x {package}_*.deb {}", unpacked.display());
        let status = Command::new("sh").args(["-c", &script]).current_dir(folder).status();
        if !status.is_ok_and(|status| status.success()) {
            return Err(format!("cannot fetch the modules of {package}; has `apt-get update` been run?"));
        }
    }
    Ok(modules)
}

/// The host's iperf3 and the libraries it needs.
fn iperf() -> Result<(PathBuf, Vec<PathBuf>), String> {
    let path = PathBuf::from("/usr/bin/iperf3");
    let output =
        Command::new("ldd").arg(&path).output().map_err(|error| format!("cannot run ldd: {error}"))?;
    if !output.status.success() {
        return Err("there is no iperf3: install it with `sudo apt-get install iperf3`".into());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let libraries =
        text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok((path, libraries.map(PathBuf::from).collect()))
}

/// A cpio archive in the form that initramfs has ("newc").
struct Archive(Vec<u8>);

impl Archive {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o40755, &[]);
    }

    fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, 0o100_755, data);
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        let fields = [0, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.0.extend(b"070701");
        for field in fields {
            self.0.extend(format!("{field:08x}").bytes());
        }
        self.0.extend(name.bytes().chain([0]));
        self.pad();
        self.0.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.0
    }
}
