//! Random bytes (getrandom(2)).
#![allow(unsafe_code)] // A system call.

use crate::HostError;

/// Fills all of `bytes`. Waits only while the host has just booted and gathered no randomness yet.
pub fn fill(mut bytes: &mut [u8]) -> Result<(), HostError> {
    while !bytes.is_empty() {
        // SAFETY: the kernel writes at most as many bytes as there are.
        let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => bytes = &mut bytes[count..],
            Err(_) => match HostError::last("getrandom") {
                error if error.os_error() == Some(libc::EINTR) => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_is_filled_and_not_twice_alike() {
        let mut buffers = [[0; 1000]; 2];
        for buffer in &mut buffers {
            super::fill(buffer).unwrap();
            assert!(buffer[990..].iter().any(|&byte| byte != 0));
        }
        assert_ne!(buffers[0], buffers[1]);
    }
}
