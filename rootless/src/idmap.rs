//! Subordinate id ranges and the maps of user namespaces.

use serde::{Deserialize, Serialize};

/// `count` consecutive ids from `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id.
    pub start: u32,
    /// How many.
    pub count: u32,
}

/// The ids that exist in the current user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// User ids, as seen inside.
    pub uids: Vec<IdRange>,
    /// Group ids, as seen inside.
    pub gids: Vec<IdRange>,
}
