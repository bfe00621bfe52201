//! Words of the language: the bridge to variable expansion and suggestions.

/// The option that `word` was probably meant to be.
pub(super) fn closest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    options
        .into_iter()
        .map(|option| (strsim::levenshtein(&lower, &option.to_lowercase()), option))
        .filter(|(distance, option)| *distance > 0 && *distance <= 1.max(option.len().min(word.len()) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, option)| option)
}
