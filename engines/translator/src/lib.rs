//! Binary translation: guest code rewritten once into a translation cache, then run directly.
