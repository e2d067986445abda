//! Builds the busybox image from the packages that the host's apt really fetches.

use images::{BuildOptions, Cache, Display, Overlay, Tools, overlay};
use std::ffi::OsString;
use std::fs;
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
    let nowhere = directory.path().join("none");
    let offline = BuildOptions { tools: Tools { apt_get: nowhere.clone(), apt_cache: nowhere }, ..options };
    assert_eq!(images::build("busybox", &offline, &mut Display::new()).unwrap(), image);
    assert_eq!(cache.find("busybox").unwrap(), Some(image));
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
