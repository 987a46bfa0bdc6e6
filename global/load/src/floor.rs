//! What every replicated store pays: a write that is on the disk, and a message there and back.
use crate::run::Measured;
use anyhow::{Context as _, Result};
use std::{
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Appends with fdatasync after each write.
pub fn disk(dir: &Path, bytes: usize, writes: u32) -> Result<Measured> {
    let mut file =
        tempfile::tempfile_in(dir).with_context(|| format!("cannot write in {}", dir.display()))?;
    let block: Vec<u8> = (0..bytes).map(|_| rand::random()).collect();
    let mut took = Vec::new();
    let begin = Instant::now();
    for _ in 0..writes {
        let begin = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        took.push(begin.elapsed());
    }
    Measured::of(took, begin.elapsed(), Vec::new())
}

/// A message through a loopback connection and back.
pub async fn network(bytes: usize, trips: u32) -> Result<Measured> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut message = vec![0; bytes];
        for _ in 0..trips {
            stream.read_exact(&mut message).await?;
            stream.write_all(&message).await?;
        }
        std::io::Result::Ok(())
    });
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut message = vec![7; bytes];
    let mut took = Vec::new();
    let begin = Instant::now();
    for _ in 0..trips {
        let begin = Instant::now();
        stream.write_all(&message).await?;
        stream.read_exact(&mut message).await?;
        took.push(begin.elapsed());
    }
    let within: Duration = begin.elapsed();
    echo.await??;
    Measured::of(took, within, Vec::new())
}
