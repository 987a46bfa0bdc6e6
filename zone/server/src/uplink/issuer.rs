//! Asks global for tokens in the name of the user who asks for them at this zone. The zone shows its certificate, and the
//! user's own token goes along: that is what global judges.
use super::{Target, credentials::Credentials, link, roster::Roster};
use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use proto::link::{TokenAnswer, TokenWanted};
use shared_api::{Refused, WantedToken};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tonic::Code;

/// For one node of global: to connect and to answer, also when it makes the first key of its kind.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests that are on their way at once.
const TOGETHER: usize = 16;
/// As much as global takes.
const BODY_MAX: usize = 64 << 10;

#[derive(Clone)]
pub struct Issuer {
    target: Target,
    roster: watch::Receiver<Roster>,
    room: Arc<Semaphore>,
}

impl Issuer {
    pub fn new(target: Target, roster: watch::Receiver<Roster>) -> Issuer {
        Issuer { target, roster, room: Arc::new(Semaphore::new(TOGETHER)) }
    }

    /// The answer of the first node of global that has one.
    pub async fn ask(&self, wanted: WantedToken) -> Result<http::Response<Bytes>, Refused> {
        if wanted.body.len() > BODY_MAX {
            return Err(Refused::TooLarge(format!("a request for a token has at most {BODY_MAX} bytes")));
        }
        let _room = self.room.try_acquire().map_err(|_| {
            Refused::Unavailable(format!("{TOGETHER} requests for tokens are on their way to global already"))
        })?;
        let mut reasons = Vec::new();
        for url in self.places() {
            let asked = timeout(PATIENCE, self.ask_one(&url, &wanted)).await;
            let asked = asked.unwrap_or_else(|_| Err(anyhow!("it does not answer")));
            match asked.and_then(read) {
                Ok(answer) => return Ok(answer),
                Err(error) => reasons.push(format!("{url}: {error:#}")),
            }
        }
        let reasons = reasons.join("; ");
        Err(Refused::Unavailable(format!("global signs the tokens, and cannot be asked now: {reasons}")))
    }

    async fn ask_one(&self, url: &str, wanted: &WantedToken) -> Result<TokenAnswer> {
        // The link keeps it, and renews it.
        let credential = Credentials::open(self.target.certificate_file.clone()).current();
        let credential = credential.context("this zone has no certificate of global")?;
        let mut client = link::connect(&self.target, url, Some(&credential)).await?;
        let body = wanted.body.clone();
        let mut request = tonic::Request::new(TokenWanted { kind: wanted.kind.to_owned(), body });
        let authorization = wanted.authorization.to_str().context("the user token is not text")?;
        request.metadata_mut().insert("authorization", authorization.parse()?);
        let answer = client.issue(request).await.map_err(|status| match status.code() {
            Code::Unimplemented => anyhow!("it is of a version that takes no such requests from zones"),
            _ if status.source().is_some() => anyhow!("{}", link::causes(&status)),
            _ => anyhow!("{}", status.message()),
        })?;
        Ok(answer.into_inner())
    }

    /// Every address of global that is known; first those to which a link is open.
    fn places(&self) -> Vec<String> {
        let roster = self.roster.borrow();
        let mut places = roster.linked();
        let others = roster.wanted(&self.target.seeds, true);
        places.extend(others.into_iter().filter(|url| !roster.linked().contains(url)));
        places
    }
}

/// A node that cannot decide for now leaves the answer to the next.
fn read(answer: TokenAnswer) -> Result<http::Response<Bytes>> {
    let TokenAnswer { status, content_type, body } = answer;
    let status = u16::try_from(status).ok().and_then(|status| http::StatusCode::from_u16(status).ok());
    let status = status.context("its answer is not understood")?;
    if status == http::StatusCode::SERVICE_UNAVAILABLE {
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        return Err(anyhow!("{}", problem["detail"].as_str().unwrap_or("it cannot say why")));
    }
    let answer = http::Response::builder()
        .status(status)
        .header(http::header::CONTENT_TYPE, content_type)
        .header(http::header::CACHE_CONTROL, "no-store");
    Ok(answer.body(body)?)
}
