//! State-of-the-world ADS: the form of the protocol that Kuma's agents ask for by default, and proxies without Envoy
//! speak. It is delta ADS to all but the two ends of a stream, where a [`Translation`] stands.
//!
//! ```text
//!   body ──Hearing──▶ delta requests ──▶ the proxy's actor
//!                       │ again            │
//!   body ◀──Telling── outbox ◀─────────────┘
//! ```
mod translation;

use super::wire::Outgoing;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
pub use translation::{Asked, Told};
use translation::{Heard, Translation};
use zone_xds::Response;

/// The half that hears the client.
pub struct Hearing {
    translation: Arc<Mutex<Translation>>,
    /// For what is told once more without the actor.
    outbox: mpsc::Sender<Outgoing>,
}

/// The half that tells it.
pub struct Telling(Arc<Mutex<Translation>>);

/// The two ends of a stream whose responses go through `outbox`.
pub fn ends(outbox: mpsc::Sender<Outgoing>) -> (Hearing, Telling) {
    let translation = Arc::<Mutex<Translation>>::default();
    (Hearing { translation: translation.clone(), outbox }, Telling(translation))
}

impl Hearing {
    /// What the client's word means in delta, if anything.
    pub fn hear(&self, asked: Asked) -> Option<DeltaDiscoveryRequest> {
        let Heard { request, again } = lock(&self.translation).hear(asked);
        if let Some(response) = again {
            // A peer whose outbox is full does not read; it is let go for the answer that does not come.
            let _ = self.outbox.try_send(Ok(Box::new(response)));
        }
        request
    }
}

impl Telling {
    pub fn tell(&self, response: Response) -> Told {
        lock(&self.0).tell(response)
    }
}

fn lock(translation: &Mutex<Translation>) -> MutexGuard<'_, Translation> {
    translation.lock().unwrap_or_else(PoisonError::into_inner)
}
