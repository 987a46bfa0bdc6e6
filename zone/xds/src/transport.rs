//! Mutual TLS between proxies: what a proxy shows, whom it trusts, and the contexts on both sides of a connection.
//!
//! Trust is kept apart by domain: an authority of one trust domain vouches for the ids of that domain only. Certificates
//! and trust come as secrets, so that a rotation touches no listener and no cluster.
use crate::{
    Identity,
    envoy::{ads, any, exact, extension, inline, yes},
    names,
};
use envoy_types::pb::envoy::{
    config::core::v3::{TransportSocket, transport_socket::ConfigType},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, Secret,
        SpiffeCertValidatorConfig, SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
        secret,
        spiffe_cert_validator_config::TrustDomain,
        subject_alt_name_matcher::SanType,
        tls_parameters::TlsProtocol,
    },
};
use shared_policy::kinds::tls::{Parameters, Version};
use std::collections::BTreeMap;
use zone_index::DestinationTls;

/// Proxies of the mesh know each other by this protocol name.
pub(crate) const ALPN: &str = "kuma";

/// The means of a proxy that has an identity and somebody to trust.
pub(crate) struct Transport<'a> {
    mesh: &'a str,
    parameters: &'a Parameters,
}

impl<'a> Transport<'a> {
    pub fn new(mesh: &'a str, parameters: &'a Parameters) -> Self {
        Transport { mesh, parameters }
    }

    /// For connections that come in: the caller must show a certificate that is trusted.
    pub fn downstream(&self) -> TransportSocket {
        let trust = ValidationContextType::ValidationContextSdsSecretConfig(secret_config(
            names::TRUST_BUNDLE.to_owned(),
        ));
        let context = DownstreamTlsContext {
            common_tls_context: Some(self.common(trust, false)),
            require_client_certificate: yes(),
            ..DownstreamTlsContext::default()
        };
        tls_socket(any(&context))
    }

    /// For connections to a destination: only its own ids may answer.
    pub fn upstream(&self, destination: &DestinationTls) -> TransportSocket {
        let san = |id: &String| SubjectAltNameMatcher {
            san_type: SanType::Uri.into(),
            matcher: Some(exact(id)),
            ..SubjectAltNameMatcher::default()
        };
        let expected = CertificateValidationContext {
            match_typed_subject_alt_names: destination.spiffe_ids.iter().map(san).collect(),
            ..CertificateValidationContext::default()
        };
        let trust = ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(expected),
            validation_context_sds_secret_config: Some(secret_config(names::TRUST_BUNDLE.to_owned())),
            ..CombinedCertificateValidationContext::default()
        });
        let mut common = self.common(trust, true);
        common.alpn_protocols = vec![ALPN.to_owned()];
        let context = UpstreamTlsContext {
            common_tls_context: Some(common),
            sni: destination.sni.clone(),
            ..UpstreamTlsContext::default()
        };
        tls_socket(any(&context))
    }

    fn common(&self, trust: ValidationContextType, client: bool) -> CommonTlsContext {
        CommonTlsContext {
            tls_params: self.parameters(client),
            tls_certificate_sds_secret_configs: vec![secret_config(names::identity_cert(self.mesh))],
            validation_context_type: Some(trust),
            ..CommonTlsContext::default()
        }
    }

    /// Envoy's clients stop at TLS 1.2 unless they are told otherwise.
    fn parameters(&self, client: bool) -> Option<TlsParameters> {
        let version = |version: Version| match version {
            Version::Auto => TlsProtocol::TlsAuto,
            Version::Tls10 => TlsProtocol::TlSv10,
            Version::Tls11 => TlsProtocol::TlSv11,
            Version::Tls12 => TlsProtocol::TlSv12,
            Version::Tls13 => TlsProtocol::TlSv13,
        };
        let Parameters { min, max, ciphers } = self.parameters;
        let auto = if client { TlsProtocol::TlSv13 } else { TlsProtocol::TlsAuto };
        let max = max.filter(|max| *max != Version::Auto).map_or(auto, version);
        let params = TlsParameters {
            tls_minimum_protocol_version: min.map_or(TlsProtocol::TlsAuto, version).into(),
            tls_maximum_protocol_version: max.into(),
            cipher_suites: ciphers.clone(),
            ..TlsParameters::default()
        };
        (params != TlsParameters::default()).then_some(params)
    }
}

/// What the proxy shows.
pub(crate) fn certificate(mesh: &str, identity: &Identity) -> Secret {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(&identity.chain_pem)),
        private_key: Some(inline(&identity.key_pem)),
        ..TlsCertificate::default()
    };
    Secret { name: names::identity_cert(mesh), r#type: Some(secret::Type::TlsCertificate(certificate)) }
}

/// Whom the proxies of a mesh trust.
pub(crate) fn bundle(trust: &BTreeMap<String, Vec<String>>) -> Secret {
    let domains = trust.iter().filter(|(_, authorities)| !authorities.is_empty());
    let bundle = |authorities: &[String]| {
        authorities.iter().map(|pem| format!("{}\n", pem.trim_end())).collect::<String>()
    };
    let trust_domains = domains
        .map(|(name, authorities)| TrustDomain {
            name: name.clone(),
            trust_bundle: Some(inline(&bundle(authorities))),
            ..TrustDomain::default()
        })
        .collect();
    let validator = SpiffeCertValidatorConfig { trust_domains, ..SpiffeCertValidatorConfig::default() };
    let context = CertificateValidationContext {
        custom_validator_config: Some(extension("envoy.tls.cert_validator.spiffe", &validator)),
        ..CertificateValidationContext::default()
    };
    Secret { name: names::TRUST_BUNDLE.to_owned(), r#type: Some(secret::Type::ValidationContext(context)) }
}

fn secret_config(name: String) -> SdsSecretConfig {
    SdsSecretConfig { name, sds_config: Some(ads()) }
}

fn tls_socket(context: envoy_types::pb::google::protobuf::Any) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(context)),
    }
}
