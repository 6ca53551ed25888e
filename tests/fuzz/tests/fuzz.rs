//! Every target reads its corpus, and then what is made of it by mutations, for a time: `cargo xtask fuzz`.
#![allow(missing_docs, clippy::print_stdout, reason = "a test target, which prints its seed and what failed")]

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Arguments, Trial};
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use sheetbend_fuzz::{TARGETS, Target};
use sheetbend_testkit::mutate::mutated;

/// Inputs of one runner; after it the clock is looked at.
const BATCH: u32 = 128;
/// Longer than this is a hang: no input has more than some ten kilobytes.
const SLOWEST: Duration = Duration::from_secs(5);

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for target in TARGETS {
        trials.push(trial(target, "corpus", corpus_is_read));
        trials.push(trial(target, "mutations", mutations_are_read));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(target: &'static Target, what: &str, body: fn(&Target) -> Result<()>) -> Trial {
    let run = move || body(target).map_err(|error| format!("{error:#}").into());
    Trial::test(format!("{}::{what}", target.name), run)
}

fn corpus(target: &Target) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut found = Vec::new();
    for (number, input) in target.made().into_iter().enumerate() {
        found.push((format!("made {number}").into(), input));
    }
    let Ok(entries) = fs::read_dir(&directory) else {
        ensure!(!found.is_empty(), "{} is not there, and nothing is made", directory.display());
        return Ok(found);
    };
    for entry in entries {
        let path = entry?.path();
        found.push((path.clone(), fs::read(&path)?));
    }
    found.sort();
    ensure!(!found.is_empty(), "{} is empty", directory.display());
    Ok(found)
}

fn corpus_is_read(target: &Target) -> Result<()> {
    for (path, input) in corpus(target)? {
        timed(target, &input).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn timed(target: &Target, input: &[u8]) -> Result<()> {
    let start = Instant::now();
    target.run(input);
    let took = start.elapsed();
    ensure!(took < SLOWEST, "{} bytes took {took:?}", input.len());
    Ok(())
}

fn mutations_are_read(target: &Target) -> Result<()> {
    let seed = match std::env::var("SHEETBEND_SEED") {
        Ok(text) => text.parse()?,
        Err(_) => RandomState::new().hash_one(target.name),
    };
    let seconds = std::env::var("SHEETBEND_FUZZ_SECONDS").map_or(Ok(1), |text| text.parse())?;
    let seeds: Vec<Vec<u8>> = corpus(target)?.into_iter().map(|(_, input)| input).collect();
    let inputs = mutated(seeds, target.tokens);
    let (end, mut batches) = (Instant::now() + Duration::from_secs(seconds), 0);
    while Instant::now() < end {
        let mut runner = TestRunner::new(Config {
            cases: BATCH,
            rng_seed: RngSeed::Fixed(seed.wrapping_add(batches)),
            failure_persistence: None,
            max_shrink_iters: 10_000,
            ..Config::default()
        });
        let outcome = runner.run(&inputs, |input| {
            timed(target, &input)
                .map_err(|error| proptest::test_runner::TestCaseError::fail(error.to_string()))
        });
        if let Err(error) = outcome {
            return Err(failure(target, seed, error)?);
        }
        batches += 1;
    }
    println!("{}: {} inputs, SHEETBEND_SEED={seed}", target.name, batches * u64::from(BATCH));
    Ok(())
}

/// Writes the input down, so that it can go into the corpus.
fn failure(target: &Target, seed: u64, error: TestError<Vec<u8>>) -> Result<anyhow::Error> {
    let TestError::Fail(why, input) = error else { return Ok(anyhow::anyhow!("{error}")) };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz").join(target.name);
    fs::create_dir_all(&directory)?;
    let path = directory.join(format!("{seed:016x}"));
    fs::write(&path, &input)?;
    Ok(anyhow::anyhow!(
        "{why}\nSHEETBEND_SEED={seed}, {}: {:?}",
        path.display(),
        String::from_utf8_lossy(&input)
    ))
}
