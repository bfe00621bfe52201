//! The build checks (SPEC A10).

mod rule;
pub use rule::Rule;
