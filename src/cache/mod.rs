//! Layer 4: how cache keys are made (SPEC C4, DESIGN section 4).
//!
//! Keys are digests under our own salt, so records of other builders are clean misses. Looking keys up and running
//! what misses is `solver`'s business; where records live is `store`'s.

pub mod key;
