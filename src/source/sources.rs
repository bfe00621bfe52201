//! The kinds of sources by scheme.

use super::blob::BlobSource;
use super::git::{GitOptions, GitSource};
use super::http::HttpSource;
use super::kind::Source;
use crate::base::Events;
use crate::registry::Client;
use crate::store::Store;

/// One of each kind. Cheap to clone; one serves a whole invocation.
#[derive(Clone)]
pub struct Sources {
    http: HttpSource,
    git: GitSource,
    blob: BlobSource,
}

impl Sources {
    /// All kinds over a store and an HTTP client.
    #[must_use]
    pub fn new(store: &Store, client: &Client, events: &Events, git: GitOptions) -> Self {
        Self {
            http: HttpSource::new(store.clone(), client.clone(), events.clone()),
            git: GitSource::new(store.clone(), events.clone(), git),
            blob: BlobSource::new(store.clone(), client.clone(), events.clone()),
        }
    }

    /// The kind that identifiers of this scheme belong to; `None` for images, directories and what is unknown.
    #[must_use]
    pub fn of(&self, scheme: &str) -> Option<&dyn Source> {
        match scheme {
            "http" | "https" => Some(&self.http),
            "git" => Some(&self.git),
            "docker-image+blob" | "oci-layout+blob" => Some(&self.blob),
            _ => None,
        }
    }
}
