//! Tests of the store as a whole.

mod collect;
mod crash;
mod layers;
mod whole;
