//! The properties of the fuzz targets, on stable: a fixed number of inputs, made from the targets' own seeds. Longer:
//! `FUZZ_CASES=1000000 ./tests/run.sh fuzzed`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::anything::mutated;
use super::properties;

fn seeds(folders: &[&str]) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = folders
        .iter()
        .flat_map(|folder| fs::read_dir(root.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// How many cases: `usual`, or what the environment says for a long run.
pub fn cases(usual: u64) -> u64 {
    std::env::var("FUZZ_CASES").map_or(usual, |text| text.parse().unwrap())
}

/// Holds a property against the seeds as they are, and against `cases` of what becomes of them.
fn hold(property: fn(&[u8]), folders: &[&str], usual: u64) {
    let cases = cases(usual);
    let seeds = seeds(folders);
    let checked = |input: &[u8], from: &str| {
        catch_unwind(AssertUnwindSafe(|| property(input)))
            .unwrap_or_else(|_| panic!("{from}: {}", input.escape_ascii()));
    };
    for seed in &seeds {
        checked(seed, "a seed as it is");
    }
    for case in 0..cases {
        let mut random = StdRng::seed_from_u64(case);
        let seed = &seeds[random.random_range(0..seeds.len())];
        checked(&mutated(seed, &mut random), &format!("case {case}"));
    }
}

#[test]
fn the_form_agrees_with_a_naive_reader() {
    hold(properties::form, &["tests/vectors"], 20_000);
}

#[test]
fn the_signing_content_is_what_the_protocol_says() {
    hold(properties::signing_content, &["tests/vectors"], 10_000);
}

#[test]
fn whatever_fields_are_signed_an_event_says_what_they_say() {
    hold(properties::fields, &["tests/vectors"], 1_500);
}

#[test]
fn whatever_is_given_for_a_key_a_private_key_is_none() {
    hold(properties::keys, &["fuzz/seeds/keys"], 3_000);
}

#[test]
fn whatever_was_captured_explain_answers_within_bounds_and_announces_nothing_unverified() {
    hold(properties::explain, &["tests/vectors", "fuzz/seeds/explain"], 250);
}
