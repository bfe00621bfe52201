//! Layer 1: the image formats as data: references, platforms, media types, manifests, image configs.
//!
//! Pure: no I/O. The structs are ours rather than `oci-spec`'s because both media type families, Docker's extra
//! config fields and unknown keys must survive a round trip byte for byte (SPEC C6.06, C6.11).

pub mod config;
pub mod layout;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;

pub use config::{HealthConfig, History, ImageConfig, RootFs, RunConfig};
pub use manifest::{Descriptor, Index, Manifest};
pub use platform::{Platform, PlatformError};
pub use reference::Reference;
