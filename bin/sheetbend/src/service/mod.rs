//! `sheetbend service`: what becomes of Services on a node, and why an endpoint is out.

mod print;
pub(crate) mod wire;

use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;
use sheetbend_model::types::ObjectKey;
use sheetbend_shell::exit;

use crate::ask::{Answer, Failure, Whom, ask};
use wire::{Detail, List};

/// `sheetbend service`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Services with their addresses, ports, ready endpoints and live connections of this node.
    #[command(after_help = "Examples:
  sheetbend service list -n shop
  sheetbend service list --lab demo -o wide
  sheetbend service list -o json | jq '.nodes[].services[] | select(.ready == 0) | .name'")]
    List(ListArgs),
    /// A Service's frontends and endpoints, and why an endpoint gets no new connections.
    #[command(after_help = "Examples:
  sheetbend service show shop/web
  sheetbend service show kubernetes            in the namespace default
  sheetbend service show shop/web --lab demo   as each node of a lab sees it")]
    Show(ShowArgs),
}

/// Whom is asked, and how the answer looks.
#[derive(Debug, clap::Args)]
pub(crate) struct From {
    #[command(flatten)]
    whom: Whom,
    /// Form of the answer.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table.
    Text,
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// `sheetbend service list`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only Services of this namespace; without it, of all.
    #[arg(short, long, value_name = "NAMESPACE", value_parser = name)]
    namespace: Option<String>,
    #[command(flatten)]
    from: From,
}

/// `sheetbend service show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// NAMESPACE/NAME; without a namespace, `default`.
    #[arg(value_name = "SERVICE", value_parser = key)]
    service: ObjectKey,
    #[command(flatten)]
    from: From,
}

fn name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if !text.is_empty() && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} cannot be a name; names are of a-z, 0-9, - and ."))
    }
}

fn key(text: &str) -> Result<ObjectKey, String> {
    let (namespace, own) = text.split_once('/').unwrap_or(("default", text));
    Ok(ObjectKey::new(name(namespace)?, name(own)?))
}

/// What is printed as JSON and YAML.
#[derive(Serialize)]
struct Nodes<'a, T> {
    nodes: &'a [T],
}

/// Runs a subcommand.
pub(crate) fn run(command: &Command) -> ExitCode {
    let done = match command {
        Command::List(args) => list(args).map_err(|failure| ("list", failure)),
        Command::Show(args) => show(args).map_err(|failure| ("show", failure)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((name, (code, text))) => {
            eprintln!("sheetbend service {name}: {text}");
            ExitCode::from(code)
        }
    }
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let query = args.namespace.as_ref().map(|name| format!("?namespace={name}")).unwrap_or_default();
    let answers = ask::<List>(&args.from.whom, &format!("/services{query}"))?;
    let lists: Vec<List> = answers.into_iter().filter_map(found).collect();
    written(args.from.output, &lists, |out, wide| print::list(out, &lists, wide))
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let ObjectKey { namespace, name } = &args.service;
    let answers =
        ask::<Detail>(&args.from.whom, &format!("/services/show?namespace={namespace}&name={name}"))?;
    let mut near: Vec<String> = answers
        .iter()
        .flat_map(|answer| match answer {
            Answer::Unknown(near) => near.clone(),
            Answer::Found(_) | Answer::Error(_) => Vec::new(),
        })
        .collect();
    near.dedup();
    let details: Vec<Detail> = answers.into_iter().filter_map(found).collect();
    if details.is_empty() {
        near.sort();
        near.dedup();
        let hint = if near.is_empty() {
            "; `sheetbend service list` names all".to_owned()
        } else {
            format!("; did you mean {}?", near.join(", "))
        };
        return Err((exit::NO_OBJECT, format!("there is no Service {}{hint}", args.service)));
    }
    written(args.from.output, &details, |out, wide| print::show(out, &details, wide))
}

fn found<T>(answer: Answer<T>) -> Option<T> {
    match answer {
        Answer::Found(found) => Some(found),
        Answer::Unknown(_) | Answer::Error(_) => None,
    }
}

fn written<T: Serialize>(
    output: Output,
    nodes: &[T],
    tables: impl FnOnce(&mut dyn std::io::Write, bool) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let own_fault = |error: &dyn std::fmt::Display| (exit::INTERNAL, error.to_string());
    let printed = match output {
        Output::Text | Output::Wide => tables(&mut out, output == Output::Wide),
        Output::Json => {
            let text = serde_json::to_string_pretty(&Nodes { nodes }).map_err(|error| own_fault(&error))?;
            std::io::Write::write_all(&mut out, format!("{text}\n").as_bytes())
        }
        Output::Yaml => {
            let text = serde_saphyr::to_string(&Nodes { nodes }).map_err(|error| own_fault(&error))?;
            std::io::Write::write_all(&mut out, text.as_bytes())
        }
    };
    match printed {
        // The reader of our output has gone.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(|error| own_fault(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_namespace_is_in_default() {
        assert_eq!(key("web"), Ok(ObjectKey::new("default", "web")));
        assert_eq!(key("shop/web"), Ok(ObjectKey::new("shop", "web")));
        for wrong in ["", "shop/", "/web", "shop/web/0", "Web", "web&name=x", "web x"] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
    }
}
