//! A TCP proxy that can cut its connections, or stop forwarding without a word.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What is forwarded now: connections older than a stall stand still, those older than a cut are gone.
#[derive(Clone, Copy, Debug, Default)]
struct Orders {
    /// Connections made before this many had been made are gone.
    cut: u64,
    /// Connections made before this many had been made stand still.
    stalled: u64,
    /// Nobody gets through.
    closed: bool,
    made: u64,
}

/// The running proxy; it ends when dropped, and its connections with it.
pub struct Proxy {
    address: SocketAddr,
    orders: Arc<watch::Sender<Orders>>,
    _stop: DropGuard,
}

impl Proxy {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(target: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let orders = Arc::new(watch::Sender::new(Orders::default()));
        let stop = CancellationToken::new();
        let accepting = accept(listener, target.to_owned(), Arc::clone(&orders), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Self { address, orders, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection that stands now; new ones get through.
    pub fn cut(&self) {
        self.orders.send_modify(|orders| orders.cut = orders.made);
    }

    /// Forwards nothing more on the connections that stand now, which stay open; new ones get through.
    pub fn stall(&self) {
        self.orders.send_modify(|orders| orders.stalled = orders.made);
    }

    /// Forwards again what has waited since a stall.
    pub fn resume(&self) {
        self.orders.send_modify(|orders| orders.stalled = 0);
    }

    /// Lets nobody through any more, or everybody again.
    pub fn close(&self, closed: bool) {
        self.orders.send_modify(|orders| orders.closed = closed);
    }
}

async fn accept(
    listener: TcpListener,
    target: String,
    orders: Arc<watch::Sender<Orders>>,
    stop: CancellationToken,
) {
    loop {
        let Ok((inner, _)) = listener.accept().await else { continue };
        if orders.borrow().closed {
            continue;
        }
        let number = orders.borrow().made;
        orders.send_modify(|orders| orders.made += 1);
        let forwarding = forward(inner, target.clone(), number, orders.subscribe());
        tokio::spawn(stop.clone().run_until_cancelled_owned(forwarding));
    }
}

async fn forward(inner: TcpStream, target: String, number: u64, mut orders: watch::Receiver<Orders>) {
    let Ok(outer) = TcpStream::connect(target).await else { return };
    let (inner_read, inner_write) = inner.into_split();
    let (outer_read, outer_write) = outer.into_split();
    tokio::select! {
        () = copy(inner_read, outer_write, number, orders.clone()) => {}
        () = copy(outer_read, inner_write, number, orders.clone()) => {}
        _ = orders.wait_for(|orders| number < orders.cut) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    mut orders: watch::Receiver<Orders>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if orders.wait_for(|orders| number >= orders.stalled).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn echo() -> Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        Ok(address)
    }

    async fn ask(stream: &mut TcpStream) -> Result<u8> {
        stream.write_all(b"x").await?;
        Ok(stream.read_u8().await?)
    }

    #[tokio::test]
    async fn it_forwards_stands_still_goes_on_and_cuts() -> Result<()> {
        let proxy = Proxy::start(&echo().await?.to_string()).await?;
        let mut stream = TcpStream::connect(proxy.address()).await?;
        assert_eq!(ask(&mut stream).await?, b'x');
        proxy.stall();
        assert!(timeout(Duration::from_millis(100), ask(&mut stream)).await.is_err());
        let mut other = TcpStream::connect(proxy.address()).await?;
        assert_eq!(ask(&mut other).await?, b'x', "new connections get through");
        proxy.resume();
        assert_eq!(stream.read_u8().await?, b'x');
        proxy.cut();
        assert!(ask(&mut stream).await.is_err());
        Ok(())
    }
}
