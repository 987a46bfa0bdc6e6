//! A proxy that speaks state of the world.
use super::{CDS, EDS, Held, LDS, RDS, SDS, Zone, node, references, stream};
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, Resource};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use prost::Message;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

/// It asks for all clusters and listeners, and for the rest by name; of the former it drops what a response does not have.
pub struct WholeProxy {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
    pub held: Held,
    asked: BTreeMap<&'static str, BTreeSet<String>>,
    /// The version and the nonce of each type.
    seen: BTreeMap<&'static str, (String, String)>,
    /// Refuse what comes of this type.
    pub refuse: Option<&'static str>,
}

/// All types have their name in this field.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

impl Zone {
    /// Connects a proxy that brings `dataplane`.
    pub async fn whole_proxy(&self, dataplane: &Value, token: &str) -> Result<WholeProxy, Status> {
        let mut client = self.client().await;
        let (requests, outgoing) = mpsc::channel(64);
        let node = Some(node(dataplane));
        let first = DiscoveryRequest { node, type_url: CDS.into(), ..Default::default() };
        requests.send(first).await.unwrap();
        let responses = client.stream_aggregated_resources(stream(outgoing, token)).await?.into_inner();
        let (held, asked, seen) = Default::default();
        let proxy = WholeProxy { requests, responses, held, asked, seen, refuse: None };
        proxy.say(LDS, None).await;
        Ok(proxy)
    }

    /// Lets a proxy answer until a revision is done, and gives its status.
    pub async fn done_by(&self, revision: u64, proxy: &mut WholeProxy) -> Value {
        let end = Instant::now() + super::DEADLINE;
        loop {
            proxy.settle().await;
            let status = self.get(&format!("/_revisions/{revision}")).await.expect("a status");
            if status["done"] == true {
                return status;
            }
            assert!(Instant::now() < end, "revision {revision} is not done: {status}");
        }
    }
}

impl WholeProxy {
    async fn say(&self, type_url: &'static str, error_detail: Option<RpcStatus>) {
        let (version_info, response_nonce) = self.seen.get(type_url).cloned().unwrap_or_default();
        let request = DiscoveryRequest {
            type_url: type_url.into(),
            resource_names: self.asked.get(type_url).into_iter().flatten().cloned().collect(),
            version_info,
            response_nonce,
            error_detail,
            ..DiscoveryRequest::default()
        };
        // The other side may be gone by now, which the next message tells.
        let _ = self.requests.send(request).await;
    }

    /// Says anything.
    pub async fn ask(&self, request: DiscoveryRequest) {
        let _ = self.requests.send(request).await;
    }

    /// Answers everything that comes, until nothing more does.
    pub async fn settle(&mut self) {
        while let Ok(response) = timeout(super::QUIET, self.responses.message()).await {
            self.take(response.expect("the stream holds").expect("the stream goes on")).await;
        }
    }

    /// Waits for the end of the stream.
    pub async fn end(&mut self) -> Status {
        let end = async {
            loop {
                match self.responses.message().await {
                    Ok(Some(response)) => self.take(response).await,
                    Ok(None) => return Status::ok("closed"),
                    Err(status) => return status,
                }
            }
        };
        timeout(super::DEADLINE, end).await.expect("the stream ends in time")
    }

    async fn take(&mut self, response: DiscoveryResponse) {
        let types = [CDS, EDS, LDS, RDS, SDS];
        let type_url = types.into_iter().find(|url| *url == response.type_url).expect("a known type");
        let seen = self.seen.entry(type_url).or_default();
        seen.1 = response.nonce;
        if self.refuse == Some(type_url) && !response.resources.is_empty() {
            let message = "refused by the test".to_owned();
            return self.say(type_url, Some(RpcStatus { code: 13, message, details: Vec::new() })).await;
        }
        seen.0 = response.version_info;
        let held = self.held.entry(type_url.to_owned()).or_default();
        if type_url == CDS || type_url == LDS {
            held.clear();
        }
        for any in response.resources {
            assert_eq!(any.type_url, type_url);
            let name = Named::decode(any.value.as_slice()).unwrap().name;
            held.insert(name.clone(), Resource { name, resource: Some(any), ..Resource::default() });
        }
        let mut wanted = references(&self.held);
        for kind in [EDS, RDS, SDS] {
            let names = wanted.remove(kind).unwrap_or_default();
            if let Some(held) = self.held.get_mut(kind) {
                held.retain(|name, _| names.contains(name));
            }
            let asked = self.asked.entry(kind).or_default();
            if *asked != names {
                *asked = names;
                if kind != type_url {
                    self.say(kind, None).await;
                }
            }
        }
        self.say(type_url, None).await;
    }

    pub fn names(&self, type_url: &str) -> Vec<String> {
        self.held.get(type_url).map(|held| held.keys().cloned().collect()).unwrap_or_default()
    }
}
