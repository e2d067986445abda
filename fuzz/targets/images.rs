//! Disk images nobody vouches for: bytes patched into a sound image of some kind, or bytes alone.
//!
//! Opening one either fails or yields a disk; reading and writing that may fail, but neither panics, and neither takes
//! longer or more memory than the file's size warrants.
#![no_main]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use backends::disk::{Access, Format, OpenOptions, create, create_overlay, open};
use libfuzzer_sys::fuzz_target;

/// A folder that lives as long as the fuzzer, and sound images in it.
struct Workshop {
    folder: PathBuf,
    images: Vec<Vec<u8>>,
}

fn workshop() -> &'static Workshop {
    static WORKSHOP: OnceLock<Workshop> = OnceLock::new();
    WORKSHOP.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("popf-fuzz-images-{}", std::process::id()));
        // Left by a process that had the same number.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder for images");
        let [plain, base, overlay] = ["plain", "base", "overlay"].map(|name| folder.join(name));
        create(&plain, 4 << 20).expect("a new image");
        fs::write(&base, [0x5a; 70_000]).expect("a new file");
        create_overlay(&overlay, &base, Format::Raw).expect("a new image");
        for path in [&plain, &overlay] {
            let disk =
                open(path, &OpenOptions { format: None, access: Access::ReadWrite }).expect("our own image");
            disk.write(4096, &[1; 512]).expect("a write");
            disk.write(66_048, &[2; 3072]).expect("a write");
        }
        let images = [&plain, &overlay].map(|path| fs::read(path).expect("our own image"));
        Workshop { folder, images: images.into_iter().chain([sparse_vmdk()]).collect() }
    })
}

/// A sparse VMDK extent: header, directory, a table, a grain.
fn sparse_vmdk() -> Vec<u8> {
    let mut image = vec![0; 16 << 10];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"KDMV");
    put(4, &1_u32.to_le_bytes());
    put(8, &3_u32.to_le_bytes());
    // Capacity and grain in sectors, entries of a table, where the directory is.
    put(12, &128_u64.to_le_bytes());
    put(20, &8_u64.to_le_bytes());
    put(44, &16_u32.to_le_bytes());
    put(56, &1_u64.to_le_bytes());
    put(512, &2_u32.to_le_bytes());
    put(1024, &8_u32.to_le_bytes());
    put(4096, &[7; 4096]);
    image
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    let Workshop { folder, images } = workshop();
    let image = match images.get(usize::from(choice >> 5)) {
        Some(sound) => patched(sound, rest),
        None => rest.to_vec(),
    };
    let path = folder.join("image");
    File::create(&path).and_then(|mut file| file.write_all(&image)).expect("a new file");
    let format = [None, Some(Format::Raw), Some(Format::Qcow2), Some(Format::Vmdk)][usize::from(choice & 3)];
    let access = [Access::ReadWrite, Access::ReadOnly, Access::Snapshot][usize::from(choice >> 2 & 7) % 3];
    use_disk(&path, format, access);
    if access == Access::ReadWrite {
        // What was written is read, or refused, again.
        use_disk(&path, format, Access::ReadOnly);
    }
});

/// Places of two bytes, lengths of one, and what to put there.
fn patched(sound: &[u8], mut patches: &[u8]) -> Vec<u8> {
    let mut image = sound.to_vec();
    while let [low, high, length, rest @ ..] = patches {
        let (bytes, more) = rest.split_at(usize::from(length % 16).min(rest.len()));
        // Tables lie at the start of clusters of 64 KiB.
        let at = usize::from(*low) + usize::from(high % 32) * if high & 0x80 != 0 { 256 } else { 64 << 10 };
        if length & 0xf0 == 0xf0 {
            image.truncate(at);
        } else if let Some(place) = image.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        patches = more;
    }
    image
}

fn use_disk(path: &Path, format: Option<Format>, access: Access) {
    let Ok(disk) = open(path, &OpenOptions { format, access }) else { return };
    let size = disk.size();
    let mut buffer = vec![0; 70_000];
    for offset in [0, 4096, 65_536 - 512, size.saturating_sub(1024), size / 2, size] {
        for len in [0, 512, 8192, buffer.len()] {
            let _ = disk.read(offset, &mut buffer[..len]);
            let _ = disk.write(offset, &buffer[..len]);
        }
    }
    let _ = disk.write_zeroes(4096, 65_536, true);
    let _ = disk.write_zeroes(0, 65_536, false);
    let _ = disk.discard(65_536, 131_072);
    let _ = disk.write(131_072, &buffer[..512]);
    let _ = disk.flush();
}
