//! Tests of the package reader, on packages made here in every compression.

use super::*;
use crate::ar::tests::write as write_ar;
use flate2::{Compression, write::GzEncoder};

const KERNEL: &[u8] = &[0x5a; 100_000];

fn payload() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // The builder would drop the leading `./` that packages have.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, content).unwrap();
    };
    add("./", tar::EntryType::Directory, b"");
    add("./boot/", tar::EntryType::Directory, b"");
    add("./boot/config-1", tar::EntryType::Regular, b"CONFIG_X=y\n");
    add("./boot/vmlinuz-link", tar::EntryType::Symlink, b"");
    add("./boot/vmlinuz-1", tar::EntryType::Regular, KERNEL);
    add("./lib/other", tar::EntryType::Regular, &[1; 3000]);
    tar.into_inner().unwrap()
}

fn package(name: &str, payload: &[u8]) -> Vec<u8> {
    write_ar(&[("debian-binary", b"2.0\n"), ("control.tar.xz", b"ignored"), (name, payload)])
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn take(package: &[u8], limit: u64) -> Result<Vec<u8>, PackageError> {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("vmlinuz");
    let is = |path: &str| path.starts_with("boot/vmlinuz-");
    extract_from(package, &[Wanted { what: "kernel", is, limit, to: &to }])?;
    Ok(std::fs::read(to).unwrap())
}

#[test]
fn every_compression_is_unpacked() {
    let payload = payload();
    for (name, compressed) in [
        ("data.tar", payload.clone()),
        ("data.tar.gz", gzipped(&payload)),
        ("data.tar.xz", xz(&payload)),
        ("data.tar.zst", zstandard(&payload)),
    ] {
        assert_eq!(take(&package(name, &compressed), 1 << 20).unwrap(), KERNEL, "{name}");
    }
}

#[test]
fn truncated_packages_are_errors() {
    let payload = payload();
    for (name, compressed) in [
        ("data.tar", payload.clone()),
        ("data.tar.gz", gzipped(&payload)),
        ("data.tar.xz", xz(&payload)),
        ("data.tar.zst", zstandard(&payload)),
    ] {
        let whole = package(name, &compressed);
        let payload_at = whole.len() - compressed.len() - compressed.len() % 2;
        // Up to the middle of the payload, which is before the wanted file's end.
        for length in (0..payload_at).step_by(7).chain([payload_at, payload_at + compressed.len() / 2]) {
            let error = take(&whole[..length], 1 << 20).expect_err(name);
            assert!(
                matches!(error, PackageError::Read(_) | PackageError::Format(_) | PackageError::Missing(_)),
                "{error:?}"
            );
        }
        // The ar header says all, but the compressed stream ends early.
        let short = package(name, &compressed[..compressed.len() / 2]);
        assert!(
            matches!(take(&short, 1 << 20), Err(PackageError::Read(_) | PackageError::Missing(_))),
            "{name}"
        );
    }
}

#[test]
fn a_damaged_payload_is_an_error() {
    for (name, mut compressed) in [("data.tar.xz", xz(&payload())), ("data.tar.zst", zstandard(&payload()))] {
        compressed[0] ^= 0xff;
        assert!(matches!(take(&package(name, &compressed), 1 << 20), Err(PackageError::Read(_))), "{name}");
    }
}

#[test]
fn what_is_too_large_is_not_unpacked() {
    let error = take(&package("data.tar", &payload()), KERNEL.len() as u64 - 1).unwrap_err();
    assert!(matches!(error, PackageError::TooLarge { size: 100_000, limit: 99_999, .. }), "{error:?}");
}

#[test]
fn a_missing_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("busybox");
    let wanted = Wanted { what: "busybox program", is: |path| path == "bin/busybox", limit: 1, to: &to };
    let error = extract_from(package("data.tar", &payload()).as_slice(), &[wanted]).unwrap_err();
    assert_eq!(error.to_string(), "it contains no busybox program");
    assert!(!to.exists());
}

#[test]
fn other_formats_are_refused() {
    let refused = |bytes: &[u8]| take(bytes, 1 << 20).unwrap_err();
    assert!(matches!(refused(b"0.939000\nold"), PackageError::Read(_)));
    assert!(matches!(refused(&write_ar(&[("first", b"2.0\n")])), PackageError::Format(_)));
    assert!(matches!(refused(&write_ar(&[("debian-binary", b"3.0\n")])), PackageError::Format(_)));
    assert!(matches!(refused(&write_ar(&[("debian-binary", b"2.0\n")])), PackageError::Format(_)));
    assert!(matches!(refused(&package("data.tar.bz2", b"BZh9")), PackageError::Compression(_)));
}

#[test]
fn changed_bytes_do_no_harm() {
    let payload = payload();
    for (name, compressed) in [
        ("data.tar", payload.clone()),
        ("data.tar.gz", gzipped(&payload)),
        ("data.tar.xz", xz(&payload)),
        ("data.tar.zst", zstandard(&payload)),
    ] {
        let good = package(name, &compressed);
        for at in (0..good.len().min(2500)).step_by(3) {
            for change in [0x80, 0xff, 0x01] {
                let mut bad = good.clone();
                bad[at] ^= change;
                // Whether it is noticed depends on the byte; what comes out is never more than asked for.
                if let Ok(kernel) = take(&bad, KERNEL.len() as u64) {
                    assert!(kernel.len() <= KERNEL.len(), "{name}, byte {at}");
                }
            }
        }
    }
}
