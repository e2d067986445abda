//! The first process of the Debian image, `/init` of its initramfs: loads the modules that lead to the disk, mounts
//! it, and becomes the init program on it.
//!
//! It takes the place of initramfs-tools, whose shell scripts and second udev cost seconds in a guest that is
//! known to have one disk of one kind. It reads the kernel command line as that does: `root=`, `rootfstype=`, `rw`,
//! `init=`.
//!
//! What of popf's is in the guest is put below `/run`, where systemd looks for units as well, and not on the disk:
//! so a disk that an older popf made has this popf's agent, and the root file system stays Debian's own. The words
//! that it takes besides:
//!
//! | word | meaning |
//! | --- | --- |
//! | `popf.hostname=NAME` | the host's name, unless `/etc/hostname` has another |
//! | `popf.term=`, `popf.rows=`, `popf.cols=` | the terminal at the other end of the first serial port |
//! | `popf.mount=TAG:PATH[:ro]` | a folder that the host shares by virtio-fs, and where it goes; repeatable |
//!
//! Not modelled: root on anything but a whole disk, by UUID or label; checks other than the journal's replay.

#![no_std]
#![no_main]

mod bare;
mod mounts;
#[allow(dead_code, reason = "shared with other guests' programs")]
mod parse;
#[allow(dead_code, reason = "shared with other guests' programs")]
mod sys;
mod root;
mod text;

use core::ffi::CStr;
use text::Text;

/// The modules, one path a line, in the order in which they are loaded.
const MODULES: &CStr = c"/modules/order";
const AGENT: &CStr = c"/popf/agent";

const DISK: &[u8] = b"/dev/vda";
const FILE_SYSTEM: &[u8] = b"ext4";
const INIT: &[u8] = b"/sbin/init";
const HOST_NAME: &[u8] = b"debian";
/// How long a disk may take to appear once its driver is there.
const PATIENCE_MS: u32 = 10_000;
const INTERVAL_MS: u32 = 20;

/// A path, from the command line or put together.
type Path = Text<512>;

/// Parents come before their children.
const DIRECTORIES: &[&CStr] = &[
    c"/root/run/popf",
    c"/root/run/systemd",
    c"/root/run/systemd/network",
    c"/root/run/systemd/system",
    c"/root/run/systemd/system/local-fs.target.wants",
    c"/root/run/systemd/system/multi-user.target.wants",
    c"/root/run/systemd/system/serial-getty@ttyS0.service.d",
];

#[rustfmt::skip]
const FILES: &[(&CStr, &[u8])] = &[
    (c"/root/run/systemd/network/89-popf.network",   include_bytes!("system/89-popf.network")),
    (c"/root/run/systemd/system/popf-agent.service", include_bytes!("system/popf-agent.service")),
];

/// Units for hardware and file systems that no such guest has; each would start a process at every boot.
#[rustfmt::skip]
const MASKED: &[&CStr] = &[
    c"/root/run/systemd/system/modprobe@dm_mod.service",
    c"/root/run/systemd/system/modprobe@drm.service",
    c"/root/run/systemd/system/modprobe@efi_pstore.service",
    c"/root/run/systemd/system/modprobe@loop.service",
    c"/root/run/systemd/system/systemd-pstore.service",
];

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The kernel panics when its first process ends: what the board then does is what it does for any guest.
    sys::exit(1)
}

extern "C" fn main(_arguments: *const usize) -> ! {
    sys::reserve_standard_files();
    sys::mount(c"proc", c"/proc", c"");
    sys::mount(c"devtmpfs", c"/dev", c"");
    let mut buffer = [0; 4096];
    let command_line = sys::read_start(c"/proc/cmdline", &mut buffer);
    load_modules();
    mount_disk(command_line);
    populate_run(command_line);
    sys::set_host_name(parse::parameter(command_line, b"popf.hostname").unwrap_or(HOST_NAME));
    // systemd leaves alone what is mounted already.
    for (from, to) in [(c"/proc", c"/root/proc"), (c"/dev", c"/root/dev")] {
        root::move_mount(from, to);
    }
    root::change_root(c"/root");
    let init = Path::of(&[parse::parameter(command_line, b"init").unwrap_or(INIT)]);
    if let Some(init) = init.c_str() {
        let environment = [sys::pointer(c"HOME=/"), sys::pointer(c"TERM=linux"), sys::NULL];
        sys::exec(sys::pointer(init), &[sys::pointer(init), sys::NULL], &environment);
    }
    give_up(&[b"the disk has no init program that can be executed"], None)
}

/// Says what is wrong, where the kernel's messages go, and powers off: a panic's reset would only lead here again.
fn give_up(what: &[&[u8]], error: Option<isize>) -> ! {
    let mut message = Text::<256>::of(&[b"popf: "]);
    for part in what {
        message.push(part);
    }
    if let Some(error) = error {
        message.push(b" (error ");
        message.push_number(error.unsigned_abs() as u32);
        message.push(b")");
    }
    message.push(b"\n");
    sys::write(2, message.bytes().unwrap_or(b"popf: the guest cannot be started\n"));
    sys::drain(2);
    sys::reboot(sys::POWER_OFF);
    sys::pause()
}

fn load_modules() {
    let list = sys::read_file(MODULES).unwrap_or_default();
    for line in list.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let path = Path::of(&[line]);
        if let Some(path) = path.c_str() {
            // One that fails (built in, or not for this processor) may not be needed; the disk tells.
            root::load_module(path);
            // The initramfs is memory.
            root::remove(path);
        }
    }
}

fn mount_disk(command_line: &[u8]) {
    let device = parse::parameter(command_line, b"root").unwrap_or(DISK);
    let kind = parse::parameter(command_line, b"rootfstype").unwrap_or(FILE_SYSTEM);
    let (path, kind_text) = (Path::of(&[device]), Path::of(&[kind]));
    let (Some(path), Some(kind_text)) = (path.c_str(), kind_text.c_str()) else {
        give_up(&[b"root= or rootfstype= is too long"], None);
    };
    let mut waited = 0;
    while !sys::exists(path) {
        if waited >= PATIENCE_MS {
            give_up(&[b"there is no disk ", device, b"; this image needs one: see popf run --help"], None);
        }
        root::sleep_ms(INTERVAL_MS);
        waited += INTERVAL_MS;
    }
    let writable = command_line.split(|byte| byte.is_ascii_whitespace()).any(|word| word == b"rw");
    let flags = if writable { 0 } else { root::READ_ONLY };
    let error = root::mount(path, c"/root", kind_text, flags, c"");
    if error != 0 {
        give_up(&[b"cannot mount ", device, b" as ", kind], Some(error));
    }
}

/// What systemd finds below /run.
fn populate_run(command_line: &[u8]) {
    let flags = root::NO_SETUID | root::NO_DEVICES;
    root::mount(c"tmpfs", c"/root/run", c"tmpfs", flags, c"mode=0755,size=20%");
    for directory in DIRECTORIES {
        sys::mkdir(directory, 0o755);
    }
    for (path, content) in FILES {
        root::write_file(path, 0o644, content);
    }
    for unit in MASKED {
        sys::symlink(c"/dev/null", unit);
    }
    if let Some(agent) = sys::read_file(AGENT) {
        root::write_file(c"/root/run/popf/agent", 0o755, agent);
        root::remove(AGENT);
        sys::symlink(
            c"../popf-agent.service",
            c"/root/run/systemd/system/multi-user.target.wants/popf-agent.service",
        );
    }
    if let Some(terminal) = terminal(command_line).bytes() {
        root::write_file(c"/root/run/systemd/system/serial-getty@ttyS0.service.d/popf.conf", 0o644, terminal);
    }
    for mount in mounts::of(command_line) {
        share(&mount);
    }
}

/// Root's shell without a password on the first serial port: whoever has that port has the whole guest.
fn terminal(command_line: &[u8]) -> Text<1024> {
    let term = parse::parameter(command_line, b"popf.term").unwrap_or(b"vt220");
    let mut text = Text::of(&[
        b"[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 - ",
        term,
        b"\n",
    ]);
    for (word, setting) in [(&b"popf.rows"[..], &b"TTYRows="[..]), (b"popf.cols", b"TTYColumns=")] {
        if let Some(number) = parse::parameter(command_line, word).and_then(parse::number) {
            text.push(setting);
            text.push_number(number.into());
            text.push(b"\n");
        }
    }
    text
}

fn share(mount: &mounts::Mount) {
    let (name, unit) = (mount.name(), mount.unit());
    let (Some(name), Some(unit)) = (name.bytes(), unit.bytes()) else {
        return;
    };
    let path = Path::of(&[b"/root/run/systemd/system/", name]);
    let wanted = Path::of(&[b"/root/run/systemd/system/local-fs.target.wants/", name]);
    let target = Path::of(&[b"../", name]);
    if let (Some(path), Some(wanted), Some(target)) = (path.c_str(), wanted.c_str(), target.c_str()) {
        root::write_file(path, 0o644, unit);
        sys::symlink(target, wanted);
    }
}
