//! What an IBM PC/AT had on its board, and every PC since at the same places.

mod fifo;
pub mod pic;
pub mod pit;
pub mod rtc;
pub mod uart;
