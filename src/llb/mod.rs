//! Layer 2: LLB, the build graph, wire-compatible with BuildKit's `pb` package (SPEC C1).
//!
//! Plain data: equal input gives equal bytes. [`op`] has the operations, [`definition`] the graph and how it is
//! built and read back, [`dot`] draws one, [`json`] shows one as BuildKit's JSON, [`steps`] as provenance tells it, [`host`] what a
//! front end may ask of the builder, [`gateway`] what one says that is a program of its own, [`containers`] what it says
//! of containers, [`policy`] which sources it may have, [`strict`] what of a
//! definition from elsewhere has no meaning, [`spelling`] how values are written by people. Executing a graph is `solver`'s business.

pub mod containers;
pub mod definition;
pub mod dot;
#[cfg(test)]
pub(crate) mod dump;
pub mod gateway;
pub mod host;
pub mod json;
pub mod op;
pub mod policy;
pub mod spelling;
pub mod steps;
pub mod strict;

pub use definition::{Builder, Definition, DefinitionError, Edge, Graph, Vertex};
pub use host::{FrontendHost, HostError, InContext, ResolveMode, ResolvedImage};
pub use op::Op;
pub use policy::{Pin, PolicyError, PolicySyntax, SourcePolicy, with_sources};
pub use steps::Steps;
