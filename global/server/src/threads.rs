//! Threads of their own for what must not wait: Raft and the other nodes have some, the links of zones have others. A flood
//! of API requests or a storm of zones takes its turn on the cores, and no more than that.
use anyhow::{Context as _, Result};
use global_consensus::{Answering, Transport};
use proto::peer::Request;
use std::{future::Future, sync::Arc};
use tokio::runtime::{Builder, Handle, Runtime};

/// Few: what they do is short, and what blocks goes elsewhere.
const WORKERS: usize = 2;

/// Some threads that run nothing but what they are given. Dropping it ends them.
pub struct Threads(Option<Runtime>);

impl Threads {
    pub fn start(name: &'static str) -> Result<Threads> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name(name)
            .enable_all()
            .build()
            .with_context(|| format!("cannot start the threads {name}"))?;
        Ok(Threads(Some(runtime)))
    }

    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is taken only when the threads are dropped").handle()
    }

    /// Runs something there, and all that it spawns.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.handle().spawn(work).await.context("what was to run on threads of its own failed")?
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Whoever drops it may be on an async thread, which must not wait.
            runtime.shutdown_background();
        }
    }
}

/// A way to the other nodes whose connections live on given threads, whoever asks.
pub struct Apart<T> {
    pub way: Arc<T>,
    pub threads: Handle,
}

impl<T: Transport> Transport for Apart<T> {
    fn call(&self, address: &str, request: Request) -> Answering {
        let (way, address) = (self.way.clone(), address.to_owned());
        let asked = self.threads.spawn(async move { way.call(&address, request).await });
        Box::pin(async move { asked.await.unwrap_or_else(|_| Err("this node shuts down".to_owned())) })
    }
}
