//! Layer 1: the Dockerfile language as text and tree. Pure: no I/O, no environment.
//!
//! [`parser::parse`] turns bytes into a tree plus diagnostics and never fails as a whole; [`expand`] substitutes
//! variables in a word; [`stages`] splits a file at its FROMs; [`lint`] gives the build checks that
//! need nothing but the tree; [`excerpt`] shows the place of an error. What an instruction *does* is the front
//! end's business.

pub mod ast;
pub mod diagnostic;
pub mod excerpt;
pub mod expand;
pub mod gitref;
pub mod ignore;
pub mod lint;
pub mod matcher;
pub mod parser;
pub mod pattern;
pub mod print;
pub mod stages;
mod text;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use expand::{ExpandError, Expander, Expansion, Mode};
pub use parser::{Parsed, parse, parse_trigger};
pub use stages::{Stage, Stages};
