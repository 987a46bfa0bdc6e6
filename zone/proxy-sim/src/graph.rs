//! A graph of services from a seed: who has how many instances, and who calls whom.
//!
//! Every service calls as many as call it, so that a change of any of them concerns the same number of proxies whatever
//! the seed, and two runs differ in nothing but in what is measured.
use std::ops::Range;

/// More instances than a service has in one zone.
const NAMES_PER_ZONE: usize = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    pub services: Vec<Service>,
    instances: usize,
    /// In how many zones before this one the same graph is: names and addresses differ from theirs.
    zone: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    /// The proxies that are its instances.
    pub instances: Range<usize>,
    /// The services that it calls, and those that call it, sorted.
    pub calls: Vec<usize>,
    pub called_by: Vec<usize>,
}

impl Graph {
    /// `proxies` instances of `services` services that call `scope` others each. A scope beyond all others is all others.
    pub fn generate(seed: u64, proxies: usize, services: usize, scope: usize) -> Graph {
        let services = services.clamp(1, proxies.max(1));
        let mut random = Random(seed);
        let mut order: Vec<usize> = (0..services).collect();
        random.shuffle(&mut order);
        let mut steps: Vec<usize> = (1..services).collect();
        random.shuffle(&mut steps);
        steps.truncate(scope);
        let mut graph = Graph { services: Vec::with_capacity(services), instances: proxies, zone: 0 };
        for index in 0..services {
            let first = index * proxies / services;
            let end = (index + 1) * proxies / services;
            let name = format!("svc-{index:04}");
            graph.services.push(Service { name, instances: first..end, calls: vec![], called_by: vec![] });
        }
        for (place, caller) in order.iter().enumerate() {
            for step in &steps {
                let called = order[(place + step) % services];
                graph.services[*caller].calls.push(called);
                graph.services[called].called_by.push(*caller);
            }
        }
        for service in &mut graph.services {
            service.calls.sort_unstable();
            service.called_by.sort_unstable();
        }
        graph
    }

    /// The same services with other instances.
    pub fn in_zone(&self, zone: usize) -> Graph {
        Graph { zone, ..self.clone() }
    }

    pub fn proxies(&self) -> usize {
        self.instances
    }

    /// The service that a proxy is an instance of.
    pub fn service_of(&self, proxy: usize) -> usize {
        self.services.partition_point(|service| service.instances.end <= proxy)
    }

    pub fn name_of(&self, proxy: usize) -> String {
        let service = &self.services[self.service_of(proxy)];
        let number = self.zone * NAMES_PER_ZONE + proxy - service.instances.start;
        format!("{}-{number:03}", service.name)
    }

    /// The proxy of this name.
    pub fn find(&self, name: &str) -> Option<usize> {
        let (service, instance) = name.rsplit_once('-')?;
        let service = &self.services[self.find_service(service)?];
        let number = instance.parse::<usize>().ok()?.checked_sub(self.zone * NAMES_PER_ZONE)?;
        let proxy = service.instances.start + number;
        service.instances.contains(&proxy).then_some(proxy)
    }

    pub fn find_service(&self, name: &str) -> Option<usize> {
        let index = name.strip_prefix("svc-")?.parse::<usize>().ok()?;
        (index < self.services.len()).then_some(index)
    }

    /// A distinct address of the documents; nothing ever connects to it.
    pub fn address_of(&self, proxy: usize) -> String {
        let proxy = self.zone * self.instances + proxy;
        format!("10.{}.{}.{}", 1 + proxy / 64_000, proxy / 250 % 256, 1 + proxy % 250)
    }

    /// The proxies that reach a service.
    pub fn clients_of(&self, service: usize) -> impl Iterator<Item = usize> + '_ {
        self.services[service].called_by.iter().flat_map(|caller| self.services[*caller].instances.clone())
    }

    /// How many endpoints a proxy has to know.
    pub fn endpoints_of(&self, proxy: usize) -> usize {
        let called = &self.services[self.service_of(proxy)].calls;
        called.iter().map(|service| self.services[*service].instances.len()).sum()
    }

    /// The service with the most clients; the first of them.
    pub fn busiest(&self) -> usize {
        let clients = |index: &usize| (self.clients_of(*index).count(), std::cmp::Reverse(*index));
        (0..self.services.len()).max_by_key(clients).unwrap_or_default()
    }
}

/// SplitMix64: the same numbers in every version of every library.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_same_seed_gives_the_same_graph_and_another_another() {
        let of = |seed| Graph::generate(seed, 1000, 100, 20);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn zones_share_services_and_no_instances() {
        let graph = Graph::generate(1, 7, 3, 2);
        let other = graph.in_zone(2);
        assert_eq!(graph.services, other.services);
        for proxy in 0..7 {
            assert_ne!(graph.name_of(proxy), other.name_of(proxy));
            assert_eq!(other.find(&other.name_of(proxy)), Some(proxy));
            assert!((0..7).all(|first| graph.address_of(first) != other.address_of(proxy)));
        }
        assert_eq!(other.find(&graph.name_of(0)), None);
    }

    #[test]
    fn every_service_calls_and_is_called_by_as_many() {
        let graph = Graph::generate(3, 1000, 100, 20);
        for (index, service) in graph.services.iter().enumerate() {
            assert_eq!((service.calls.len(), service.called_by.len()), (20, 20));
            assert!(!service.calls.contains(&index));
            assert_eq!(service.calls.iter().collect::<BTreeSet<_>>().len(), 20);
            assert_eq!(graph.clients_of(index).count(), 200);
            assert!(service.calls.iter().all(|called| graph.services[*called].called_by.contains(&index)));
        }
        assert_eq!(graph.endpoints_of(5), 200);
    }

    #[test]
    fn every_proxy_is_one_instance_with_a_name_and_an_address_of_its_own() {
        for (proxies, services, scope) in [(1, 1, 5), (7, 3, 20), (10, 100, 2), (70_000, 10, 3)] {
            let graph = Graph::generate(1, proxies, services, scope);
            let mut seen = BTreeSet::new();
            for proxy in 0..proxies {
                let service = graph.service_of(proxy);
                assert!(graph.services[service].instances.contains(&proxy));
                assert_eq!(graph.find(&graph.name_of(proxy)), Some(proxy));
                assert!(seen.insert(graph.address_of(proxy)), "{}", graph.address_of(proxy));
            }
            assert_eq!(graph.services.iter().map(|service| service.instances.len()).sum::<usize>(), proxies);
        }
        assert_eq!(Graph::generate(1, 5, 5, 2).find("svc-0099-000"), None);
    }
}
