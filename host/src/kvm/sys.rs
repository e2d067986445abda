//! The few KVM calls a probe needs (Documentation/virt/kvm/api.rst), as a VM of one vCPU.
//!
//! The engine for KVM will stand on a library; a look at whether KVM is worth an engine should not need one.
#![allow(unsafe_code)] // ioctl(2), and the kvm_run structure shared with the kernel.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::{HostError, Mapping, PAGE_SIZE, Protection};

/// `_IO`, `_IOR`, `_IOW` and `_IOWR` of asm-generic/ioctl.h for the type 0xAE.
const fn request(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | 0xae << 8 | number
}
const NONE: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;

const KVM_GET_API_VERSION: u64 = request(NONE, 0x00, 0);
const KVM_CREATE_VM: u64 = request(NONE, 0x01, 0);
const KVM_GET_VCPU_MMAP_SIZE: u64 = request(NONE, 0x04, 0);
const KVM_GET_SUPPORTED_CPUID: u64 = request(READ | WRITE, 0x05, 8);
const KVM_CREATE_VCPU: u64 = request(NONE, 0x41, 0);
const KVM_SET_USER_MEMORY_REGION: u64 = request(WRITE, 0x46, size_of::<MemoryRegion>());
const KVM_SET_TSS_ADDR: u64 = request(NONE, 0x47, 0);
const KVM_SET_IDENTITY_MAP_ADDR: u64 = request(WRITE, 0x48, 8);
const KVM_CREATE_IRQCHIP: u64 = request(NONE, 0x60, 0);
const KVM_RUN: u64 = request(NONE, 0x80, 0);
const KVM_SET_REGS: u64 = request(WRITE, 0x82, size_of::<Regs>());
const KVM_GET_SREGS: u64 = request(READ, 0x83, SREGS_SIZE);
const KVM_SET_SREGS: u64 = request(WRITE, 0x84, SREGS_SIZE);
const KVM_SET_CPUID2: u64 = request(WRITE, 0x90, 8);

/// `sizeof(struct kvm_sregs)`.
const SREGS_SIZE: usize = 0x138;
/// Offsets into it: the base and the selector of `cs`, which comes first.
const SREGS_CS_BASE: usize = 0;
const SREGS_CS_SELECTOR: usize = 12;

#[repr(C)]
struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest_phys_addr: u64,
    memory_size: u64,
    userspace_addr: u64,
}

/// `struct kvm_regs`: rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags.
#[repr(C)]
#[derive(Default)]
struct Regs {
    general: [u64; 16],
    rip: u64,
    rflags: u64,
}

/// Room for CPUID entries; real processors need some tens.
const CPUID_ENTRIES: usize = 256;

/// `struct kvm_cpuid2` with its entries of 40 bytes, which pass through unlooked at.
#[repr(C)]
struct CpuidTable {
    count: u32,
    padding: u32,
    entries: [[u32; 10]; CPUID_ENTRIES],
}

/// Offsets into `struct kvm_run`.
mod run {
    pub const IMMEDIATE_EXIT: usize = 1;
    pub const EXIT_REASON: usize = 8;
    /// The union of exit details begins here; `io`: direction u8, size u8, port u16, count u32, data_offset u64.
    pub const EXIT: usize = 32;
    pub const IO_PORT: usize = EXIT + 2;
    pub const IO_DATA_OFFSET: usize = EXIT + 8;
    /// `fail_entry` and `internal` begin with a 64-bit reason and a 32-bit suberror.
    pub const REASON: usize = EXIT;
}

/// Why a run of the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// A byte went to a port.
    Out { port: u16, value: u8 },
    /// HLT, and no interrupt controller to wait for.
    Halt,
    /// The kernel was told to stop.
    Interrupted,
    /// Anything else: `exit_reason`, and the word that explains it.
    Other { reason: u32, detail: u64 },
}

/// `/dev/kvm`.
pub(super) struct Kvm {
    file: File,
}

impl Kvm {
    pub(super) fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
        Ok(Self { file })
    }

    /// 12 since 2007.
    pub(super) fn api_version(&self) -> Result<i32, HostError> {
        call(self.file.as_raw_fd(), KVM_GET_API_VERSION, 0, "KVM_GET_API_VERSION")
    }
}

/// A VM with one vCPU, memory from address 0 on and the in-kernel interrupt controllers.
pub(super) struct Vm {
    // Dropped in this order: the vCPU and its shared structure before the VM.
    run: Mapping,
    vcpu: File,
    _vm: File,
    _memory: Mapping,
}

/// Tells a vCPU on another thread not to enter the guest any more.
#[derive(Clone, Copy)]
pub(super) struct Stopper(NonNull<AtomicU8>);

// SAFETY: points to an atomic in a mapping; see `Vm::stopper` for how long.
unsafe impl Send for Stopper {}

impl Stopper {
    /// # Safety
    /// The VM it comes from still exists.
    pub(super) unsafe fn stop(self) {
        // SAFETY: by the caller's promise the mapping is there.
        unsafe { self.0.as_ref() }.store(1, Ordering::Release);
    }
}

impl Vm {
    /// Makes one whose memory holds `image` and whose vCPU will begin at `start` in real mode, as a vCPU that is
    /// sent a start-up IPI does.
    pub(super) fn new(
        kvm: &Kvm,
        memory_size: usize,
        image: &[(usize, &[u8])],
        start: u16,
    ) -> Result<Self, HostError> {
        let vm = descriptor(&kvm.file, KVM_CREATE_VM, "KVM_CREATE_VM")?;
        let fd = vm.as_raw_fd();
        // Three pages and one that Intel's processors need for real mode, out of the way of memory and APICs.
        call(fd, KVM_SET_TSS_ADDR, 0xfffb_d000, "KVM_SET_TSS_ADDR")?;
        let identity = 0xfffb_c000_u64;
        call(fd, KVM_SET_IDENTITY_MAP_ADDR, &raw const identity as u64, "KVM_SET_IDENTITY_MAP_ADDR")?;
        call(fd, KVM_CREATE_IRQCHIP, 0, "KVM_CREATE_IRQCHIP")?;

        let memory = Mapping::anonymous(memory_size, Protection::ReadWrite)?;
        for &(offset, bytes) in image {
            if offset.checked_add(bytes.len()).is_none_or(|end| end > memory.len()) {
                return Err(HostError::BadRange { offset, len: bytes.len(), size: memory.len() });
            }
            // SAFETY: the range was checked; the memory is ours alone so far.
            unsafe { memory.as_ptr().add(offset).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        }
        let region = MemoryRegion {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.len() as u64,
            userspace_addr: memory.address() as u64,
        };
        call(fd, KVM_SET_USER_MEMORY_REGION, &raw const region as u64, "KVM_SET_USER_MEMORY_REGION")?;

        let vcpu = descriptor(&vm, KVM_CREATE_VCPU, "KVM_CREATE_VCPU")?;
        let run = map_run(kvm, &vcpu)?;
        set_cpuid(kvm, &vcpu)?;
        set_start(&vcpu, start)?;
        Ok(Self { run, vcpu, _vm: vm, _memory: memory })
    }

    /// For the thread that watches the clock; to be used only while this VM exists.
    pub(super) fn stopper(&self) -> Stopper {
        // SAFETY: the structure is larger than its header; a mapping is never at 0.
        Stopper(unsafe { NonNull::new_unchecked(self.run.as_ptr().add(run::IMMEDIATE_EXIT).cast()) })
    }

    /// Runs the guest until it exits.
    pub(super) fn run(&mut self) -> Result<Exit, HostError> {
        match call(self.vcpu.as_raw_fd(), KVM_RUN, 0, "KVM_RUN") {
            Err(error) if matches!(error.os_error(), Some(libc::EINTR | libc::EAGAIN)) => {
                return Ok(Exit::Interrupted);
            }
            other => other?,
        };
        let reason = self.field::<AtomicU32>(run::EXIT_REASON).load(Ordering::Acquire);
        Ok(match reason {
            2 => {
                let port = self.field::<AtomicU32>(run::IO_PORT & !3).load(Ordering::Relaxed) >> 16;
                // Within the mapping, whatever the kernel says.
                let offset = self.field::<AtomicU32>(run::IO_DATA_OFFSET).load(Ordering::Relaxed) as usize;
                let value = self.field::<AtomicU8>(offset.min(self.run.len() - 1)).load(Ordering::Relaxed);
                Exit::Out { port: port as u16, value }
            }
            5 => Exit::Halt,
            10 => Exit::Interrupted,
            _ => {
                let low = self.field::<AtomicU32>(run::REASON).load(Ordering::Relaxed);
                let high = self.field::<AtomicU32>(run::REASON + 4).load(Ordering::Relaxed);
                Exit::Other { reason, detail: u64::from(high) << 32 | u64::from(low) }
            }
        })
    }

    /// Whether a [`Stopper`] was used.
    pub(super) fn stopped(&self) -> bool {
        self.field::<AtomicU8>(run::IMMEDIATE_EXIT).load(Ordering::Acquire) != 0
    }

    /// An atomic in the structure shared with the kernel.
    fn field<T>(&self, offset: usize) -> &T {
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.run.len());
        // SAFETY: in range and aligned, as just checked; T is an atomic integer in all uses.
        unsafe { &*self.run.as_ptr().add(offset).cast() }
    }
}

fn map_run(kvm: &Kvm, vcpu: &File) -> Result<Mapping, HostError> {
    let size = call(kvm.file.as_raw_fd(), KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE")?;
    let size = usize::try_from(size).unwrap_or(0).max(PAGE_SIZE);
    Mapping::of_device(vcpu, size)
}

/// Offers the guest what KVM can: without, a guest would find a processor without long mode.
fn set_cpuid(kvm: &Kvm, vcpu: &File) -> Result<(), HostError> {
    let mut table =
        Box::new(CpuidTable { count: CPUID_ENTRIES as u32, padding: 0, entries: [[0; 10]; CPUID_ENTRIES] });
    let address = &raw mut *table as u64;
    call(kvm.file.as_raw_fd(), KVM_GET_SUPPORTED_CPUID, address, "KVM_GET_SUPPORTED_CPUID")?;
    call(vcpu.as_raw_fd(), KVM_SET_CPUID2, address, "KVM_SET_CPUID2")?;
    Ok(())
}

fn set_start(vcpu: &File, start: u16) -> Result<(), HostError> {
    // Eight-byte words for alignment.
    let mut sregs = [0u64; SREGS_SIZE / 8];
    call(vcpu.as_raw_fd(), KVM_GET_SREGS, sregs.as_mut_ptr() as u64, "KVM_GET_SREGS")?;
    sregs[SREGS_CS_BASE / 8] = 0;
    // The selector is the upper half of the word that begins with the limit.
    sregs[SREGS_CS_SELECTOR / 8] &= !(0xffff << 32);
    call(vcpu.as_raw_fd(), KVM_SET_SREGS, sregs.as_ptr() as u64, "KVM_SET_SREGS")?;
    let regs = Regs { rip: start.into(), rflags: 2, ..Regs::default() };
    call(vcpu.as_raw_fd(), KVM_SET_REGS, &raw const regs as u64, "KVM_SET_REGS")?;
    Ok(())
}

fn descriptor(file: &File, request: u64, name: &'static str) -> Result<File, HostError> {
    let fd = call(file.as_raw_fd(), request, 0, name)?;
    // SAFETY: the call made a new descriptor, ours alone.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn call(fd: RawFd, request: u64, argument: u64, name: &'static str) -> Result<i32, HostError> {
    // SAFETY: each caller passes what the request wants: a number, or the address of a structure of the size that
    // is part of the request, which outlives the call.
    let result = unsafe { libc::ioctl(fd, request as libc::Ioctl, argument) };
    if result < 0 { Err(HostError::last(name)) } else { Ok(result) }
}
