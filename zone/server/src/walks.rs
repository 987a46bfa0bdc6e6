//! The walk of each revision through the zone, as spans for a trace: applied, then per proxy that it touches pushed and
//! acknowledged. Nothing is kept, and next to nothing is done, while nobody listens to spans of this level.
//!
//! ```text
//! revision{revision, source, touched}        from the step's beginning to the last proxy's answer
//!   proxy{revision, mesh, proxy}             from the touch to the answer
//!     pushed, refused, acknowledged          events
//! ```
use crate::progress::Source;
use crate::tracker::KEPT;
use shared_model::Revision;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::{Span, debug, debug_span};
use zone_index::ProxyId;

/// The walks that have not come to their end.
#[derive(Default)]
pub struct Walks {
    open: Mutex<BTreeMap<(Revision, Source), Walk>>,
    /// How many there are, to be asked without the lock.
    count: AtomicUsize,
}

struct Walk {
    generation: u64,
    proxies: BTreeMap<ProxyId, Span>,
    _revision: Span,
}

/// The span of a revision that is about to be applied; it is inert when nobody listens.
pub fn begin(revision: Revision, source: Source) -> Span {
    let touched = tracing::field::Empty;
    debug_span!("revision", revision = revision.0, ?source, touched)
}

impl Walks {
    /// The revision was applied; the walk ends at once when it touches nobody.
    pub fn applied(
        &self,
        span: Span,
        revision: Revision,
        source: Source,
        generation: u64,
        touched: &BTreeSet<ProxyId>,
    ) {
        if span.is_disabled() {
            return;
        }
        span.record("touched", touched.len());
        let of = |id: &ProxyId| {
            let (mesh, proxy) = (&id.mesh, &id.name);
            debug_span!(parent: &span, "proxy", revision = revision.0, mesh, proxy)
        };
        let proxies: BTreeMap<ProxyId, Span> = touched.iter().map(|id| (id.clone(), of(id))).collect();
        if proxies.is_empty() {
            return;
        }
        self.change(|open| {
            open.insert((revision, source), Walk { generation, proxies, _revision: span });
            while open.len() > KEPT {
                open.pop_first();
            }
        });
    }

    /// What the proxy gets of all generations up to this one is on its way.
    pub fn pushed(&self, proxy: &ProxyId, generation: u64) {
        self.note(proxy, generation, |revision, span| debug!(parent: span, revision = revision.0, "pushed"));
    }

    pub fn refused(&self, proxy: &ProxyId, generation: u64, reason: &str) {
        self.note(
            proxy,
            generation,
            |revision, span| debug!(parent: span, revision = revision.0, reason, "refused"),
        );
    }

    /// The proxy is done with a revision.
    pub fn done(&self, proxy: &ProxyId, revision: Revision, source: Source) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.change(|open| {
            let Some(walk) = open.get_mut(&(revision, source)) else { return };
            if let Some(span) = walk.proxies.remove(proxy) {
                debug!(parent: &span, revision = revision.0, "acknowledged");
            }
            if walk.proxies.is_empty() {
                open.remove(&(revision, source));
            }
        });
    }

    fn note(&self, proxy: &ProxyId, generation: u64, say: impl Fn(Revision, &Span)) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        self.change(|open| {
            for ((revision, _), walk) in open.iter().filter(|(_, walk)| walk.generation <= generation) {
                if let Some(span) = walk.proxies.get(proxy) {
                    say(*revision, span);
                }
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<(Revision, Source), Walk>)) {
        let mut open = self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        change(&mut open);
        self.count.store(open.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Writes down the names of spans and the messages of events.
    #[derive(Clone, Default)]
    struct Listener(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Listener {
        fn enabled(&self, _: &Metadata) -> bool {
            true
        }
        fn new_span(&self, span: &Attributes) -> Id {
            let mut said = self.0.lock().unwrap();
            said.push(span.metadata().name().to_owned());
            Id::from_u64(said.len() as u64)
        }
        fn record(&self, _: &Id, _: &Record) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event) {
            struct Message(String);
            impl tracing::field::Visit for Message {
                fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                    if field.name() == "message" {
                        self.0 = format!("{value:?}");
                    }
                }
            }
            let mut message = Message(String::new());
            event.record(&mut message);
            self.0.lock().unwrap().push(message.0);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    fn walk(walks: &Walks) {
        let proxy = ProxyId::new("default", "web-1");
        let (revision, source) = (Revision(5), Source::Owned);
        walks.applied(begin(revision, source), revision, source, 7, &BTreeSet::from([proxy.clone()]));
        walks.pushed(&proxy, 6);
        walks.pushed(&proxy, 7);
        walks.done(&proxy, revision, source);
    }

    #[test]
    fn a_walk_is_told_to_who_listens() {
        let listener = Listener::default();
        let walks = Walks::default();
        tracing::subscriber::with_default(listener.clone(), || walk(&walks));
        assert_eq!(*listener.0.lock().unwrap(), ["revision", "proxy", "pushed", "acknowledged"]);
        assert!(walks.open.lock().unwrap().is_empty());
    }

    #[test]
    fn nothing_is_kept_when_nobody_listens() {
        let walks = Walks::default();
        tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), || walk(&walks));
        assert_eq!(walks.count.load(Ordering::Relaxed), 0);
    }
}
