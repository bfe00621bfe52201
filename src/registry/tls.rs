//! TLS set-up: which roots are trusted, for which host, with which client certificate (SPEC E2.03).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{Fault, HostOptions, TrustOptions};
use crate::base::Events;

/// Certificates of one host from a `certs.d` directory.
#[derive(Default)]
pub(super) struct HostFiles {
    roots: Vec<PathBuf>,
    /// Certificate and key.
    identity: Option<(PathBuf, PathBuf)>,
}

impl HostFiles {
    fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.identity.is_none()
    }

    /// Whether there is a client certificate among them.
    pub(super) fn identifies(&self) -> bool {
        self.identity.is_some()
    }
}

/// What the host has of its own: files named for it, then `HOST:PORT/` in the configured directories; `None` if nothing.
pub(super) fn host_files(
    trust: &TrustOptions,
    host: &str,
    own: Option<&HostOptions>,
) -> Result<Option<HostFiles>, Fault> {
    let mut found = HostFiles::default();
    let mut dirs = Vec::new();
    if let Some(own) = own {
        found.roots.extend(own.roots.iter().cloned());
        found.identity.clone_from(&own.identity);
        dirs.extend(own.cert_dirs.iter().cloned());
    }
    // Where there is a `hosts.toml`, that names the files, and names of others mean nothing (SPEC E2.05).
    let by_name = trust.host_dirs.iter().map(|dir| dir.join(host)).filter(|dir| !dir.join("hosts.toml").exists());
    dirs.extend(by_name);
    for dir in dirs {
        // Missing or unreadable directories are the normal case: system-wide ones may be closed to us.
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => found.roots.push(path),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !key.exists() {
                        return Err(Fault::Setting(format!(
                            "missing client key {} for {}",
                            key.display(),
                            path.display()
                        )));
                    }
                    found.identity.get_or_insert((path, key));
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    let cert = path.with_extension("cert");
                    return Err(Fault::Setting(format!(
                        "missing client certificate {} for {}",
                        cert.display(),
                        path.display()
                    )));
                }
                _ => {}
            }
        }
    }
    Ok((!found.is_empty()).then_some(found))
}

/// A configuration that verifies servers against the system's roots, or those named in `trust`, plus the host's own.
/// Reads a few hundred certificates: call it once, off the async threads.
pub(super) fn verified(trust: &TrustOptions, host: Option<&HostFiles>, events: &Events) -> Result<ClientConfig, Fault> {
    let mut roots = load_roots(trust, events)?;
    for path in host.iter().flat_map(|h| &h.roots) {
        add_pem(&mut roots, path)?;
    }
    let builder = builder()?.with_root_certificates(roots);
    match host.and_then(|h| h.identity.as_ref()) {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => with_identity(builder, cert, key),
    }
}

/// A configuration that accepts any certificate: for hosts marked insecure, and for finding out whether a loopback
/// server speaks TLS at all. Who we are is said all the same: there are servers that want to know first.
pub(super) fn unverified(host: Option<&HostFiles>) -> Result<ClientConfig, Fault> {
    let verifier = Arc::new(AnyCertificate(Arc::new(ring::default_provider())));
    let builder = builder()?.dangerous().with_custom_certificate_verifier(verifier);
    match host.and_then(|h| h.identity.as_ref()) {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => with_identity(builder, cert, key),
    }
}

/// A configuration for a docker engine whose directory of certificates (`ca.pem`, `cert.pem`, `key.pem`) is `dir`; without
/// one, a configuration that costs nothing and is not used.
///
/// # Errors
/// When the certificates cannot be used.
pub fn engine_tls(dir: Option<&Path>) -> Result<ClientConfig, Fault> {
    let Some(dir) = dir else { return unverified(None) };
    let mut roots = RootCertStore::empty();
    add_pem(&mut roots, &dir.join("ca.pem"))?;
    let builder = builder()?.with_root_certificates(roots);
    with_identity(builder, &dir.join("cert.pem"), &dir.join("key.pem"))
}

fn with_identity(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
    cert: &Path,
    key: &Path,
) -> Result<ClientConfig, Fault> {
    let fail = |path: &Path, e: &dyn std::fmt::Display| {
        Fault::Setting(format!("cannot use client certificate {}: {e}", path.display()))
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|e| fail(cert, &e))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| fail(key, &e))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| fail(cert, &e))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Fault> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Fault::Setting(format!("cannot set up TLS: {e}")))
}

fn load_roots(trust: &TrustOptions, events: &Events) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    let named = trust.cert_file.is_some() || !trust.cert_dirs.is_empty();
    let mut errors = Vec::new();
    let mut take = |found: rustls_native_certs::CertificateResult| {
        roots.add_parsable_certificates(found.certs);
        errors.extend(found.errors.into_iter().map(|e| e.to_string()));
    };
    if named {
        if let Some(file) = &trust.cert_file {
            take(rustls_native_certs::load_certs_from_paths(Some(file), None));
        }
        for dir in &trust.cert_dirs {
            take(rustls_native_certs::load_certs_from_paths(None, Some(dir)));
        }
    } else {
        take(rustls_native_certs::load_native_certs());
    }
    if roots.is_empty() && named {
        let cause = errors.first().map_or("no certificate found", String::as_str);
        return Err(Fault::Setting(format!("cannot load the trusted certificates: {cause}")));
    }
    if roots.is_empty() {
        events.notice(
            "trust-store",
            "this machine has no certificate store: trusting the roots built into rbuild (Mozilla's list)",
        );
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    Ok(roots)
}

fn add_pem(roots: &mut RootCertStore, path: &Path) -> Result<(), Fault> {
    let fail = |e: &dyn std::fmt::Display| Fault::Setting(format!("cannot use certificate {}: {e}", path.display()));
    for cert in CertificateDer::pem_file_iter(path).map_err(|e| fail(&e))? {
        roots.add(cert.map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
    }
    Ok(())
}

/// Believes every certificate, but still checks that the server holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2_03_half_a_client_certificate_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let host = dir.path().join("r.example:5000");
        std::fs::create_dir(&host).expect("a directory");
        let trust = TrustOptions { host_dirs: vec![dir.path().into()], ..TrustOptions::default() };
        assert!(host_files(&trust, "other.example", None).expect("no error").is_none());
        assert!(host_files(&trust, "r.example:5000", None).expect("no error").is_none());
        std::fs::write(host.join("client.cert"), "").expect("written");
        let error = host_files(&trust, "r.example:5000", None).err().expect("an error").to_string();
        assert!(error.contains("missing client key") && error.contains("client.cert"), "{error}");
        std::fs::rename(host.join("client.cert"), host.join("client.key")).expect("renamed");
        let error = host_files(&trust, "r.example:5000", None).err().expect("an error").to_string();
        assert!(error.contains("missing client certificate"), "{error}");
    }

    #[test]
    fn e2_03_a_named_bundle_that_is_empty_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("none.pem");
        std::fs::write(&file, "").expect("written");
        let trust = TrustOptions { cert_file: Some(file), ..TrustOptions::default() };
        let error = verified(&trust, None, &Events::none()).expect_err("an error").to_string();
        assert!(error.contains("trusted certificates"), "{error}");
    }
}
