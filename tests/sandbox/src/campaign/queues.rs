//! The broker's own view: what its queues hold and, where one does not come to rest, whom it delivers to.

use anyhow::Result;

use super::VHOST;
use crate::rabbitmq::RabbitMq;

/// The state of each quorum queue that is not empty: its consumers, active and waiting, each with its channel's process.
const STATES: &str = "[begin {Name, _} = Id = amqqueue:get_pid(Q), \
     case catch ra:local_query(Id, fun(State) -> State end) of \
       {ok, {_, State}, _} -> \
         case maps:get(num_messages, rabbit_fifo:overview(State)) of \
           0 -> ok; \
           _ -> io:format(\"~s~n  ~0P~n\", [Name, State, 600]) \
         end; \
       Other -> io:format(\"~s ~0p~n\", [Name, Other]) \
     end end || Q <- rabbit_amqqueue:list(<<\"campaign\">>), amqqueue:get_type(Q) =:= rabbit_quorum_queue].";

/// A queue and what it holds.
pub(super) struct Queue {
    pub(super) name: String,
    pub(super) ready: u64,
    unacked: u64,
}

impl Queue {
    fn read(line: &str) -> Option<Self> {
        let mut columns = line.split('\t');
        let name = columns.next()?.to_owned();
        Some(Self { name, ready: columns.next()?.parse().ok()?, unacked: columns.next()?.parse().ok()? })
    }

    /// Dead letters are kept; everything else is to be empty, but for what a worker tells itself.
    pub(super) fn is_at_rest(&self) -> bool {
        let fleets = self.name.starts_with("restore.") || self.name.starts_with("campaign.");
        !fleets || (self.unacked == 0 && (self.ready == 0 || self.name == "restore.dead-letters"))
    }

    pub(super) fn describe(&self) -> String {
        format!("{} holds {} ready and {} unacked", self.name, self.ready, self.unacked)
    }
}

/// All queues of the campaign.
pub(super) async fn list(node: &RabbitMq) -> Result<Vec<Queue>> {
    let columns = ["name", "messages_ready", "messages_unacknowledged"];
    let mut arguments = vec!["list_queues", "-q", "--no-table-headers", "-p", VHOST];
    arguments.extend(columns);
    let text = node.rabbitmqctl(&arguments).await?;
    Ok(text.lines().filter_map(Queue::read).collect())
}

/// Prints who consumes, which channels there are, and what the queues that hold something know of their consumers: one whose
/// channel is not listed is dead.
pub(super) async fn tell(node: &RabbitMq) {
    for question in [
        &["list_consumers", "-q", "-p", VHOST][..],
        &["list_channels", "-q", "pid", "consumer_count", "messages_unacknowledged"],
        &["eval", STATES],
    ] {
        match node.rabbitmqctl(question).await {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("{error:#}"),
        }
    }
}
