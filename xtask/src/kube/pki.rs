//! The cluster's certificates and the kubeconfig files that carry them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// A key and what vouches for it, as PEM.
pub(super) struct Pair {
    /// The certificate (X.509).
    pub(super) certificate: String,
    /// The private key (PKCS #8).
    pub(super) key: String,
}

/// The certificate authority of one cluster.
pub(super) struct Authority {
    /// Its own certificate and key.
    pub(super) pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Draws a new one; keys are ECDSA P-256.
    pub(super) fn new() -> Result<Self> {
        let key = KeyPair::generate().context("cannot draw a key")?;
        let mut params = params("sheetbend-test-cluster", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).context("cannot sign the CA's certificate")?;
        let pair = Pair { certificate: certificate.pem(), key: key.serialize_pem() };
        Ok(Self { pair, issuer: Issuer::new(params, key) })
    }

    /// Signs a certificate for servers and clients alike.
    ///
    /// `user` and `group` become CN and O, which Kubernetes reads as the user's name and group.
    pub(super) fn sign(
        &self,
        user: &str,
        group: Option<&str>,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> Result<Pair> {
        let key = KeyPair::generate().context("cannot draw a key")?;
        let mut params = params(user, group);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        for name in names {
            let name = (*name).try_into().with_context(|| format!("{name} is no host name"))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        let certificate =
            params.signed_by(&key, &self.issuer).with_context(|| format!("cannot sign for {user}"))?;
        Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A kubeconfig with everything inside, for one user.
    pub(super) fn kubeconfig(&self, url: &str, user: &str, group: Option<&str>) -> Result<String> {
        let pair = self.sign(user, group, &[], &[])?;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let value = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "cluster",
            "clusters": [{"name": "cluster", "cluster": {
                "server": url, "certificate-authority-data": encode(&self.pair.certificate)}}],
            "users": [{"name": user, "user": {
                "client-certificate-data": encode(&pair.certificate), "client-key-data": encode(&pair.key)}}],
            "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": user}}],
        });
        serde_json::to_string_pretty(&value).context("cannot write a kubeconfig")
    }
}

/// A key pair for service account tokens: private and public, as PEM.
pub(super) fn service_account_keys() -> Result<(String, String)> {
    let key = KeyPair::generate().context("cannot draw a key")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn params(user: &str, group: Option<&str>) -> CertificateParams {
    let mut name = DistinguishedName::new();
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, user);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    // Wide limits: a virtual machine's clock may be anywhere, and the cluster lives for hours.
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    params
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn a_kubeconfig_carries_its_certificates() {
        let authority = Authority::new().unwrap();
        let text = authority.kubeconfig("https://172.31.0.2:6443", "admin", Some("system:masters")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let data = value["users"][0]["user"]["client-key-data"].as_str().unwrap();
        let key = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        assert!(String::from_utf8(key).unwrap().contains("PRIVATE KEY"));
        let addresses = ["fd00::1".parse().unwrap()];
        assert!(authority.sign("x", None, &["a.b"], &addresses).is_ok());
        assert!(authority.sign("x", None, &["ä"], &[]).is_err(), "an IA5 string holds ASCII only");
    }
}
