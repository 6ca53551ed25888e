//! The command line of `sheetbend dns`: every flag is a key of the one configuration.

use std::path::PathBuf;

use sheetbend_shell::config::{Config, ConfigErrors, Sources};

/// `sheetbend dns`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every key of the configuration file may also be an environment variable (dns.zone is \
SHEETBEND_DNS_ZONE) or --set KEY=VALUE; flags win over the environment, the environment over the file.

Two processes on the same addresses share the queries; when one ends the other answers all."
)]
pub(crate) struct Args {
    /// Configuration file; /etc/sheetbend/config.yaml is read when it exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of Kubernetes YAML that stands for the API server (intake.objects).
    #[arg(long, value_name = "DIR")]
    objects: Option<String>,
    /// Credentials for the API server (intake.kubeconfig).
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// Addresses to answer on, joined by commas (dns.listen).
    #[arg(long, value_name = "ADDRESSES")]
    listen: Option<String>,
    /// The cluster's DNS zone (dns.zone).
    #[arg(long, value_name = "DOMAIN")]
    zone: Option<String>,
    /// Servers for the names of other zones, joined by commas (dns.upstreams).
    #[arg(long, value_name = "SERVERS")]
    upstreams: Option<String>,
    /// Any key of the configuration; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl Args {
    /// The whole configuration: file, environment, flags.
    pub(super) fn config(&self) -> Result<Config, ConfigErrors> {
        let sources = Sources::usual(self.config.as_deref(), &self.settings)
            .flag("intake.objects", self.objects.as_deref())
            .flag("intake.kubeconfig", self.kubeconfig.as_deref())
            .flag("dns.listen", self.listen.as_deref())
            .flag("dns.zone", self.zone.as_deref())
            .flag("dns.upstreams", self.upstreams.as_deref());
        Config::load(sources)
    }
}
