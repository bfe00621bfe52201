//! "Did you mean": the closest of some known words (SPEC G.06).

/// The option nearest to `word`, ignoring case, if it is near enough to be a typing error. `None` also if `word`
/// is one of the options.
#[must_use]
pub fn closest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    // A third of a short word is already another word.
    let limit = match word.chars().count() {
        0 => return None,
        1..=4 => 1,
        5..=7 => 2,
        _ => 3,
    };
    let mut best = None;
    for option in options {
        let distance = strsim::osa_distance(&word, &option.to_lowercase());
        if distance == 0 {
            return None;
        }
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option)
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn typing_errors_are_recognised_g06() {
        let names = ["COPY", "ADD", "RUN", "FROM", "ENTRYPOINT"];
        assert_eq!(closest("FORM", names), Some("FROM"));
        assert_eq!(closest("rnu", names), Some("RUN"));
        assert_eq!(closest("ENTRYPONT", names), Some("ENTRYPOINT"));
        assert_eq!(closest("INSTALL", names), None);
        assert_eq!(closest("", names), None);
    }

    #[test]
    fn a_known_word_needs_no_suggestion() {
        assert_eq!(closest("run", ["RUN", "RUM"]), None);
    }
}
