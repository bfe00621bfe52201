//! The little of `RUN --mount` that matters for the shape of a build: where a mount comes from.

/// The `from` value of a mount (SPEC A5.02, G.01). `None` if there is none or the value is not CSV.
#[must_use]
pub fn mount_from(mount: &str) -> Option<String> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(mount.as_bytes());
    let record = reader.records().next()?.ok()?;
    let from = record.iter().find_map(|field| {
        let (key, value) = field.split_once('=')?;
        key.eq_ignore_ascii_case("from").then(|| value.to_owned())
    });
    from.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::mount_from;

    #[test]
    fn the_source_of_a_mount_a5_02() {
        assert_eq!(mount_from("type=bind,from=build,target=/x").as_deref(), Some("build"));
        assert_eq!(mount_from("type=cache,target=/x,FROM=a").as_deref(), Some("a"));
        assert_eq!(mount_from("target=/x,\"from=a,b\"").as_deref(), Some("a,b"));
        assert_eq!(mount_from("type=tmpfs,target=/x"), None);
        assert_eq!(mount_from("from=,target=/x"), None);
        assert_eq!(mount_from("from"), None);
        assert_eq!(mount_from(""), None);
    }
}
