//! Versioned sections of saved state; knows no device.
