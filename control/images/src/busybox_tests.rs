//! Tests of the build, with programs in apt's place that serve packages made here.

use super::*;
use crate::ar::tests::write as write_ar;
use crate::build::BuildOptions;
use crate::cache::Cache;
use crate::image::Image;
use crate::newc::tests::read;
use crate::progress::{Silent, tests::Recorded};
use crate::tools::Tools;
use std::io::ErrorKind;
use std::sync::OnceLock;
use tempfile::TempDir;

const KERNEL_CONTENT: &[u8] = b"a kernel";
/// The header of a program that cannot be run: the image is made without links.
const PROGRAM: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0";

/// In apt's place: they serve the files beside the cache, which they find by the second argument, the
/// configuration's path. The last argument is the package, or what else to do.
const APT_GET: &str = r#"#!/bin/sh
host="${2%/cache/tmp-*}"
for last; do :; done
echo "$last" >> "$host/calls"
if [ "$last" = update ]; then
    [ ! -e "$host/complaint" ] || cat "$host/complaint" >&2
    exit 0
fi
echo dlstatus:1:50.0:half
cp "$host/$last" file.deb
"#;
const APT_CACHE: &str = r#"#!/bin/sh
host="${2%/cache/tmp-*}"
for last; do :; done
[ -e "$host/$last" ] || exit 100
cat "$host/$last"
"#;

fn build(options: &BuildOptions, progress: &mut dyn Progress) -> Result<Image> {
    crate::build(CLOUD.name, options, progress)
}

/// The programs above, in files.
fn scripts() -> &'static (TempDir, Tools) {
    static SCRIPTS: OnceLock<(TempDir, Tools)> = OnceLock::new();
    SCRIPTS.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            // Busy as long as a process that another test is starting holds the file as it was written.
            let started =
                || Command::new(&path).arg("-c").arg(directory.path()).stdout(Stdio::null()).status();
            while started().is_err_and(|error| error.kind() == ErrorKind::ExecutableFileBusy) {
                std::thread::yield_now();
            }
            path
        };
        let tools = Tools {
            apt_get: write("apt-get", APT_GET),
            apt_cache: write("apt-cache", APT_CACHE),
            ..Tools::default()
        };
        (directory, tools)
    })
}

/// A cache, and an apt whose archive has the two packages.
struct Host {
    directory: TempDir,
    options: BuildOptions,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let deb = |path: &str, content: &[u8]| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content).unwrap();
            write_ar(&[("debian-binary", b"2.0\n"), ("data.tar", &tar.into_inner().unwrap())])
        };
        let kernel = "linux-image-6.1.0-9-cloud-amd64";
        fs::write(at(&format!("{kernel}=6.1-1")), deb("./boot/vmlinuz-6.1.0-9-cloud-amd64", KERNEL_CONTENT))
            .unwrap();
        fs::write(at("busybox-static=1:1.3-4"), deb("./usr/bin/busybox", PROGRAM)).unwrap();
        let describe = |name: &str, version: &str, depends: &str| {
            let text = format!("Package: {name}\nVersion: {version}\nSize: 1000\nDepends: {depends}\n\n");
            fs::write(at(name), text).unwrap();
        };
        describe("linux-image-cloud-amd64", "6.1-1", &format!("{kernel} (= 6.1-1)"));
        describe(kernel, "6.1-1", "kmod, linux-base");
        describe("busybox-static", "1:1.3-4", "");
        let tools = scripts().1.clone();
        let cache = Some(Cache::at(at("cache")));
        Self { directory, options: BuildOptions { cache, tools, ..BuildOptions::default() } }
    }

    fn cache(&self) -> &Cache {
        self.options.cache.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.path("calls")).unwrap_or_default()
    }

    fn offline(&self) -> BuildOptions {
        let none = self.path("none");
        BuildOptions {
            tools: Tools { apt_get: none.clone(), apt_cache: none, ..Tools::default() },
            ..self.options.clone()
        }
    }

    /// After a failure: the lock, and nothing else.
    fn assert_nothing_left(&self) {
        let left: Vec<_> =
            fs::read_dir(self.path("cache")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
        assert_eq!(self.cache().find(CLOUD.name).unwrap(), None);
    }
}

#[test]
fn packages_become_an_image() {
    let host = Host::new();
    let mut progress = Recorded::default();
    let image = build(&host.options, &mut progress).unwrap();
    assert_eq!(
        progress.stages,
        [
            "updating package lists",
            "downloading linux-image-6.1.0-9-cloud-amd64",
            "downloading busybox-static",
            "unpacking",
            "writing initramfs"
        ]
    );
    assert_eq!((progress.open, progress.most), (false, 500));
    assert_eq!(fs::read(&image.kernel).unwrap(), KERNEL_CONTENT);
    let entries = read(&fs::read(&image.initrd).unwrap());
    assert!(entries.iter().any(|entry| entry.name == "bin/busybox" && entry.content == PROGRAM));
    let versions: Vec<&str> = image.packages.iter().map(|package| package.version.as_str()).collect();
    assert_eq!(versions, ["6.1-1", "1:1.3-4"]);
    image.verify().unwrap();
    assert_eq!(host.cache().find(CLOUD.name).unwrap(), Some(image));
}

#[test]
fn a_cached_image_needs_no_apt() {
    let host = Host::new();
    let image = build(&host.options, &mut Silent).unwrap();
    let mut progress = Recorded::default();
    assert_eq!(build(&host.offline(), &mut progress).unwrap(), image);
    assert!(progress.stages.is_empty());
    let refresh = BuildOptions { refresh: true, ..host.options.clone() };
    let before = host.calls().lines().count();
    assert_eq!(build(&refresh, &mut Silent).unwrap(), image);
    assert_eq!(host.calls().lines().count(), 2 * before);
}

#[test]
fn another_recipe_needs_no_apt_either() {
    let host = Host::new();
    let image = build(&host.options, &mut Silent).unwrap();
    let manifest = image.directory().join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace(&CLOUD.finish().unwrap(), "older")).unwrap();
    assert_eq!(host.cache().find(CLOUD.name).unwrap(), None);
    let remade = build(&host.offline(), &mut Silent).unwrap();
    assert_eq!(remade, image);
    remade.verify().unwrap();
    // Unless the base is to be made in another way, or what would be reused is damaged.
    fs::write(&manifest, text.replace(&CLOUD.base(), "older")).unwrap();
    assert!(matches!(build(&host.offline(), &mut Silent), Err(Error::NoApt { .. })));
    fs::write(&manifest, text.replace(&CLOUD.finish().unwrap(), "older")).unwrap();
    fs::write(&image.kernel, b"A kernel").unwrap();
    assert!(matches!(build(&host.offline(), &mut Silent), Err(Error::NoApt { .. })));
    assert_eq!(build(&host.options, &mut Silent).unwrap(), image);
    image.verify().unwrap();
}

#[test]
fn a_damaged_image_is_rebuilt() {
    let host = Host::new();
    let image = build(&host.options, &mut Silent).unwrap();
    fs::write(&image.initrd, "short").unwrap();
    assert_eq!(build(&host.options, &mut Silent).unwrap(), image);
    image.verify().unwrap();
}

#[test]
fn a_failed_download_leaves_nothing() {
    let host = Host::new();
    fs::remove_file(host.path("busybox-static=1:1.3-4")).unwrap();
    let error = build(&host.options, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::Program { .. }), "{error:?}");
    assert!(error.to_string().contains("busybox-static=1:1.3-4"), "it quotes the program: {error}");
    host.assert_nothing_left();
}

#[test]
fn a_damaged_package_leaves_nothing() {
    let host = Host::new();
    let path = host.path("linux-image-6.1.0-9-cloud-amd64=6.1-1");
    let package = fs::read(&path).unwrap();
    let content_at =
        package.windows(KERNEL_CONTENT.len()).position(|window| window == KERNEL_CONTENT).unwrap();
    fs::write(&path, &package[..content_at + 4]).unwrap();
    let error = build(&host.options, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::Package { .. }), "{error:?}");
    host.assert_nothing_left();
}

#[test]
fn a_program_for_another_processor_is_refused() {
    for program in
        [b"#!/bin/sh\n".as_slice(), b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0", b"\x7fELF\x02\x01"]
    {
        let host = Host::new();
        let path = host.path("program");
        fs::write(&path, program).unwrap();
        assert!(!is_program(&path, Architecture::Amd64).unwrap());
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    fs::write(&path, PROGRAM).unwrap();
    assert!(is_program(&path, Architecture::Amd64).unwrap());
    assert!(!is_program(&path, Architecture::I386).unwrap());
    fs::write(&path, b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0").unwrap();
    assert!(is_program(&path, Architecture::I386).unwrap());
}

#[test]
fn a_missing_package_is_named() {
    let host = Host::new();
    fs::remove_file(host.path("linux-image-cloud-amd64")).unwrap();
    let error = build(&host.options, &mut Silent).unwrap_err();
    assert!(matches!(&error, Error::NoPackage { package } if *package == CLOUD.meta_package()), "{error:?}");
    assert!(error.to_string().contains("popf run --kernel F --initrd F"), "{error}");
    host.assert_nothing_left();
}

#[test]
fn a_missing_list_is_told_in_apts_words() {
    let host = Host::new();
    fs::remove_file(host.path("linux-image-cloud-amd64")).unwrap();
    fs::write(host.path("complaint"), "W: Failed to fetch http://source").unwrap();
    let error = build(&host.options, &mut Silent).unwrap_err();
    assert!(matches!(error, Error::NoLists { .. }), "{error:?}");
    assert!(error.to_string().contains("\n  W: Failed to fetch http://source"), "{error}");
    host.assert_nothing_left();
}

#[test]
fn a_failed_source_does_no_harm_if_the_others_suffice() {
    let host = Host::new();
    fs::write(host.path("complaint"), "W: Failed to fetch http://source").unwrap();
    build(&host.options, &mut Silent).unwrap().verify().unwrap();
}

#[test]
fn the_meta_package_is_resolved() {
    let depends = "kmod, linux-image-amd64 | linux-image-6.12.1+deb13-cloud-amd64 (= 6.12.1-1), linux-headers-cloud-amd64";
    assert_eq!(CLOUD.kernel_package(depends), Some("linux-image-6.12.1+deb13-cloud-amd64"));
    assert_eq!(CLOUD.kernel_package("linux-image-amd64"), None);
    assert_eq!(CLOUD.kernel_package("linux-image-cloud-amd64"), None);
    assert_eq!(CLOUD.kernel_package(""), None);
    let depends = "linux-image-6.1.0-50-686-pae (= 6.1.176-1), linux-image-6.1.0-50-686 (= 6.1.176-1)";
    assert_eq!(I686_PAE.kernel_package(depends), Some("linux-image-6.1.0-50-686-pae"));
    assert_eq!(I686.kernel_package(depends), Some("linux-image-6.1.0-50-686"));
}

#[test]
fn builders_at_the_same_time_fetch_once() {
    let host = Host::new();
    let images: Vec<Image> = std::thread::scope(|scope| {
        let builders: Vec<_> =
            (0..4).map(|_| scope.spawn(|| build(&host.options, &mut Silent).unwrap())).collect();
        builders.into_iter().map(|builder| builder.join().unwrap()).collect()
    });
    assert!(images.iter().all(|image| *image == images[0]));
    assert_eq!(host.calls().lines().filter(|line| *line == "update").count(), 1, "{}", host.calls());
}
