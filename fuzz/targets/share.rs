//! The server of shared folders: requests of a guest that means harm, against a temporary folder.
//!
//! Each request is an opcode, a choice among the numbers that answers have brought, and a body; numbers and names in
//! a body are the fuzzer's own, or chosen in the same way. Allocating and copying are left out, for they would fill
//! the disk without telling anything.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use backends::share::{MAX_REPLY, Share, ShareConfig};
use libfuzzer_sys::fuzz_target;

const CREATE: u32 = 35;
/// Requests whose answers begin with a number of a file, and those that begin with one of a handle.
const TELLING: [u32; 7] = [1, 6, 8, 9, 13, CREATE, 44];
const OPENING: [u32; 2] = [14, 27];
const FILLING: [u32; 2] = [43, 47];

fuzz_target!(|data: &[u8]| {
    let folder = Folder::new();
    let mut guest = Guest { data, numbers: vec![1], handles: vec![0] };
    let readonly = guest.byte().unwrap_or(0) & 1 != 0;
    let config = ShareConfig { path: folder.0.join("inside"), readonly };
    let share = Share::open(&config).expect("a folder of ours");
    let worker = share.worker().expect("a thread of ours");
    let mut reply = Vec::new();
    for unique in 0..64 {
        let Some(opcode) = guest.byte().map(|byte| u32::from(byte) % 56) else { break };
        if FILLING.contains(&opcode) {
            continue;
        }
        let room = [0, 16, 152, 4096, 2 << 20][usize::from(guest.byte().unwrap_or(3)) % 5];
        let request = guest.request(opcode, unique);
        worker.handle(&request, room, &mut reply);
        assert!(reply.len() <= room.min(MAX_REPLY));
        if let Some(body) = reply.get(16..) {
            assert_eq!(u32::from_le_bytes(reply[..4].try_into().expect("four")) as usize, reply.len());
            guest.learn(opcode, body);
        }
    }
    assert_eq!(fs::read(folder.0.join("secret")).expect("it is not the guest's"), b"secret");
    assert_eq!(fs::read_dir(&folder.0).expect("it is there").count(), 2);
    if readonly {
        assert_eq!(fs::read(folder.0.join("inside/file")).expect("it cannot be removed"), b"text");
    }
});

struct Guest<'a> {
    data: &'a [u8],
    numbers: Vec<u64>,
    handles: Vec<u64>,
}

impl Guest<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.data.split_first()?;
        self.data = rest;
        Some(*first)
    }

    fn choose(&mut self, from: fn(&Self) -> &Vec<u64>) -> u64 {
        let choice = usize::from(self.byte().unwrap_or(0));
        let all = from(self);
        all[choice % all.len()]
    }

    fn request(&mut self, opcode: u32, unique: u64) -> Vec<u8> {
        let mut request = vec![0; 4];
        request.extend(opcode.to_le_bytes());
        request.extend(unique.to_le_bytes());
        request.extend(self.choose(|guest| &guest.numbers).to_le_bytes());
        request.extend([0; 16]);
        // Pieces of the body, ended by one that is none.
        while let Some(piece) = self.byte() {
            match piece % 8 {
                0 => request.extend(self.choose(|guest| &guest.numbers).to_le_bytes()),
                1 => request.extend(self.choose(|guest| &guest.handles).to_le_bytes()),
                2 => request.extend(u32::from(self.byte().unwrap_or(0)).to_le_bytes()),
                3 => request.extend(u64::from(self.byte().unwrap_or(0)).to_le_bytes()),
                4 => request.extend([0; 16]),
                5 => {
                    let names: [&[u8]; 8] = [
                        b"file\0",
                        b"new\0",
                        b"folder\0",
                        b"up\0",
                        b"..\0",
                        b"../secret\0",
                        b"user.x\0",
                        b"x",
                    ];
                    request.extend(names[usize::from(self.byte().unwrap_or(0)) % 8]);
                }
                6 => request.extend([self.byte().unwrap_or(0xff); 4]),
                _ => break,
            }
        }
        let length = request.len() as u32;
        request[..4].copy_from_slice(&length.to_le_bytes());
        request
    }

    fn learn(&mut self, opcode: u32, body: &[u8]) {
        let number = |at: usize| body.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        if TELLING.contains(&opcode) {
            self.numbers.extend(number(0));
        }
        if OPENING.contains(&opcode) {
            self.handles.extend(number(0));
        }
        if opcode == CREATE {
            self.handles.extend(number(128));
        }
    }
}

/// A folder to be shared beside a file that is not.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("popf-fuzz-{}-{count}", std::process::id()));
        let inside = path.join("inside");
        fs::create_dir_all(inside.join("folder")).expect("a temporary folder");
        fs::write(path.join("secret"), "secret").expect("a file in it");
        fs::write(inside.join("file"), "text").expect("a file in it");
        std::os::unix::fs::symlink("..", inside.join("up")).expect("a link in it");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What the guest has left without permissions stays; nobody looks at it again.
        let _ = fs::remove_dir_all(&self.0);
    }
}
