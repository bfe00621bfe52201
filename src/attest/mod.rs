//! Layer 4: attestations about what was built (SPEC C8): provenance and lists of software.
//!
//! [`options`] is what a user asks for, [`capture`] what a build learnt about its inputs, [`predicate`] says both in the
//! words of SLSA, [`statement`] binds a predicate to the images or files it is about, [`manifest`] makes of statements
//! what stands beside an image in an index, [`recipe`] reads provenance backwards, [`merge`] makes one list of several, [`signature`] and [`git`] verify what others signed, images and repositories, [`sigstore`] by certificates. Plain data but for [`sbom`], which reads a tree; nothing here talks to anybody.

pub mod capture;
pub mod git;
pub mod manifest;
pub mod merge;
pub mod options;
pub mod predicate;
pub mod recipe;
pub mod sbom;
pub mod signature;
pub mod sigstore;
pub mod statement;

pub use capture::{Capture, Material, StepUsage, masked};
pub use options::{Asked, ProvenanceOptions, SbomOptions};
pub use predicate::Provenance;
pub use recipe::Recipe;
pub use statement::{Attestation, Predicate, Statement, Subject};
