//! Block-wise compression.
