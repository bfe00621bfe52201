//! The client against Debian's `docker-registry`.
