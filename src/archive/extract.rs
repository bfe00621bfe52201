//! Putting archive entries on disk without ever leaving the target.
