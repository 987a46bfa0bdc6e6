//! Certificates near their end are made anew while the node runs: the next handshake shows the new one, and connections
//! that are open go on.
use super::papers::Papers;
use anyhow::Result;
use shared_node::tls::{ServingCert, Shown};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Certificates are renewed months before they end: any time of the day will do.
pub const EVERY: Duration = Duration::from_secs(3600);

/// What a node shows, and what it takes to make it anew.
pub struct Upkeep {
    pub data_dir: PathBuf,
    pub cluster_id: String,
    pub node_id: u64,
    /// Names of the serving certificate.
    pub names: Vec<String>,
    pub peer: Arc<Shown>,
    pub serving: Arc<Shown>,
}

impl Upkeep {
    pub async fn run(self, every: Duration, shutdown: CancellationToken) -> Result<()> {
        let mut rounds = tokio::time::interval(every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let upkeep = Arc::new(self);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = rounds.tick() => {}
            }
            let round = upkeep.clone();
            let renewed = tokio::task::spawn_blocking(move || round.renew()).await;
            // What is shown now is good for months: the next round may succeed.
            if let Err(error) = renewed.unwrap_or_else(|panic| Err(panic.into())) {
                tracing::error!(
                    reason = format!("{error:#}"),
                    "the certificates of this node cannot be renewed"
                );
            }
        }
    }

    fn renew(&self) -> Result<()> {
        let Upkeep { data_dir, cluster_id, node_id, names, peer, serving } = self;
        let papers = Papers::load_or_make(data_dir, cluster_id, *node_id)?;
        peer.replace(&papers.chain_pem, &papers.key_pem)?;
        ServingCert::load_or_make(&data_dir.join("tls"), names)?.renew(serving)
    }
}

#[cfg(test)]
mod tests {
    use super::super::papers;
    use super::*;
    use shared_identity::ca;
    use shared_node::{file, time, tls};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    #[tokio::test]
    async fn a_certificate_near_its_end_is_replaced_without_a_restart() {
        tls::install_crypto();
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().to_owned();
        let serving = ServingCert::load_or_make(&dir.join("tls"), &[]).expect("a CA");
        let authority = papers::authority(&dir).expect("the CA");
        // One that has a day left, as if the node had run for a year.
        let (key_pem, csr) = ca::request_key().expect("a key");
        let names = [papers::name_of(Some(7)), papers::name_of(None)];
        let day = Duration::from_secs(24 * 3600);
        let chain_pem = authority
            .issue_requested(&csr, &names, "weft://c/node/0000000000000007", time::now(), day)
            .expect("issued");
        let old = Papers { ca_pem: authority.cert_pem().to_owned(), chain_pem, key_pem };
        old.write(&dir).expect("written");
        let peer = Shown::new(&old.chain_pem, &old.key_pem).expect("shown");

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let config = tls::mutual_server_config(&old.ca_pem, peer.clone()).expect("a server's side");
        let server = tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(config);
            while let Ok((stream, _)) = listener.accept().await {
                // A client that hangs up after the handshake has seen enough.
                let _ = acceptor.accept(stream).await;
            }
        });
        let client = tls::mutual_client_config(&old.ca_pem, peer.clone()).expect("a client's side");
        let client = TlsConnector::from(Arc::new(client));
        let seen = async || {
            let name = papers::name_of(Some(7)).try_into().expect("a name");
            let stream = TcpStream::connect(address).await.expect("connected");
            let stream = client.connect(name, stream).await.expect("shaken hands");
            stream.get_ref().1.peer_certificates().expect("shown")[0].to_vec()
        };
        let old_leaf = tls::leaf_of(&old.chain_pem).expect("a leaf");
        assert_eq!(seen().await, old_leaf);

        let shutdown = CancellationToken::new();
        let upkeep = Upkeep {
            data_dir: dir.clone(),
            cluster_id: "c".into(),
            node_id: 7,
            names: Vec::new(),
            peer: peer.clone(),
            serving: serving.shown().expect("shown"),
        };
        let running = tokio::spawn(upkeep.run(Duration::from_millis(20), shutdown.clone()));
        let renewed = async {
            loop {
                let leaf = seen().await;
                if leaf != old_leaf {
                    return leaf;
                }
            }
        };
        let leaf = tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("renewed in time");
        assert_eq!(papers::node_of("c", &leaf), Some(7));
        assert!(ca::not_after_of(&leaf).expect("a time") > time::now() + 30 * day);
        // The disk has it too.
        let kept = file::read(&dir.join("tls/peer.crt"), "the certificate").expect("kept");
        assert_eq!(tls::leaf_of(&kept).expect("a leaf"), leaf);
        shutdown.cancel();
        running.await.expect("no panic").expect("a good end");
        server.abort();
    }
}
