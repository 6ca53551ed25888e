//! `sheetbend lab apply` and `lab delete`: validated whole, then swapped in by one rename.

use std::process::ExitCode;

use super::command::{Change, Delete};
use super::failure::{Failure, MANIFEST, NO_OBJECT, Outcome};
use super::launch::LabRequest;
use super::state::{self, LabDir};
use super::up::say;
use super::wire::{Request, ask};
use super::{objects, supervisor};

/// Adds and changes objects.
pub(crate) fn apply(args: &Change) -> Outcome<ExitCode> {
    let (dir, _) = state::find(args.which.name.as_deref())?;
    let new = objects::read(&args.files)?;
    let names: Vec<String> = new.objects.keys().map(|id| format!("{id} applied")).collect();
    change(&dir, &new, None, |old| Ok(objects::merged(old, &new)))?;
    names.iter().for_each(|line| say(line));
    Ok(ExitCode::SUCCESS)
}

/// Deletes objects.
pub(crate) fn delete(args: &Delete) -> Outcome<ExitCode> {
    let (dir, _) = state::find(args.change.which.name.as_deref())?;
    let named = objects::read(&args.change.files)?;
    change(&dir, &named, args.grace_period, |old| {
        let (left, absent) = objects::without(old, &named);
        if absent.is_empty() {
            return Ok(left);
        }
        let absent: Vec<String> = absent.iter().map(ToString::to_string).collect();
        Err(Failure::new(NO_OBJECT, format!("the lab has no {}; nothing was deleted", absent.join(", no "))))
    })?;
    named.objects.keys().for_each(|id| say(&format!("{id} deleted")));
    Ok(ExitCode::SUCCESS)
}

fn change(
    dir: &LabDir,
    named: &objects::Manifests,
    grace_period: Option<u64>,
    edit: impl FnOnce(objects::Manifests) -> Outcome<objects::Manifests>,
) -> Outcome {
    for remark in objects::remarks(named, &[]) {
        eprintln!("note: {remark}");
    }
    let _one_at_a_time = dir.change_lock()?;
    let request: LabRequest = serde_json::from_slice(&std::fs::read(dir.join("request.json"))?)?;
    let changed = edit(objects::stored(dir)?)?;
    // The same check that the supervisor makes, while nothing has changed yet.
    let cluster = objects::build(&changed, dir, &request)?;
    supervisor::check(&cluster, &request).map_err(|error| Failure { code: MANIFEST, error })?;
    for condition in cluster.conditions() {
        eprintln!("note: {condition}");
    }
    objects::store(dir, &changed)?;
    ask(dir, &Request::Reload { grace_period }, |text| eprintln!("{text}"))?;
    Ok(())
}
