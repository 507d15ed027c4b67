//! TLS to a server under test: any certificate is taken, so that the service behind it can be checked, and what is
//! wrong with it is told. The handshake itself is verified as usual.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use hypervisors::net::Stream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::check::TlsMode;
use super::inside::short;
use super::line::Fault;

/// Goes on by TLS. `name` is what the certificate must be for. Gives the stream and what there is to tell of the
/// certificate (`""` if nothing).
pub(crate) async fn connect(
    stream: Box<dyn Stream>,
    name: Option<&str>,
    address: IpAddr,
    mode: TlsMode,
) -> Result<(Box<dyn Stream>, String), Fault> {
    let provider = Arc::new(ring::default_provider());
    let name = match name.map(|name| ServerName::try_from(name.trim_end_matches('.').to_owned())) {
        Some(Ok(name)) => name,
        _ => ServerName::IpAddress(address.into()),
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::fixed(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAny(Arc::clone(&provider))))
        .with_no_client_auth();
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name.clone(), stream)
        .await
        .map_err(|error| Fault::new(format!("TLS handshake failed: {}", short(&error.to_string()))))?;
    let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
    let flaws = flaws(chain, &name, provider);
    let note = match mode {
        TlsMode::Strict if !flaws.is_empty() => {
            let list: Vec<&str> = flaws.iter().map(|flaw| flaw.text.as_str()).collect();
            return Err(Fault::new(format!("certificate {}", list.join("; "))));
        }
        _ => flaws.iter().find(|flaw| flaw.date).map(|flaw| format!("certificate {}", flaw.text)).unwrap_or_default(),
    };
    Ok((Box::new(tls), note))
}

struct Flaw {
    text: String,
    date: bool,
}

/// Everything that is wrong with a certificate, each thing by itself.
fn flaws(chain: &[CertificateDer<'_>], name: &ServerName<'_>, provider: Arc<CryptoProvider>) -> Vec<Flaw> {
    let Some((end, rest)) = chain.split_first() else {
        return vec![Flaw { text: "is missing".into(), date: false }];
    };
    let mut flaws = Vec::new();
    let mut moment = UnixTime::now();
    match x509_parser::parse_x509_certificate(end) {
        Ok((_, certificate)) => {
            let validity = certificate.validity();
            let now = i64::try_from(moment.as_secs()).unwrap_or(i64::MAX);
            let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
            if to < now {
                flaws.push(Flaw { text: format!("expired on {}", day(to)), date: true });
            } else if from > now {
                flaws.push(Flaw { text: format!("is not valid before {}", day(from)), date: true });
            }
            // Trust is judged at a moment at which it was valid, so that each flaw is told by itself.
            if !flaws.is_empty() {
                moment = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(to).unwrap_or(0)));
            }
        }
        Err(_) => flaws.push(Flaw { text: "cannot be read".into(), date: false }),
    }
    match ParsedCertificate::try_from(end) {
        Ok(parsed) if verify_server_name(&parsed, name).is_err() => {
            flaws.push(Flaw { text: format!("is not for {}", name.to_str()), date: false });
        }
        _ => {}
    }
    if let Some(text) = distrust(end, rest, name, moment, provider) {
        flaws.push(Flaw { text, date: false });
    }
    flaws
}

fn distrust(
    end: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    name: &ServerName<'_>,
    moment: UnixTime,
    provider: Arc<CryptoProvider>,
) -> Option<String> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        return Some("cannot be judged: this machine trusts no authority (install ca-certificates)".into());
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider).build().ok()?;
    match verifier.verify_server_cert(end, rest, name, &[], moment) {
        Ok(_) => None,
        // Told by itself.
        Err(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => None,
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Some("is not from an authority that this machine trusts".into())
        }
        Err(error) => Some(format!("is not trusted: {}", short(&error.to_string()))),
    }
}

fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|time| time.strftime("%Y-%m-%d").to_string())
        .unwrap_or_else(|_| "a day out of range".into())
}

/// Takes any certificate; [`flaws`] judges it afterwards.
#[derive(Debug)]
struct TakesAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
