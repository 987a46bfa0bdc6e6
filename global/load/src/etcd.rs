//! The members of an etcd, over its own gRPC. Of its API only `Put` is needed, so its two messages stand here.
use crate::{
    Load,
    run::{Client, Store},
};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::uri::PathAndQuery;
use std::fs;
use tonic::{
    Request,
    client::Grpc,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_prost::ProstCodec;

const PUT: &str = "/etcdserverpb.KV/Put";

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// What it says of its revision is not needed.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

pub struct Members {
    targets: Vec<String>,
    tls: ClientTlsConfig,
    bytes: usize,
}

impl Members {
    pub fn new(load: &Load) -> Result<Members> {
        let ca =
            fs::read(&load.ca_file).with_context(|| format!("cannot read {}", load.ca_file.display()))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
        Ok(Members { targets: load.targets.clone(), tls, bytes: load.bytes })
    }
}

impl Store for Members {
    type Client = Writer;

    async fn client(&self, number: usize) -> Result<Writer> {
        let target = self.targets[number % self.targets.len()].clone();
        let endpoint = Endpoint::from_shared(target)?.tls_config(self.tls.clone())?.tcp_nodelay(true);
        let key = Bytes::from(format!("/load/{number}"));
        let mut writer = Writer { grpc: Grpc::new(endpoint.connect().await?), key, bytes: self.bytes };
        writer.write(u64::MAX).await?;
        Ok(writer)
    }
}

/// One client, with a key of its own.
pub struct Writer {
    grpc: Grpc<Channel>,
    key: Bytes,
    bytes: usize,
}

impl Client for Writer {
    async fn write(&mut self, number: u64) -> Result<()> {
        let value = format!("{number:0>width$}", width = self.bytes);
        let request = PutRequest { key: self.key.clone(), value: value.into() };
        self.grpc.ready().await?;
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        self.grpc.unary(Request::new(request), PathAndQuery::from_static(PUT), codec).await?;
        Ok(())
    }
}
