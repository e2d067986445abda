//! What an IBM PC/AT had on its board, and every PC since at the same places.

mod fifo;
pub mod fw_cfg;
pub mod i8042;
pub mod pic;
pub mod pit;
pub mod ports;
pub mod rtc;
pub mod test_device;
pub mod uart;
