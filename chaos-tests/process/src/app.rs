//! The service behind a proxy: it tells which one it is.
use anyhow::{Context, Result};
use axum::{Json, Router, extract::State, http::Uri, routing};
use serde::{Deserialize, Serialize};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle};

/// The path that takes [`SLOW`] to answer.
pub const SLOW_PATH: &str = "/slow";
pub const SLOW: Duration = Duration::from_secs(2);

/// What an application answers to every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    pub service: String,
    pub version: String,
    pub zone: String,
    pub path: String,
}

/// A small HTTP server in this process; it ends when dropped.
pub struct App {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl App {
    pub async fn start(service: &str, version: &str, zone: &str) -> Result<App> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen for an application")?;
        let address = listener.local_addr()?;
        let (service, version, zone) = (service.to_owned(), version.to_owned(), zone.to_owned());
        let me = Arc::new(Echo { service, version, zone, path: String::new() });
        let router = Router::new().route(SLOW_PATH, routing::any(slow)).fallback(answer).with_state(me);
        let task = tokio::spawn(async move {
            // It ends only with the process or when this task is aborted: there is nobody to tell.
            let _ = axum::serve(listener, router).await;
        });
        Ok(App { address, task })
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(me): State<Arc<Echo>>, uri: Uri) -> Json<Echo> {
    Json(Echo { path: uri.path().to_owned(), ..(*me).clone() })
}

async fn slow(state: State<Arc<Echo>>, uri: Uri) -> Json<Echo> {
    tokio::time::sleep(SLOW).await;
    answer(state, uri).await
}
