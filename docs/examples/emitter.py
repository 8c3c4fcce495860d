#!/usr/bin/env python3
"""Publishes restore jobs and follows them to their ends. Needs pika (tried with 1.4).

    AMQP_URI=amqp://user:password@host/vhost emitter.py JOBS.jsonl

One job a line. Prints each event's essence; exit code 0 only if every job succeeded. Can be stopped and run again with the same
file: the same jobId published twice is imported once and told twice.
"""

import hashlib
import json
import os
import sys

import pika

PREFIX = os.environ.get("RESTORE_PREFIX", "restore")  # broker.prefix of the fleet


def publish(channel, reply_to, job):
    """Returns when the broker has the job on disk; raises if it has no queue for it or refuses it."""
    properties = pika.BasicProperties(
        content_type="application/json",
        type="restore.job.v1",
        delivery_mode=pika.DeliveryMode.Persistent,
        message_id=job["jobId"],
        reply_to=reply_to,
    )
    channel.basic_publish(PREFIX, f"{PREFIX}.jobs", json.dumps(job).encode(), properties, mandatory=True)


def rank(event):
    """Of several replays the highest counts; of one replay's events the latest."""
    return event["replay"], event["completedAt"]


def main(path):
    with open(path, encoding="utf-8") as lines:
        jobs = {job["jobId"]: job for job in (json.loads(line) for line in lines if line.strip())}
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URI"]))
    channel = connection.channel()
    channel.confirm_delivery()

    # A queue of one's own, which outlives this program: its name follows from the file.
    digest = hashlib.sha256("\n".join(sorted(jobs)).encode()).hexdigest()[:16]
    reply_to = f"emitter.{digest}"
    channel.queue_declare(reply_to, durable=True, arguments={"x-queue-type": "quorum"})
    for job in jobs.values():
        publish(channel, reply_to, job)

    ends = {}
    channel.basic_qos(prefetch_count=100)
    for delivery, _, body in channel.consume(reply_to):
        event = json.loads(body)
        job_id = event["jobId"]
        # Events come at least once, and may be of a run before this one. Fields and statuses unknown here are ignored.
        if job_id in jobs and (job_id not in ends or rank(event) > rank(ends[job_id])):
            ends[job_id] = event
            print(job_id, event["status"], event.get("itemId") or event["error"]["code"], flush=True)
        channel.basic_ack(delivery.delivery_tag)
        if len(ends) == len(jobs):
            break
    channel.cancel()
    channel.queue_delete(reply_to)
    connection.close()
    return all(event["status"] == "succeeded" for event in ends.values())


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1]) else 1)
