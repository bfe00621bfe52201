//! Images where they are, in registries and OCI layouts, without a store between: `imagetools` (SPEC B8.01, B8.02).
//!
//! Start reading at [`RemoteImages`]: [`RemoteImages::look`] reads, [`RemoteImages::combine`] makes an index of images
//! and [`RemoteImages::publish`] puts it, with everything below it, under names. [`RemoteImages::warm`] fills a directory that
//! builds are served from.

mod combine;
mod copy;
mod look;
mod place;
mod warm;

pub use combine::{Combination, Combined, Part};
pub use look::{Details, Looked, Origin};
pub use place::Place;

use crate::base::Events;
use crate::registry::Client;

/// Images of registries and layouts. Cheap to clone.
#[derive(Clone)]
pub struct RemoteImages {
    client: Client,
    events: Events,
}

impl RemoteImages {
    /// Over a registry client.
    #[must_use]
    pub fn new(client: Client, events: Events) -> Self {
        Self { client, events }
    }
}
