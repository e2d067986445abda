//! What a VM is to be, as `popf run` is told it: by flags, by a TOML file, or by both.
//!
//! There is one struct for both, so that no flag can be without its field or the other way round. A field that was
//! not given is `None` or empty, and its default is applied last, by the methods at the end; so what flags say can be
//! laid [over](Definition::over) what a file says.

mod check;
mod file;
mod values;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

pub use check::Misfit;
pub use file::DefinitionFile;
pub use values::{DirectArg, EngineArg, SandboxArg, SerialArg};

use crate::size::Size;
use crate::spec;
use crate::spec::disk::DiskSpec;
use crate::spec::gdb::{GdbEnd, GdbSpec};
use crate::spec::net::{NetSpec, Network};
use crate::spec::port::PortSpec;
use crate::spec::publish::PublishSpec;
use crate::spec::volume::VolumeSpec;

/// The guest's memory, unless it is said.
const MEMORY: Size = Size(512 << 20);

/// A VM to be run. Each field is a flag of `popf run` and a key of a definition.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Definition {
    /// Name of an image, built first when it is missing; or a definition, FILE.toml.
    #[arg(value_name = "IMAGE", conflicts_with = "kernel", required_unless_present_any = ["kernel", "name"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// A kernel: Linux bzImage, or ELF with a PVH note or a multiboot header.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM disk, or multiboot module; given several times, Linux sees them as one.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub initrd: Vec<PathBuf>,

    /// Kernel command line [default with --kernel: console=ttyS0; added to an image's own].
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,

    /// What the VM is called. A VM with a name keeps its disk, and without IMAGE is run again as it was.
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<vms::Name>,

    /// Come back when the VM runs and print its name; its console goes to `popf logs`.
    #[arg(long, short, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detach: Option<bool>,

    /// The guest's memory: bytes, or with K, M, G [default: 512M].
    #[arg(long, short, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,

    /// A disk: an image or block device [,format=raw|qcow2|vmdk][,readonly][,snapshot][,serial=S][,queues=N].
    #[allow(rustdoc::broken_intra_doc_links)] // The brackets are the grammar's, as help shows it.
    #[arg(long, value_name = "PATH[,OPTION...]")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "spec::list")]
    pub disk: Vec<DiskSpec>,

    /// A network: user, tap:IFNAME, bridge:BR, hostonly:NAME, switch:NAME or none [,mac=ADDRESS][,queues=N]
    /// [default: user with an image, else none].
    #[allow(rustdoc::broken_intra_doc_links)] // The brackets are the grammar's, as help shows it.
    #[arg(long, value_name = "NETWORK[,OPTION...]")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "spec::list")]
    pub net: Vec<NetSpec>,

    /// A port of the host that leads to one of the guest's, over the user network.
    #[arg(long, short, value_name = "[ADDR:]HOSTPORT:GUESTPORT[/udp]")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "spec::list")]
    pub publish: Vec<PublishSpec>,
    /// A folder of the host's, mounted at GUEST by popf's images.
    #[arg(long, short = 'v', value_name = "HOST:GUEST[:ro]")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "spec::list")]
    pub volume: Vec<VolumeSpec>,

    /// The guest's processors, up to 16 [default: 1].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u8>,

    /// How guest code runs [default: auto].
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineArg>,

    /// Where the first serial port goes: stdio, null or file:PATH [default: stdio; a log with --detach].
    #[arg(long, value_name = "WHERE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<SerialArg>,

    /// A virtio console and where it goes, as for --serial [default: none, or null with --port]; with stdio, --serial
    /// is null.
    #[allow(rustdoc::broken_intra_doc_links)] // The brackets are the grammar's, as help shows it.
    #[arg(long, value_name = "WHERE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<SerialArg>,

    /// A named port of the virtio console: NAME=unix:PATH or NAME=file:PATH.
    #[arg(long, value_name = "NAME=END")]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "spec::list")]
    pub port: Vec<PortSpec>,

    /// Wait for a debugger on a port of the host's loopback or on a socket; with wait the guest does so too.
    #[allow(rustdoc::broken_intra_doc_links)] // The brackets are the grammar's, as help shows it.
    #[arg(long, value_name = "PORT|unix:PATH[,wait][,arch=x86-64|i386]")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gdb: Option<GdbSpec>,

    /// Let the guest end popf with an exit status by writing it to port 0xf4.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug_exit: Option<bool>,

    /// Add what kvm-unit-tests expect: the test device at port 0xe0, 0x2000 and memory 0xff000000, and fw_cfg.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_device: Option<bool>,

    /// End when the guest resets instead of starting it again.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_reboot: Option<bool>,

    /// Give COMMAND popf's standard input, read to its end first; a terminal is given without this.
    #[arg(long, short = 'i', value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<bool>,

    /// What a guest that breaks out of its machine is kept in [default: auto].
    #[arg(long, value_enum, value_name = "MODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<SandboxArg>,

    /// The same as --sandbox off.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_sandbox: Option<bool>,

    /// When the guest has ended, list what made it leave guest code, and what the engine did, on standard error; the
    /// signal SIGUSR1 has that listed at any time.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<bool>,

    /// When the guest has ended, write the map by which Linux' perf names guest code, to /tmp/perf-PID.map.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perf_map: Option<bool>,

    /// Whether busy programs of the guest run untranslated, in processes of their own that popf traces [default: auto].
    #[arg(long, value_enum, value_name = "MODE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectArg>,

    /// Memory for each processor's translated code, for measurements.
    #[arg(long, value_name = "SIZE", hide = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translation_cache: Option<Size>,

    /// Run just this in the guest; its output and exit status are popf's.
    #[arg(last = true, value_name = "COMMAND")]
    #[serde(skip_serializing_if = "Vec::is_empty", with = "values::text")]
    pub command: Vec<OsString>,
}

impl Definition {
    /// This laid over `base`: what it does not say, `base` does. Lists replace each other as a whole.
    pub fn over(self, base: Self) -> Self {
        fn list<T>(own: Vec<T>, base: Vec<T>) -> Vec<T> {
            if own.is_empty() { base } else { own }
        }
        // In full, so that a field cannot be forgotten.
        let Self {
            image,
            kernel,
            initrd,
            cmdline,
            name,
            detach,
            memory,
            disk,
            net,
            publish,
            volume,
            cpus,
            engine,
            serial,
            console,
            port,
            gdb,
            debug_exit,
            test_device,
            no_reboot,
            stdin,
            sandbox,
            no_sandbox,
            stats,
            perf_map,
            direct,
            translation_cache,
            command,
        } = self;
        Self {
            image: image.or(base.image),
            kernel: kernel.or(base.kernel),
            initrd: list(initrd, base.initrd),
            cmdline: cmdline.or(base.cmdline),
            name: name.or(base.name),
            detach: detach.or(base.detach),
            memory: memory.or(base.memory),
            disk: list(disk, base.disk),
            net: list(net, base.net),
            publish: list(publish, base.publish),
            volume: list(volume, base.volume),
            cpus: cpus.or(base.cpus),
            engine: engine.or(base.engine),
            serial: serial.or(base.serial),
            console: console.or(base.console),
            port: list(port, base.port),
            gdb: gdb.or(base.gdb),
            debug_exit: debug_exit.or(base.debug_exit),
            test_device: test_device.or(base.test_device),
            no_reboot: no_reboot.or(base.no_reboot),
            stdin: stdin.or(base.stdin),
            sandbox: sandbox.or(base.sandbox),
            no_sandbox: no_sandbox.or(base.no_sandbox),
            stats: stats.or(base.stats),
            perf_map: perf_map.or(base.perf_map),
            direct: direct.or(base.direct),
            translation_cache: translation_cache.or(base.translation_cache),
            command: list(command, base.command),
        }
    }

    /// Takes every relative path as seen from `directory`.
    pub fn seen_from(&mut self, directory: &Path) {
        let serial = [&mut self.serial, &mut self.console].into_iter().filter_map(|end| match end {
            Some(SerialArg::File(path)) => Some(path),
            _ => None,
        });
        let disks = self.disk.iter_mut().map(|disk| &mut disk.path);
        let volumes = self.volume.iter_mut().map(|volume| &mut volume.host);
        let files = self.kernel.iter_mut().chain(&mut self.initrd).chain(serial);
        for path in files.chain(disks).chain(volumes) {
            *path = directory.join(&*path);
        }
        self.port.iter_mut().for_each(|port| port.to.seen_from(directory));
        if let Some(GdbSpec { at: GdbEnd::Unix(path), .. }) = &mut self.gdb {
            *path = directory.join(&*path);
        }
    }

    /// As TOML.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// The guest's memory.
    pub fn memory(&self) -> Size {
        self.memory.unwrap_or(MEMORY)
    }

    /// Where the first serial port goes, if that is said or follows from what is.
    pub fn serial(&self) -> Option<&SerialArg> {
        match (&self.serial, &self.console) {
            (None, Some(SerialArg::Stdio)) => Some(&SerialArg::Null),
            (serial, _) => serial.as_ref(),
        }
    }

    /// Where the virtio console goes, if there is one.
    pub fn console(&self) -> Option<&SerialArg> {
        self.console.as_ref().or((!self.port.is_empty()).then_some(&SerialArg::Null))
    }

    /// The networks it is on.
    pub fn networks(&self) -> Vec<NetSpec> {
        match self.net.as_slice() {
            [] if self.image.is_some() => vec![NetSpec::new(Network::User)],
            given => given.to_vec(),
        }
    }

    /// The guest's processors.
    pub fn cpus(&self) -> u8 {
        self.cpus.unwrap_or(1)
    }

    /// Whether a command's status and output are popf's.
    pub fn command_mode(&self) -> bool {
        !self.command.is_empty()
    }

    /// What it is kept in.
    pub fn sandbox(&self) -> SandboxArg {
        match self.no_sandbox {
            Some(true) => SandboxArg::Off,
            _ => self.sandbox.unwrap_or_default(),
        }
    }

    /// Whether it runs on no terminal.
    pub fn detached(&self) -> bool {
        self.detach.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
