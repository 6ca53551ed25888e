//! What every daemon begins and ends with: its configuration, its log and its exit code.

use std::process::ExitCode;

use sheetbend_shell::config::{Config, ConfigErrors};
use sheetbend_shell::{exit, log};
use tracing::error;

/// Runs `serve` under a configuration.
pub(crate) fn run(
    config: Result<Config, ConfigErrors>,
    serve: impl FnOnce(&Config) -> anyhow::Result<()>,
) -> ExitCode {
    let config = match configured(config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    match serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::from(exit::INTERNAL)
        }
    }
}

/// A configuration with its log begun; what is wrong with it was said where there is an exit code.
pub(crate) fn configured(config: Result<Config, ConfigErrors>) -> Result<Config, ExitCode> {
    let config = config.map_err(|errors| {
        eprintln!("{errors}");
        ExitCode::from(exit::BAD_INPUT)
    })?;
    log::init(&config.log_level, config.log_format);
    Ok(config)
}
