//! Environment and configuration together: what the agent is asked.

use serde_json::Value;
use sheetbend_cni_wire::{Add, Check, CniError, Gc, Request, code};

use crate::agent::Place;
use crate::arguments::Arguments;
use crate::config::Config;
use crate::environment::{Command, Environment};
use crate::version::Version;

/// A request, checked as far as it can be without the agent.
#[derive(Debug)]
pub(crate) struct Call {
    /// The version to answer in.
    pub(crate) version: Version,
    pub(crate) request: Request,
    pub(crate) place: Place,
    /// `dns` of the configuration, which the result repeats.
    pub(crate) dns: Value,
}

impl Call {
    /// # Errors
    /// With the version to answer in.
    pub(crate) fn read(
        variable: impl Fn(&str) -> Option<String>,
        stdin: &[u8],
    ) -> Result<Self, (Version, CniError)> {
        let config = Config::parse(stdin);
        let version = config.as_ref().map_or(Version::NEWEST, |config| config.version);
        // A broken environment is told first: nothing else of the request is to be trusted then.
        let environment = Environment::read(variable).map_err(|error| (version, error))?;
        let config = config?;
        let dns = config.dns();
        let read = || Ok((config.place()?, request(&environment, &config)?));
        let (place, request) = read().map_err(|error| (version, error))?;
        Ok(Self { version, request, place, dns })
    }
}

fn request(environment: &Environment, config: &Config) -> Result<Request, CniError> {
    let attachment = environment.attachment.clone();
    match environment.command {
        Command::Add => {
            config.check_keys()?;
            config.check_capabilities()?;
            if config.has_prev_result() {
                let details = "sheetbend-cni makes the interface; put it first in the list of plugins";
                return Err(CniError::new(code::INVALID_CONFIG, "ADD came with a prevResult", details));
            }
            let Arguments { pod, pod_uid } = Arguments::parse(&environment.args)?;
            let requested = config.requested()?;
            let bandwidth = config.bandwidth()?;
            let netns = environment.netns.clone();
            Ok(Request::Add(Add { attachment, netns, pod, pod_uid, requested, bandwidth }))
        }
        // Whatever is wrong with the configuration by now, what ADD made must go.
        Command::Del => Ok(Request::Del(attachment)),
        Command::Check => {
            needs(config.version, Version::V0_4_0, "CHECK")?;
            config.check_keys()?;
            let (addresses, mac) = config.prev_result(&attachment.ifname)?;
            Ok(Request::Check(Check { attachment, netns: environment.netns.clone(), addresses, mac }))
        }
        Command::Gc => {
            needs(config.version, Version::V1_1_0, "GC")?;
            Ok(Request::Gc(Gc { valid: config.valid_attachments()? }))
        }
        Command::Status => {
            needs(config.version, Version::V1_1_0, "STATUS")?;
            config.check_keys()?;
            Ok(Request::Status)
        }
    }
}

fn needs(version: Version, first: Version, command: &str) -> Result<(), CniError> {
    if version >= first {
        return Ok(());
    }
    let msg = format!("{command} does not exist in cniVersion {}", version.text());
    Err(CniError::new(code::INCOMPATIBLE_VERSION, msg, format!("it came with {}", first.text())))
}
