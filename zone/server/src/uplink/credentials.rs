//! What the zone shows to global: a certificate, for which it trades its zone token once, and the certificate that it has
//! from then on. It lies on the disk with its key, in one file, so that a crash leaves a pair.
//!
//! ```text
//! nothing, ended, of another zone or store, or refused --token--> enrol --> kept
//! half of its time has passed --certificate--> enrol --> kept; links are dialled again, each at its own time
//! ```
use super::{Uplink, link};
use anyhow::{Context as _, Result, ensure};
use proto::link::Enrolment;
use serde::{Deserialize, Serialize};
use shared_identity::ca;
use shared_model::Timestamp;
use shared_node::{file, time};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// An answer to an enrolment: it may wait for the store of a new zone at global.
const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate with its key, and between which times it is good, in milliseconds of this machine's clock.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    zone_id: String,
    cluster_id: String,
    pub chain_pem: String,
    pub key_pem: String,
    issued_ms: i64,
    ends_ms: i64,
}

impl Credential {
    fn lifetime(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.ends_ms - self.issued_ms).unwrap_or_default())
    }

    /// A part of its lifetime has passed. One that was issued in the future, by a clock that has jumped, is old too.
    pub fn is_past(&self, part: f64, now: Timestamp) -> bool {
        let age = now.timestamp_millis() - self.issued_ms;
        u64::try_from(age).map_or(true, |age| Duration::from_millis(age) >= self.lifetime().mul_f64(part))
    }

    fn is_good(&self, zone_id: &str, cluster_id: &str, now: Timestamp) -> bool {
        let of_cluster = cluster_id.is_empty() || self.cluster_id == cluster_id;
        of_cluster && self.zone_id == zone_id && now.timestamp_millis() < self.ends_ms
    }
}

/// The file, and what was read of it.
pub struct Credentials {
    path: PathBuf,
    kept: Mutex<Option<Credential>>,
}

impl Credentials {
    /// A file that cannot be read is as good as none: the token leads further.
    pub fn open(path: PathBuf) -> Credentials {
        let kept = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Credentials { path, kept: Mutex::new(kept) }
    }

    pub fn current(&self) -> Option<Credential> {
        self.kept().clone()
    }

    fn keep(&self, credential: &Credential) -> Result<()> {
        file::write_private(&self.path, &serde_json::to_vec(credential)?)?;
        *self.kept() = Some(credential.clone());
        Ok(())
    }

    /// Global does not take it any more: the next link enrols.
    pub fn refused(&self, credential: &Credential) {
        let mut kept = self.kept();
        if kept.as_ref() == Some(credential) {
            *kept = None;
            // One that stays is refused once more after the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<Credential>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uplink {
    /// The certificate for a link to this address; trades the token for it when there is none that is good. Links that
    /// begin together may each get one: none waits for a node that does not answer another.
    pub(super) async fn credential(&self, url: &str) -> Result<Credential> {
        let cluster_id = self.learner.identity().cluster_id;
        let good = |kept: &Credential| kept.is_good(&self.feeds.zone_id, &cluster_id, time::now());
        match self.credentials.current().filter(good) {
            Some(credential) => Ok(credential),
            None => self.enrol(url, None).await,
        }
    }

    /// Renews the certificate whenever half of its time has passed. Ends with its runtime.
    pub(super) async fn renew(&self) {
        let mut told = String::new();
        loop {
            let pause = match self.credentials.current() {
                Some(credential) if credential.is_past(0.5, time::now()) => {
                    if let Err(error) = self.renew_now(&credential).await {
                        let reason = format!("{error:#}");
                        if reason != told {
                            tracing::warn!(reason, "the certificate of the link is not renewed yet");
                        }
                        told = reason;
                    }
                    credential.lifetime() / 20
                }
                Some(credential) => credential.lifetime() / 20,
                None => Duration::from_secs(1),
            };
            tokio::time::sleep(pause.clamp(Duration::from_millis(100), Duration::from_secs(60))).await;
        }
    }

    async fn renew_now(&self, credential: &Credential) -> Result<()> {
        let mut last = anyhow::anyhow!("no node of global is linked");
        let linked = self.roster.borrow().linked();
        for url in linked {
            match self.enrol(&url, Some(credential)).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn enrol(&self, url: &str, by: Option<&Credential>) -> Result<Credential> {
        let (key_pem, csr) = ca::request_key()?;
        let mut client = link::connect(&self.target, url, by).await?;
        let zone_id = self.feeds.zone_id.clone();
        let enrolment = Enrolment {
            zone: self.target.zone.clone(),
            zone_id: zone_id.clone(),
            csr,
            cluster_id: self.learner.identity().cluster_id,
            version: shared_node::VERSION.to_owned(),
        };
        let followed = enrolment.cluster_id.clone();
        let mut request = tonic::Request::new(enrolment);
        if by.is_none() {
            // Read each time: it may be replaced while the zone runs.
            let token = self.target.token()?;
            let bearer =
                format!("Bearer {token}").parse().context("the zone token is not text of one line")?;
            request.metadata_mut().insert("authorization", bearer);
        }
        let issued_ms = time::now().timestamp_millis();
        let enrolled = timeout(PATIENCE, client.enrol(request)).await.context("global does not answer")?;
        let enrolled = enrolled
            .map_err(|status| {
                anyhow::anyhow!("{}", status.message()).context("global gives this zone no certificate")
            })?
            .into_inner();
        ensure!(
            followed.is_empty() || enrolled.cluster_id == followed,
            "this is cluster {}, the zone follows {followed}",
            enrolled.cluster_id
        );
        let lifetime = i64::try_from(enrolled.lifetime_ms).unwrap_or(i64::MAX / 2);
        let credential = Credential {
            zone_id,
            cluster_id: enrolled.cluster_id,
            chain_pem: enrolled.chain_pem,
            key_pem,
            issued_ms,
            ends_ms: issued_ms.saturating_add(lifetime),
        };
        self.credentials.keep(&credential)?;
        let by = if by.is_some() { "certificate" } else { "token" };
        tracing::info!(global = url, by, seconds = lifetime / 1000, "the link has a new certificate");
        Ok(credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn credential(issued_ms: i64) -> Credential {
        Credential {
            zone_id: "1".into(),
            cluster_id: "c".into(),
            chain_pem: "chain".into(),
            key_pem: "key".into(),
            issued_ms,
            ends_ms: issued_ms + 10_000,
        }
    }

    #[test]
    fn a_certificate_is_good_for_its_zone_until_its_end() {
        let at = |ms| Timestamp::from_timestamp_millis(ms).unwrap();
        let kept = credential(50_000);
        assert!(kept.is_good("1", "c", at(59_999)) && kept.is_good("1", "", at(59_999)));
        assert!(!kept.is_good("1", "c", at(60_000)));
        assert!(!kept.is_good("2", "c", at(55_000)) && !kept.is_good("1", "d", at(55_000)));
        assert!(!kept.is_past(0.5, at(54_999)) && kept.is_past(0.5, at(55_000)));
        assert!(kept.is_past(0.5, at(1_000)), "a clock that went back");
    }

    #[test]
    fn the_pair_is_kept_for_its_owner_and_dropped_when_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link-certificate.json");
        let credentials = Credentials::open(path.clone());
        assert!(credentials.current().is_none());
        credentials.keep(&credential(1)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Credentials::open(path.clone());
        assert!(again.current() == Some(credential(1)));
        again.refused(&credential(2));
        assert!(again.current().is_some(), "another one was refused");
        again.refused(&credential(1));
        assert!(again.current().is_none() && !path.exists());
        std::fs::write(&path, "rubbish").unwrap();
        assert!(Credentials::open(path).current().is_none());
    }
}
