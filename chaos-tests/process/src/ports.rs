//! Ports that nobody uses. They lie below the range from which the kernel takes the ports of outgoing connections, so that
//! a port found free here is not taken by a connection a moment later, and one process never gives the same port twice.
use std::{
    net::{IpAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that is free on all these addresses. Different processes start at different places of the range.
pub fn free(addresses: &[IpAddr]) -> u16 {
    let place = (std::process::id() % 997) as u16 * 12;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + place.wrapping_add(step) % COUNT;
        if addresses.iter().all(|address| TcpListener::bind((*address, port)).is_ok()) {
            return port;
        }
    }
    panic!("all ports from {FIRST} to {} are taken", FIRST + COUNT - 1);
}
