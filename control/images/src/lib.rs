//! Guest images: built from Debian packages, cached by content.
