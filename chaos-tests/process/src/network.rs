//! The wires between the programs: a TCP relay before each listening port, which can be cut for any pair, in one
//! direction or both, and made lossy.
//!
//! ```text
//!   node "two" --dials--> Gate of "one" --relays--> "one"
//!                          |  who dials is found by the socket's owner in /proc
//!                          '- Network's rules: two -> one cut, loss, …
//! ```
//!
//! A cut wire holds what is sent, as a TCP connection does when its packets are lost: nothing is reset, and after the
//! healing what was held arrives late. A connection that is dialled over a cut wire hangs until it is healed.
use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Bytes that a wire carries at once.
const CHUNK: usize = 16 << 10;

/// What holds for the wires now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// From whom to whom nothing passes.
    cut: BTreeSet<(String, String)>,
    loss: Option<Loss>,
    /// Counts the orders to break all connections of somebody.
    broken: BTreeMap<String, u64>,
}

/// A wire that loses packets, as TCP shows it: some chunks come late, and all behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub percent: u64,
    pub delay: Duration,
}

impl Rules {
    fn is_cut(&self, from: &str, to: &str) -> bool {
        self.cut.contains(&(from.to_owned(), to.to_owned()))
    }
}

/// All wires of one cluster. A clone is the same network.
#[derive(Clone)]
pub struct Network {
    rules: watch::Sender<Rules>,
    /// Who owns which process.
    owners: Arc<Mutex<BTreeMap<u32, String>>>,
    gates: Arc<Mutex<Vec<Gate>>>,
}

/// Ends with the network.
struct Gate(JoinHandle<()>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Default for Network {
    fn default() -> Network {
        Network { rules: watch::channel(Rules::default()).0, owners: Arc::default(), gates: Arc::default() }
    }
}

impl Network {
    /// A process that dials is this member from now on.
    pub fn owns(&self, member: &str, process: u32) {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(process, member.to_owned());
    }

    /// Opens a port before `target`, which is one of `member`.
    pub async fn gate(&self, member: &str, port: u16, target: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("cannot listen before {member}"))?;
        let address = listener.local_addr()?;
        let (network, member) = (self.clone_without_gates(), member.to_owned());
        let task = tokio::spawn(async move {
            let mut wires = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        // The dialler has gone already, or there are too many files: it dials again.
                        let Ok((dialler, from)) = accepted else { continue };
                        let (network, member) = (network.clone(), member.clone());
                        wires.spawn(async move { network.connect(dialler, from, &member, target).await });
                    }
                    Some(_) = wires.join_next() => {}
                }
            }
        });
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).push(Gate(task));
        Ok(address)
    }

    /// A gate that kept the list of gates alive would never end.
    fn clone_without_gates(&self) -> Network {
        Network { rules: self.rules.clone(), owners: self.owners.clone(), gates: Arc::default() }
    }

    /// Nothing passes from the one to the other.
    pub fn cut_direction(&self, from: &str, to: &str) {
        self.rules.send_modify(|rules| {
            rules.cut.insert((from.to_owned(), to.to_owned()));
        });
    }

    /// Nothing passes between them.
    pub fn cut(&self, one: &str, other: &str) {
        self.cut_direction(one, other);
        self.cut_direction(other, one);
    }

    /// Everything passes between them.
    pub fn mend(&self, one: &str, other: &str) {
        self.rules.send_modify(|rules| {
            rules.cut.remove(&(one.to_owned(), other.to_owned()));
            rules.cut.remove(&(other.to_owned(), one.to_owned()));
        });
    }

    pub fn lose(&self, loss: Loss) {
        self.rules.send_modify(|rules| rules.loss = Some(loss));
    }

    /// Closes all connections that a member has dialled, at once.
    pub fn break_all_of(&self, members: impl IntoIterator<Item = impl AsRef<str>>) {
        self.rules.send_modify(|rules| {
            for member in members {
                *rules.broken.entry(member.as_ref().to_owned()).or_default() += 1;
            }
        });
    }

    /// All wires are whole again.
    pub fn heal(&self) {
        self.rules.send_modify(|rules| {
            rules.cut.clear();
            rules.loss = None;
        });
    }

    async fn connect(&self, dialler: TcpStream, from: SocketAddr, to: &str, target: SocketAddr) {
        let Some(from) = self.owner(from) else { return };
        let mut rules = self.rules.subscribe();
        let broken = |rules: &Rules| rules.broken.get(&from).copied().unwrap_or_default();
        let before = broken(&rules.borrow());
        let is_open = |rules: &Rules| !rules.is_cut(&from, to) && !rules.is_cut(to, &from);
        if rules.wait_for(is_open).await.is_err() {
            return;
        }
        // Nobody listens there: the dialler sees its connection end.
        let Ok(callee) = TcpStream::connect(target).await else { return };
        if dialler.set_nodelay(true).is_err() || callee.set_nodelay(true).is_err() {
            return;
        }
        let ((read, write), (read_back, write_back)) = (dialler.into_split(), callee.into_split());
        let there = self.carry(read, write_back, &from, to);
        let back = self.carry(read_back, write, to, &from);
        let mut breaks = self.rules.subscribe();
        tokio::select! {
            _ = async { tokio::join!(there, back) } => {}
            _ = breaks.wait_for(|rules| broken(rules) != before) => {}
        }
    }

    /// One direction of a connection, until either side has ended it.
    async fn carry(&self, mut read: OwnedReadHalf, mut write: OwnedWriteHalf, from: &str, to: &str) {
        let mut rules = self.rules.subscribe();
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = read.read(&mut chunk).await.unwrap_or_default();
            let loss = match rules.wait_for(|rules| !rules.is_cut(from, to)).await {
                Ok(rules) => rules.loss,
                Err(_) => return,
            };
            if count == 0 {
                // The other side is gone too when this fails.
                write.shutdown().await.ok();
                return;
            }
            if let Some(loss) = loss
                && rand::random_range(0..100) < loss.percent
            {
                tokio::time::sleep(loss.delay).await;
            }
            if write.write_all(&chunk[..count]).await.is_err() {
                return;
            }
        }
    }

    /// Whose socket has this local address.
    fn owner(&self, address: SocketAddr) -> Option<String> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let socket = format!("socket:[{}]", inode_of(address)?);
        owners.into_iter().find_map(|(process, owner)| {
            let mut files = fs::read_dir(format!("/proc/{process}/fd")).ok()?.flatten();
            let is_it = |link: std::path::PathBuf| link.to_str() == Some(socket.as_str());
            files.any(|file| fs::read_link(file.path()).is_ok_and(is_it)).then_some(owner)
        })
    }
}

/// The inode of the socket with this local address, from the kernel's table: `sl local rem st tx:rx tr:when retrnsmt uid
/// timeout inode`, the address as hexadecimal digits of four bytes in the machine's order and a port.
fn inode_of(address: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(address) = address else { return None };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        (fields.next()? == local).then(|| fields.nth(7)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(20);
    const NOT_YET: Duration = Duration::from_millis(100);

    async fn wire() -> (Network, TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let network = Network::default();
        network.owns("me", std::process::id());
        let target = listener.local_addr().expect("an address");
        let gate = network.gate("you", 0, target).await.expect("a gate");
        let dialled = TcpStream::connect(gate).await.expect("connected");
        let accepted = timeout(SOON, listener.accept()).await.expect("soon").expect("accepted").0;
        (network, dialled, accepted)
    }

    async fn hears(stream: &mut TcpStream) -> u8 {
        timeout(SOON, stream.read_u8()).await.expect("soon").expect("read")
    }

    #[tokio::test]
    async fn a_cut_direction_holds_and_the_other_passes() {
        let (network, mut me, mut you) = wire().await;
        me.write_u8(1).await.expect("written");
        assert_eq!(hears(&mut you).await, 1);
        network.cut_direction("me", "you");
        me.write_u8(2).await.expect("written");
        you.write_u8(3).await.expect("written");
        assert_eq!(hears(&mut me).await, 3);
        assert!(timeout(NOT_YET, you.read_u8()).await.is_err());
        network.heal();
        assert_eq!(hears(&mut you).await, 2);
    }

    #[tokio::test]
    async fn a_broken_connection_ends_on_both_sides() {
        let (network, mut me, mut you) = wire().await;
        network.break_all_of(["me"]);
        assert!(timeout(SOON, me.read_u8()).await.expect("soon").is_err());
        assert!(timeout(SOON, you.read_u8()).await.expect("soon").is_err());
    }
}
