#!/usr/bin/env node
// Publishes restore jobs and follows them to their ends. Needs amqplib (tried with 0.10).
//
//   AMQP_URI=amqp://user:password@host/vhost node emitter.mjs JOBS.jsonl
//
// One job a line. Prints each event's essence; exit code 0 only if every job succeeded. Can be stopped and run again with the
// same file: the same jobId published twice is imported once and told twice.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import amqp from "amqplib";

const prefix = process.env.RESTORE_PREFIX ?? "restore"; // broker.prefix of the fleet
const lines = readFileSync(process.argv[2], "utf8").split("\n").filter((line) => line.trim());
const jobs = new Map(lines.map((line) => JSON.parse(line)).map((job) => [job.jobId, job]));

const connection = await amqp.connect(process.env.AMQP_URI);
const channel = await connection.createConfirmChannel();

// A queue of one's own, which outlives this program: its name follows from the file.
const digest = createHash("sha256").update([...jobs.keys()].sort().join("\n")).digest("hex").slice(0, 16);
const replyTo = `emitter.${digest}`;
await channel.assertQueue(replyTo, { durable: true, arguments: { "x-queue-type": "quorum" } });

// A message without a queue comes back before its confirm.
channel.on("return", (message) => {
  console.error(`no queue for ${message.properties.messageId}: does a worker run, is the prefix right?`);
  process.exit(2);
});
for (const job of jobs.values()) {
  channel.publish(prefix, `${prefix}.jobs`, Buffer.from(JSON.stringify(job)), {
    contentType: "application/json",
    type: "restore.job.v1",
    persistent: true,
    mandatory: true,
    messageId: job.jobId,
    replyTo,
  });
}
await channel.waitForConfirms(); // rejects if the broker refuses one

// Of several replays the highest counts; of one replay's events the latest.
const later = (a, b) => a.replay - b.replay || (a.completedAt > b.completedAt ? 1 : -1);
const ends = new Map();
await channel.prefetch(100);
const { consumerTag } = await new Promise((resolve, reject) => {
  const consuming = channel.consume(replyTo, (message) => {
    if (message === null) return reject(new Error(`${replyTo} was deleted`));
    const event = JSON.parse(message.content.toString());
    const known = ends.get(event.jobId);
    // Events come at least once, and may be of a run before this one. Fields and statuses unknown here are ignored.
    if (jobs.has(event.jobId) && (!known || later(event, known) > 0)) {
      ends.set(event.jobId, event);
      console.log(event.jobId, event.status, event.itemId ?? event.error.code);
    }
    channel.ack(message);
    if (ends.size === jobs.size) resolve(consuming);
  });
});
await channel.cancel(consumerTag);
await channel.deleteQueue(replyTo);
await channel.close();
await connection.close();
process.exitCode = [...ends.values()].every((event) => event.status === "succeeded") ? 0 : 1;
