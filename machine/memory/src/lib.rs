//! Guest-physical memory: RAM, dirty log, write watches.
