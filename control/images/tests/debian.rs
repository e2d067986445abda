//! Builds the images from the packages that the host's apt really fetches.

use images::{BuildOptions, Cache, Display, Overlay, Tools, overlay};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn the_busybox_image_is_built_from_debian_packages() {
    let apt = Command::new("apt-get").arg("--version").stdout(Stdio::null()).status();
    if apt.is_err() {
        eprintln!("skipped: this host has no apt-get");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path().join("a cache"));
    let options = BuildOptions { cache: Some(cache.clone()), ..BuildOptions::default() };
    let image =
        images::build("busybox", &options, &mut Display::new()).unwrap_or_else(|error| panic!("{error}"));
    image.verify().unwrap();

    // Linux's boot protocol: the boot sector's signature, then the header's.
    let kernel = fs::read(&image.kernel).unwrap();
    assert_eq!((&kernel[0x1fe..0x200], &kernel[0x202..0x206]), (b"\x55\xaa".as_slice(), b"HdrS".as_slice()));
    assert!(image.packages[0].name.starts_with("linux-image-"));
    assert_eq!(image.packages[1].name, "busybox-static");

    // The applets have links, and the archive ends where a further one may begin.
    let initrd = fs::read(&image.initrd).unwrap();
    assert!(initrd.starts_with(b"070701"));
    assert_eq!(initrd.len() % 4, 0);
    for name in
        [&b"bin/sh\0"[..], b"bin/uname\0", b"usr/bin/[\0", b"bin/vi\0", b"usr/bin/top\0", b"sbin/poweroff\0"]
    {
        let name_only = &name[..name.len() - 1];
        assert!(contains(&initrd, name), "no link {}", String::from_utf8_lossy(name_only));
    }
    let archive = overlay(&[OsString::from("uname")], &Overlay::default()).unwrap();
    let whole = image.initrd_with(&archive).unwrap();
    assert_eq!(whole, [initrd, archive].concat());

    // From now on nothing is fetched.
    let offline = BuildOptions { tools: nowhere(directory.path()), ..options };
    assert_eq!(images::build("busybox", &offline, &mut Display::new()).unwrap(), image);
    assert_eq!(cache.find("busybox").unwrap(), Some(image));
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn the_debian_image_is_built() {
    for program in ["apt-get", "mmdebstrap", "mke2fs", "fakeroot"] {
        if Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_err()
        {
            eprintln!("skipped: this host has no {program}");
            return;
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path().join("a cache"));
    let options = BuildOptions { cache: Some(cache.clone()), ..BuildOptions::default() };
    let image =
        images::build("debian", &options, &mut Display::new()).unwrap_or_else(|error| panic!("{error}"));
    image.verify().unwrap();
    let has = |name: &str| image.packages.iter().any(|package| package.name == name);
    assert!(image.packages[0].name.starts_with("linux-image-"));
    assert!(["systemd", "udev", "apt", "curl"].into_iter().all(has), "{:?}", image.packages);

    // A file system without a flaw, which is large and takes little.
    let disk = image.disk.as_ref().unwrap();
    let checked = Command::new("e2fsck").arg("-fn").arg(disk).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let metadata = fs::metadata(disk).unwrap();
    assert_eq!(metadata.len(), 8 << 30);
    assert!(metadata.blocks() * 512 < 1 << 30, "{} MiB", metadata.blocks() >> 11);
    // No guest has another's identity, and root owns the system whoever has built it.
    assert!(debugfs(disk, "stat /etc/machine-id").contains("Size: 0"));
    let owner = debugfs(disk, "stat /usr/bin/passwd");
    assert!(owner.contains("User:     0") && owner.contains("Mode:  04755"), "{owner}");

    // From now on nothing is fetched, not even for another initramfs.
    let offline = BuildOptions { tools: nowhere(directory.path()), ..options };
    assert_eq!(images::build("debian", &offline, &mut Display::new()).unwrap(), image);
    let manifest = image.directory().join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"recipe\": \"", "\"recipe\": \"0")).unwrap();
    assert_eq!(cache.find("debian").unwrap(), None);
    let remade = images::build("debian", &offline, &mut Display::new()).unwrap();
    assert_eq!(remade, image);
    remade.verify().unwrap();
}

fn debugfs(disk: &Path, request: &str) -> String {
    let output = Command::new("debugfs").args(["-R", request]).arg(disk).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn nowhere(directory: &Path) -> Tools {
    let none = directory.join("none");
    Tools { apt_get: none.clone(), apt_cache: none.clone(), mmdebstrap: none, ..Tools::default() }
}
