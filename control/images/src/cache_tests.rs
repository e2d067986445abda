//! Tests of what lies in the cache: found, damaged, or leading astray.

use super::*;
use crate::manifest::{INITRD, KERNEL};
use crate::package::Package;
use crate::progress::Silent;

const NAME: &str = "busybox";

/// A cache with an image in it, of three short files.
fn filled() -> (TempDir, Cache, Image) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path().join("images"));
    let image = put(&cache, "kernel");
    (directory, cache, image)
}

fn put(cache: &Cache, kernel: &str) -> Image {
    let lock = cache.lock(&mut Silent).unwrap();
    let workshop = cache.workshop(&lock).unwrap();
    let target = workshop.path().join("image");
    fs::create_dir(&target).unwrap();
    for (name, content) in [(KERNEL, kernel), ("busybox", "busybox"), (INITRD, "initrd")] {
        fs::write(target.join(name), content).unwrap();
    }
    let packages = vec![Package { name: "p".to_owned(), version: "1".to_owned() }];
    let manifest = Manifest::describe(recipe(), packages, &target).unwrap();
    cache.commit(&lock, recipe(), &target, manifest).unwrap()
}

fn recipe() -> &'static dyn Recipe {
    known::of(NAME).unwrap()
}

fn edit_manifest(image: &Image, from: &str, to: &str) {
    let path = image.directory().join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn what_was_put_is_found() {
    let (_directory, cache, image) = filled();
    assert_eq!(cache.find(NAME).unwrap(), Some(image.clone()));
    assert_eq!(cache.list().unwrap(), std::slice::from_ref(&image));
    assert_eq!(fs::read_to_string(&image.kernel).unwrap(), "kernel");
    assert_eq!(image.packages, [Package { name: "p".to_owned(), version: "1".to_owned() }]);
    image.verify().unwrap();
}

#[test]
fn an_empty_cache_has_nothing() {
    let cache = Cache::at("/nonexistent/popf");
    assert_eq!(cache.find(NAME).unwrap(), None);
    assert!(cache.list().unwrap().is_empty());
    assert!(!cache.remove(NAME).unwrap());
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let (_directory, cache, _) = filled();
    for name in ["ubuntu", "", "..", "busybox/", "lock"] {
        for error in [cache.find(name).unwrap_err(), cache.remove(name).unwrap_err()] {
            assert!(matches!(error, Error::UnknownImage { .. }), "{error:?}");
            assert!(
                error.to_string().ends_with("known images: busybox, busybox-686-pae, busybox-686, debian"),
                "{error}"
            );
        }
    }
}

#[test]
fn a_newer_image_replaces_the_older() {
    let (_directory, cache, old) = filled();
    let new = put(&cache, "newer kernel");
    assert_ne!(old.directory(), new.directory());
    assert_eq!(cache.find(NAME).unwrap(), Some(new.clone()));
    assert!(!old.directory().exists());
    // The same again, as after damage.
    assert_eq!(put(&cache, "newer kernel"), new);
    new.verify().unwrap();
}

#[test]
fn a_removed_image_is_gone() {
    let (_directory, cache, image) = filled();
    assert!(cache.remove(NAME).unwrap());
    assert_eq!(cache.find(NAME).unwrap(), None);
    assert!(!image.directory().exists());
    assert!(!cache.remove(NAME).unwrap());
}

type Damage = fn(&Image);

#[test]
fn a_damaged_image_is_no_image() {
    let damages: [(&str, Damage); 10] = [
        ("a truncated kernel", |image| fs::write(&image.kernel, "kern").unwrap()),
        ("no initrd", |image| fs::remove_file(&image.initrd).unwrap()),
        ("a directory for a file", |image| {
            fs::remove_file(&image.initrd).unwrap();
            fs::create_dir(&image.initrd).unwrap();
        }),
        ("no manifest", |image| fs::remove_file(image.directory().join("manifest.json")).unwrap()),
        ("an empty manifest", |image| fs::write(image.directory().join("manifest.json"), "").unwrap()),
        ("a huge manifest", |image| {
            fs::write(image.directory().join("manifest.json"), " ".repeat(1 << 20)).unwrap();
        }),
        ("another format", |image| edit_manifest(image, "\"format\": 2", "\"format\": 1")),
        ("another name", |image| edit_manifest(image, "\"name\": \"busybox\"", "\"name\": \"other\"")),
        ("another file", |image| edit_manifest(image, "\"busybox\": {", "\"../busybox\": {")),
        ("an unknown field", |image| edit_manifest(image, "\"format\"", "\"x\": 1, \"format\"")),
    ];
    for (what, damage) in damages {
        let (_directory, cache, image) = filled();
        damage(&image);
        assert!(matches!(cache.load(recipe()), Err(Error::Damaged { .. })), "{what}");
        assert_eq!(cache.find(NAME).unwrap(), None, "{what}");
        assert_eq!(put(&cache, "kernel"), image, "{what}");
        image.verify().unwrap();
    }
}

#[test]
fn a_changed_byte_is_found_on_demand() {
    let (_directory, cache, image) = filled();
    fs::write(&image.kernel, "kernal").unwrap();
    let found = cache.find(NAME).unwrap().expect("the size is the same");
    let error = found.verify().unwrap_err();
    assert!(matches!(&error, Error::Damaged { reason, .. } if reason.contains(KERNEL)), "{error:?}");
}

#[test]
fn links_out_of_the_cache_are_not_followed() {
    let (directory, cache, image) = filled();
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(image.directory(), &elsewhere).unwrap();
    let link = cache.root.join(NAME);
    for target in [elsewhere.as_path(), Path::new("../elsewhere"), Path::new("."), Path::new("..")] {
        fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
        assert_eq!(cache.find(NAME).unwrap(), None, "{}", target.display());
    }
    // Something else in the link's place.
    fs::remove_file(&link).unwrap();
    fs::create_dir(&link).unwrap();
    assert_eq!(cache.find(NAME).unwrap(), None);
}

#[test]
fn leftovers_are_swept_and_other_files_are_not() {
    let (_directory, cache, _) = filled();
    fs::create_dir_all(cache.root.join("tmp-dead/image")).unwrap();
    fs::write(cache.root.join("tmp-file"), "").unwrap();
    fs::write(cache.root.join("notes"), "").unwrap();
    // Of images with longer names.
    fs::write(cache.root.join("busybox-686"), "").unwrap();
    fs::create_dir(cache.root.join("busybox-686-0123456789abcdef")).unwrap();
    let image = put(&cache, "next");
    let mut names: Vec<_> =
        fs::read_dir(&cache.root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let current = image.directory().file_name().unwrap().to_owned();
    let others = ["busybox-686", "busybox-686-0123456789abcdef", "lock", "notes"].map(OsString::from);
    let mut kept = Vec::from([OsString::from(NAME), current]);
    kept.extend(others);
    kept.sort();
    assert_eq!(names, kept);
}

#[test]
fn the_users_directory_follows_the_specification() {
    let of = |cache: Option<&str>, home: Option<&str>| {
        from_environment(cache.map(Into::into), home.map(Into::into))
    };
    assert_eq!(of(Some("/c"), Some("/h")).unwrap(), Path::new("/c/popf/images"));
    assert_eq!(of(None, Some("/h")).unwrap(), Path::new("/h/.cache/popf/images"));
    assert_eq!(of(Some("relative"), Some("/h")).unwrap(), Path::new("/h/.cache/popf/images"));
    assert_eq!(of(Some(""), Some("/h")).unwrap(), Path::new("/h/.cache/popf/images"));
    for nowhere in [of(None, None), of(Some("x"), Some("y"))] {
        assert!(matches!(nowhere, Err(Error::NoCacheDirectory)));
    }
}
