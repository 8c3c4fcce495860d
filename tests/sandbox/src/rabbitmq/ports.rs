//! Ports for a node: free when looked at, and outside the range the system gives to outgoing connections, which
//! would otherwise take them between looking and using.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

const RANGE: std::ops::Range<u16> = 20_000..32_000;
/// How many `rabbitmqctl` may run at once.
const TOOLS: u16 = 8;

/// All ports of one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    pub(super) amqps: u16,
    pub(super) management: u16,
    pub(super) epmd: u16,
    pub(super) distribution: u16,
    /// The first of the ports for `rabbitmqctl`.
    pub(super) tools: u16,
}

impl Ports {
    /// Finds a block of free ports.
    pub(super) fn find() -> Result<Self> {
        let length = 5 + TOOLS;
        for _ in 0..200 {
            let first = fastrand::u16(RANGE.start..RANGE.end - length);
            if (first..first + length).all(is_free) {
                return Ok(Self {
                    amqp: first,
                    amqps: first + 1,
                    management: first + 2,
                    epmd: first + 3,
                    distribution: first + 4,
                    tools: first + 5,
                });
            }
        }
        bail!("no block of {length} free ports in {RANGE:?}")
    }

    /// The last of the ports for `rabbitmqctl`.
    pub(super) fn last_tool(&self) -> u16 {
        self.tools + TOOLS - 1
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
