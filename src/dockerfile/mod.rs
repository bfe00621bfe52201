//! Layer 1: the Dockerfile language as text and tree. Pure: no I/O, no environment.
//!
//! [`parser::parse`] turns bytes into a tree or diagnostics with positions; [`expand`] substitutes variables in a
//! word; [`excerpt`] shows the place of an error; [`ignore`] and [`pattern`] are `.dockerignore`. What an
//! instruction *does* is the front end's business.

pub mod ast;
pub mod diagnostic;
pub mod excerpt;
pub mod expand;
mod glob;
pub mod ignore;
pub mod matcher;
pub mod parser;
pub mod pattern;
mod suggest;
mod text;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use expand::{ExpandError, Expansion, Mode};
pub use parser::{Parsed, parse, parse_trigger};
pub use suggest::closest;
