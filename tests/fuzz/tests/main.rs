//! Many seeds of each target, or one: `PODBUS_SEEDS` is how many to try, `PODBUS_SEED` replays one and shows its input.

use std::panic::catch_unwind;

use podbus_fuzz::{Target, all};

/// Seeds that are tried of each target when nobody says how many.
const SEEDS: u64 = 300;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Feeds the target's inputs; a test's name has that of its target in it, by which one is chosen. What a reader panicked with is printed before this names the seed.
fn feed(name: &str) {
    let target: Target = all().into_iter().find(|target| target.name == name).expect("a target of this name");
    let fed = |seed| {
        let fed = catch_unwind(|| target.feed(seed));
        fed.unwrap_or_else(|_| panic!("{name} broke at seed {seed}; replay: `make fuzz TARGET={name} SEED={seed}`"))
    };
    if let Some(seed) = number("PODBUS_SEED") {
        println!("{name}, seed {seed}: b\"{}\"", target.input(seed).escape_ascii());
        println!("{}", if fed(seed) { "taken" } else { "refused" });
        return;
    }
    let seeds = number("PODBUS_SEEDS").unwrap_or(SEEDS);
    let taken = (0..seeds).filter(|seed| fed(*seed)).count() as u64;
    // Else the samples are no samples, or nothing is ever wrong with them.
    assert!(taken > seeds / 20 && taken < seeds, "{name} took {taken} of {seeds} inputs");
}

#[test]
fn a_seed_is_the_same_input_each_time() {
    for (first, second) in all().iter().zip(&all()) {
        let (first, second): (Vec<_>, Vec<_>) = (0..50).map(|seed| (first.input(seed), second.input(seed))).unzip();
        assert_eq!(first, second);
    }
}

#[test]
fn any_archive_is_read_or_refused() {
    feed("archive");
}

#[test]
fn no_layer_writes_beside_its_directory() {
    feed("layer");
}

#[test]
fn any_document_of_an_image_is_read_or_refused() {
    feed("document");
}

#[test]
fn any_config_of_an_image_is_read_or_refused() {
    feed("config");
}

#[test]
fn a_reference_reads_as_it_is_written() {
    feed("reference");
}

#[test]
fn any_challenge_of_a_registry_is_read() {
    feed("challenge");
}

#[test]
fn a_spdy_frame_that_was_read_is_written_as_it_was() {
    feed("spdy");
}

#[test]
fn the_tail_of_any_log_is_its_end() {
    feed("log");
}

#[test]
fn a_message_of_the_shim_is_written_as_it_was_read() {
    feed("message");
}

#[test]
fn any_plan_of_the_shim_is_read_within_its_bytes() {
    feed("plan");
}

#[test]
fn a_slot_of_a_record_is_written_as_it_was_read() {
    feed("slot");
}

#[test]
fn any_manifest_is_read_or_refused_with_a_reason() {
    feed("manifest");
}
