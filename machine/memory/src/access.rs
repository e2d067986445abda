//! Reading and writing guest RAM; see the crate's header for the rules.
#![allow(unsafe_code)] // Accesses through checked raw pointers.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::{GuestRam, OutOfRange};

/// A value at any alignment.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T>(T);

/// Frames, descriptors, the code of a block and the like, up to this many bytes, are moved here word by word: vm-memory is made for more, and
/// takes a hundred cycles before it moves anything.
const SHORT: usize = 128;

/// Reads `buffer.len()` bytes from `host`, words of 8 first, and what is left in as few accesses as there can be: a
/// value of 2, 4 or 8 bytes is never seen half-written.
///
/// # Safety
/// So many bytes there are mapped.
#[inline]
unsafe fn read_short(host: NonNull<u8>, buffer: &mut [u8]) {
    let mut from = host.as_ptr();
    /// Reads into words of one width.
    macro_rules! words {
        ($words:expr, $int:ty) => {
            for word in $words {
                // SAFETY: the caller's; the packed type has alignment 1.
                let value = unsafe { from.cast::<Unaligned<$int>>().read_volatile() }.0;
                *word = value.to_ne_bytes();
                // SAFETY: at most the end of the range.
                from = unsafe { from.add(size_of::<$int>()) };
            }
        };
    }
    let (words, rest) = buffer.as_chunks_mut();
    words!(words, u64);
    let (words, rest) = rest.as_chunks_mut();
    words!(words, u32);
    let (words, rest) = rest.as_chunks_mut();
    words!(words, u16);
    let (words, _) = rest.as_chunks_mut();
    words!(words, u8);
}

/// Writes `bytes` to `host`, in the same steps.
///
/// # Safety
/// So many bytes there are mapped.
#[inline]
unsafe fn write_short(host: NonNull<u8>, bytes: &[u8]) {
    let mut to = host.as_ptr();
    /// Writes words of one width.
    macro_rules! words {
        ($words:expr, $int:ty) => {
            for word in $words {
                let value = Unaligned(<$int>::from_ne_bytes(*word));
                // SAFETY: the caller's; the packed type has alignment 1.
                unsafe { to.cast::<Unaligned<$int>>().write_volatile(value) };
                // SAFETY: at most the end of the range.
                to = unsafe { to.add(size_of::<$int>()) };
            }
        };
    }
    let (words, rest) = bytes.as_chunks();
    words!(words, u64);
    let (words, rest) = rest.as_chunks();
    words!(words, u32);
    let (words, rest) = rest.as_chunks();
    words!(words, u16);
    let (words, _) = rest.as_chunks();
    words!(words, u8);
}

/// Generates the accessors of one width.
///
/// An aligned access is atomic, as on the real machine, and ordered like the processor's own (acquire and
/// release cost nothing on x86). An unaligned one is volatile. One that leaves its region goes byte by byte.
macro_rules! accessors {
    ($read:ident, $write:ident, $int:ty, $atomic:ty) => {
        #[doc = concat!("Reads a little-endian `", stringify!($int), "` at any alignment.")]
        #[inline]
        pub fn $read(&self, gpa: u64) -> Result<$int, OutOfRange> {
            const LEN: usize = size_of::<$int>();
            let Some((_, _, host)) = self.find(gpa, LEN) else {
                let mut bytes = [0; LEN];
                self.read(gpa, &mut bytes)?;
                return Ok(<$int>::from_le_bytes(bytes));
            };
            let pointer = host.as_ptr().cast::<$int>();
            let value = if pointer.is_aligned() {
                // SAFETY: `find` checked the range; aligned; only ever shared as raw memory.
                unsafe { <$atomic>::from_ptr(pointer) }.load(Ordering::Acquire)
            } else {
                // SAFETY: `find` checked the range; the packed type has alignment 1.
                unsafe { pointer.cast::<Unaligned<$int>>().read_volatile() }.0
            };
            Ok(<$int>::from_le(value))
        }

        #[doc = concat!("Writes a little-endian `", stringify!($int), "` at any alignment.")]
        #[inline]
        pub fn $write(&self, gpa: u64, value: $int) -> Result<(), OutOfRange> {
            const LEN: usize = size_of::<$int>();
            let Some((region, offset, host)) = self.find(gpa, LEN) else {
                return self.write(gpa, &value.to_le_bytes());
            };
            let pointer = host.as_ptr().cast::<$int>();
            if pointer.is_aligned() {
                // SAFETY: as for reading.
                unsafe { <$atomic>::from_ptr(pointer) }.store(value.to_le(), Ordering::Release);
            } else {
                // SAFETY: as for reading.
                unsafe { pointer.cast::<Unaligned<$int>>().write_volatile(Unaligned(value.to_le())) };
            }
            self.tracking().written(region, offset, LEN);
            Ok(())
        }
    };
}

/// Generates a compare-and-exchange of one width.
///
/// The locked instruction itself is used, because it takes any alignment, which Rust's atomics do not.
macro_rules! compare_exchange {
    ($name:ident, $int:ty, $instruction:literal, $class:ident, $accumulator:tt) => {
        #[doc = concat!("Replaces the `", stringify!($int), "` at `gpa` by `new` if it equals `current`, in one")]
        /// indivisible step, at any alignment. The inner result is as that of
        /// [`AtomicU64::compare_exchange`]: the old value, `Err` if it differed.
        #[inline]
        pub fn $name(&self, gpa: u64, current: $int, new: $int) -> Result<Result<$int, $int>, OutOfRange> {
            const LEN: usize = size_of::<$int>();
            let (region, offset, host) = self.find(gpa, LEN).ok_or(OutOfRange { gpa, len: LEN })?;
            let mut seen = current;
            // SAFETY: `find` checked the range; the instruction touches no other memory.
            unsafe {
                std::arch::asm!(
                    $instruction,
                    host = in(reg) host.as_ptr(),
                    new = in($class) new,
                    inout($accumulator) seen,
                    options(nostack),
                );
            }
            if seen != current {
                return Ok(Err(seen));
            }
            self.tracking().written_locked(region, offset, LEN);
            Ok(Ok(seen))
        }
    };
}

impl GuestRam {
    accessors!(read_u8, write_u8, u8, AtomicU8);
    accessors!(read_u16, write_u16, u16, AtomicU16);
    accessors!(read_u32, write_u32, u32, AtomicU32);
    accessors!(read_u64, write_u64, u64, AtomicU64);

    compare_exchange!(compare_exchange_u8, u8, "lock cmpxchg byte ptr [{host}], {new}", reg_byte, "al");
    compare_exchange!(compare_exchange_u16, u16, "lock cmpxchg word ptr [{host}], {new:x}", reg, "ax");
    compare_exchange!(compare_exchange_u32, u32, "lock cmpxchg dword ptr [{host}], {new:e}", reg, "eax");
    compare_exchange!(compare_exchange_u64, u64, "lock cmpxchg qword ptr [{host}], {new}", reg, "rax");

    /// The same for 16 bytes, which have to be aligned: `None` if they are not, or the processor cannot.
    fn compare_exchange_u128(
        &self,
        gpa: u64,
        current: u128,
        new: u128,
    ) -> Result<Option<Result<u128, u128>>, OutOfRange> {
        let (region, offset, host) = self.find(gpa, 16).ok_or(OutOfRange { gpa, len: 16 })?;
        if !gpa.is_multiple_of(16) || !std::arch::is_x86_feature_detected!("cmpxchg16b") {
            return Ok(None);
        }
        let (mut low, mut high) = (current as u64, (current >> 64) as u64);
        // SAFETY: `find` checked the range, which is aligned as regions are; the instruction touches no other memory. The
        // compiler keeps rbx for itself, so it is put back.
        unsafe {
            std::arch::asm!(
                "xchg rbx, rsi",
                "lock cmpxchg16b xmmword ptr [rdi]",
                "mov rbx, rsi",
                in("rdi") host.as_ptr(),
                inout("rsi") new as u64 => _,
                in("rcx") (new >> 64) as u64,
                inout("rax") low,
                inout("rdx") high,
                options(nostack),
            );
        }
        let seen = u128::from(high) << 64 | u128::from(low);
        if seen != current {
            return Ok(Some(Err(seen)));
        }
        self.tracking().written_locked(region, offset, 16);
        Ok(Some(Ok(seen)))
    }

    /// Replaces the bytes at `gpa` by `new` if they are `current`, in one indivisible step; whether they were. There are 1, 2,
    /// 4 or 8 of them at any alignment, or 16 that are aligned; `None` for other numbers.
    pub fn compare_exchange(&self, gpa: u64, current: &[u8], new: &[u8]) -> Result<Option<bool>, OutOfRange> {
        fn as_int<const N: usize>(bytes: &[u8]) -> [u8; N] {
            let mut all = [0; N];
            all[..bytes.len().min(N)].copy_from_slice(&bytes[..bytes.len().min(N)]);
            all
        }
        macro_rules! exchanged {
            ($name:ident, $int:ty) => {{
                let (current, new) = (as_int(current), as_int(new));
                let done = self.$name(gpa, <$int>::from_le_bytes(current), <$int>::from_le_bytes(new))?;
                Ok(Some(done.is_ok()))
            }};
        }
        match (current.len(), new.len()) {
            (1, 1) => exchanged!(compare_exchange_u8, u8),
            (2, 2) => exchanged!(compare_exchange_u16, u16),
            (4, 4) => exchanged!(compare_exchange_u32, u32),
            (8, 8) => exchanged!(compare_exchange_u64, u64),
            (16, 16) => {
                let (current, new) = (as_int(current), as_int(new));
                let done =
                    self.compare_exchange_u128(gpa, u128::from_le_bytes(current), u128::from_le_bytes(new))?;
                Ok(done.map(|done| done.is_ok()))
            }
            _ => Ok(None),
        }
    }

    /// Fills `buffer` from `gpa` on. On an error the buffer's contents are unspecified.
    pub fn read(&self, gpa: u64, buffer: &mut [u8]) -> Result<(), OutOfRange> {
        if buffer.len() <= SHORT
            && let Some((_, _, host)) = self.find(gpa, buffer.len())
        {
            // SAFETY: `find` checked the range, which is as long as the buffer.
            unsafe { read_short(host, buffer) };
            return Ok(());
        }
        let memory = self.as_guest_memory();
        memory.read_slice(buffer, GuestAddress(gpa)).map_err(|_| OutOfRange { gpa, len: buffer.len() })
    }

    /// Writes all of `bytes` at `gpa`, or nothing where RAM does not hold them.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), OutOfRange> {
        if bytes.len() <= SHORT
            && let Some((region, offset, host)) = self.find(gpa, bytes.len())
        {
            // SAFETY: `find` checked the range, which is as long as the bytes.
            unsafe { write_short(host, bytes) };
            self.tracking().written(region, offset, bytes.len());
            return Ok(());
        }
        let missing = |_| OutOfRange { gpa, len: bytes.len() };
        if !self.contains(gpa, bytes.len()) {
            return Err(missing(()));
        }
        let memory = self.as_guest_memory();
        memory.write_slice(bytes, GuestAddress(gpa)).map_err(|_| missing(()))
    }

    /// Sets `len` bytes at `gpa` to `value`, or nothing where RAM does not hold them.
    pub fn fill(&self, gpa: u64, len: usize, value: u8) -> Result<(), OutOfRange> {
        if let Some((region, offset, host)) = self.find(gpa, len) {
            // SAFETY: `find` checked the range; guest memory is accessed through raw pointers only.
            unsafe { host.as_ptr().write_bytes(value, len) };
            self.tracking().written(region, offset, len);
            return Ok(());
        }
        if !self.contains(gpa, len) {
            return Err(OutOfRange { gpa, len });
        }
        let chunk = [value; 4096];
        let mut done = 0;
        while done < len {
            let step = chunk.len().min(len - done);
            self.write(gpa + done as u64, &chunk[..step])?;
            done += step;
        }
        Ok(())
    }

    /// Copies `len` bytes from one place to another, which may overlap, or nothing unless each of the two lies within one
    /// region.
    pub fn copy(&self, from: u64, to: u64, len: usize) -> Result<(), OutOfRange> {
        let (_, _, source) = self.find(from, len).ok_or(OutOfRange { gpa: from, len })?;
        let (region, offset, target) = self.find(to, len).ok_or(OutOfRange { gpa: to, len })?;
        // SAFETY: `find` checked both ranges; guest memory is accessed through raw pointers only.
        unsafe { std::ptr::copy(source.as_ptr(), target.as_ptr(), len) };
        self.tracking().written(region, offset, len);
        Ok(())
    }

    /// Whether all of a range is RAM.
    pub fn contains(&self, gpa: u64, len: usize) -> bool {
        self.find(gpa, len).is_some() || self.as_guest_memory().check_range(GuestAddress(gpa), len)
    }
}
