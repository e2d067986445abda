//! The root file system that all three share: Debian's packages, our programs and what they work on, as a folder for
//! the host and as a disk for the guests. Made once for each list of packages and programs, kept under `target`.

use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::list::{PACKAGES, READS, WORKLOADS};
use crate::bench::boot::output;
use crate::{guest, metadata};

const SUITE: &str = "bookworm";
const PROGRAM: &str = "xtask/guest/work/main.rs";
/// Files of the source that go along as they are.
const FILES: &[(&str, &str)] = &[
    ("run.sh", include_str!("../../../guest/work/run.sh")),
    ("compile.c", SOURCE),
    ("loop.py", include_str!("../../../guest/work/loop.py")),
    ("table.sql", include_str!("../../../guest/work/table.sql")),
];
/// A program to compile, and what it defines.
const SOURCE: &str = include_str!("../../../guest/work/compile.c");
const NAMES: &str = "node nil skew split insert collect size by_count checksum entropy STATISTIC longest once letters vowels deepest \
    mixed main";
/// How often it is in a longer one.
const COPIES: usize = 6;
/// Bytes of text to compress and sort.
const TEXT_BYTES: usize = 8_000_000;

/// Where it is.
pub struct Root {
    pub folder: PathBuf,
    /// An ext4 file system with the same content.
    pub disk: PathBuf,
}

/// Makes what is missing.
pub fn make() -> Result<Root, String> {
    let home = metadata::read()?.target_directory.join("bench");
    let (folder, disk) = (home.join("root"), home.join("root.raw"));
    fs::create_dir_all(&home).map_err(cannot("make", &home))?;
    debian(&home, &folder)?;
    bench(&folder.join("bench"))?;
    // Ours is small beside Debian's, and changes with every edit: the disk is made each time.
    eprintln!("making the disk of {}", folder.display());
    guest::make_disk(&folder, &disk, "1G")?;
    Ok(Root { folder, disk })
}

/// Debian's part. The list of packages stands beside it once it is whole.
fn debian(home: &Path, folder: &Path) -> Result<(), String> {
    let made_of = home.join("packages");
    if fs::read_to_string(&made_of).is_ok_and(|made_of| made_of == PACKAGES) {
        return Ok(());
    }
    for path in [&made_of, &folder.to_path_buf()] {
        let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match gone {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(cannot("remove", path)(error));
            }
            _ => {}
        }
    }
    eprintln!("making a Debian with what is measured (a minute)");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=essential", &format!("--include={PACKAGES}")]);
    for path in ["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/var/cache/apt/*"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    output(mmdebstrap.arg(SUITE).arg(folder))?;
    fs::write(&made_of, PACKAGES).map_err(cannot("write", &made_of))
}

/// Our part.
fn bench(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(cannot("make", folder))?;
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, content).map_err(cannot("write", &path))
    };
    for (name, content) in FILES {
        write(name, content.as_bytes())?;
    }
    write("long.c", long_source().as_bytes())?;
    let script = folder.join("run.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        .map_err(cannot("make executable", &script))?;
    write("reads", (READS.join("\n") + "\n").as_bytes())?;
    let list: String = WORKLOADS.iter().map(|work| format!("{}\t{}\n", work.name, work.line)).collect();
    write("list", list.as_bytes())?;
    text(&folder.join("text"))?;
    let key = folder.join("key.pem");
    if !key.exists() {
        // The root's own, so that the host needs none.
        let mut openssl = Command::new("chroot");
        openssl.arg(folder.parent().unwrap_or(folder)).args([
            "openssl",
            "genrsa",
            "-out",
            "/bench/key.pem",
            "2048",
        ]);
        output(&mut openssl)?;
    }
    guest::compile(PROGRAM, &folder.join("work"))
}

/// The program to compile several times in one file, each with names of its own.
fn long_source() -> String {
    let names: Vec<&str> = NAMES.split_whitespace().collect();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let copy = |number: usize| {
        let mut text = String::new();
        let mut rest = SOURCE;
        while let Some(start) = rest.find(is_of_name) {
            let end = rest[start..].find(|c| !is_of_name(c)).map_or(rest.len(), |len| start + len);
            text += &rest[..end];
            if names.contains(&&rest[start..end]) {
                text += &format!("_{number}");
            }
            rest = &rest[end..];
        }
        text + rest
    };
    (0..COPIES).map(copy).collect()
}

/// Lines of made-up words, some much more common than others, always the same.
fn text(path: &Path) -> Result<(), String> {
    let file = fs::File::create(path).map_err(cannot("write", path))?;
    let mut out = BufWriter::new(file);
    let mut state = 1_u64;
    let mut next = || {
        // Knuth's constants.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let mut written = 0;
    while written < TEXT_BYTES {
        let rank = (next() % 200) * (next() % 200) / 10;
        let word = format!("{:x}{}", rank * rank, if next() % 9 == 0 { "\n" } else { " " });
        out.write_all(word.as_bytes()).map_err(cannot("write", path))?;
        written += word.len();
    }
    out.flush().map_err(cannot("write", path))
}

fn cannot<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> String + 'a {
    move |error| format!("cannot {what} {}: {error}", path.display())
}
