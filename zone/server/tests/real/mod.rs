//! A real global in a temporary directory.
// Each test program uses its own part.
#![allow(dead_code)]
use crate::zone::{Zone, within};
use global_server::app::App;
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zone_server::config::Config;

pub struct Global {
    pub dir: TempDir,
    app: JoinHandle<anyhow::Result<()>>,
    addresses: global_server::app::Addresses,
    shutdown: CancellationToken,
    http: reqwest::Client,
}

impl Global {
    pub async fn start() -> Global {
        let dir = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = global_server::config::Config {
            data_dir: dir.path().to_owned(),
            api_bind: any,
            api_https_bind: any,
            link_bind: any,
            diagnostics_bind: any,
            peer_bind: any,
            ..Default::default()
        };
        let shutdown = CancellationToken::new();
        let app = App::start(config, shutdown.clone()).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let global = Global { dir, addresses: app.addresses, app: tokio::spawn(app.wait()), shutdown, http };
        let token = global.ask("zone", &json!({"zone": "east", "scope": ["cp"], "validFor": "1h"})).await;
        std::fs::write(global.dir.path().join("zone-token"), token).unwrap();
        global
    }

    /// A token, for the administrator who calls from global's own host.
    pub async fn ask(&self, kind: &str, body: &Value) -> String {
        let url = format!("http://{}/tokens/{kind}", self.addresses.api);
        let answer = self.http.post(url).json(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.addresses.api);
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Writes a document; gives its revision.
    pub async fn put(&self, path: &str, body: &Value) -> u64 {
        let url = format!("http://{}{path}", self.addresses.api);
        let answer = self.http.put(url).json(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json::<Value>().await.unwrap()["revision"].as_u64().unwrap()
    }

    pub async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.app.await.unwrap().unwrap();
        self.dir
    }
}

pub fn run(test: impl Future<Output = ()>) {
    zone_server::app::runtime().unwrap().block_on(async {
        shared_node::tls::install_crypto();
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test ends in time");
    });
}

/// A zone that follows, with a changed configuration.
pub async fn follow(global: &Global, change: impl FnOnce(&mut Config)) -> Zone {
    let zone = Zone::start_with(tempfile::tempdir().unwrap(), |config| {
        config.global = Some(format!("https://{}", global.addresses.link));
        config.global_ca_file = Some(global.dir.path().join("tls/ca.crt"));
        config.zone_token_file = Some(global.dir.path().join("zone-token"));
        change(config);
    })
    .await;
    within("the zone is ready", async || zone.is_ready().await).await;
    zone
}

pub fn for_proxy(name: &str) -> Value {
    json!({"mesh": "default", "name": name, "validFor": "1h"})
}
