//! "Did you mean": the known word that is nearest to a wrong one.

/// Below this two words have little in common.
const SIMILARITY_MIN: f64 = 0.7;

/// The word of `known` that was probably meant.
pub(super) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wrong.to_lowercase().replace(['_', '-'], "");
    let mut best = (SIMILARITY_MIN, None);
    for word in known {
        let similarity = strsim::normalized_damerau_levenshtein(&lower, &word.to_lowercase());
        if similarity > best.0 {
            best = (similarity, Some(word));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_of_the_finger_and_of_the_style_find_their_word() {
        let known = ["image", "imagePullPolicy", "lifecycle", "env", "volumeMounts"];
        for (wrong, word) in [
            ("lifecycl", Some("lifecycle")),
            ("imagepullpolicy", Some("imagePullPolicy")),
            ("image_pull_policy", Some("imagePullPolicy")),
            ("volumeMount", Some("volumeMounts")),
            ("imgae", Some("image")),
            ("frobnicate", None),
        ] {
            assert_eq!(nearest(wrong, known), word, "{wrong}");
        }
    }
}
