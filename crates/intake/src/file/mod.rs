//! Directories of Kubernetes YAML.
