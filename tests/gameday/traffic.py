"""A process that sends the day's swaps at an even rate and follows the orders on its input.

    {"do": "poison", "count": 200}
    {"do": "jump", "events_ms": 600000, "records_ms": 0, "share": 0.2, "seconds": 4}
    {"do": "misplace", "partitioner": "crc32", "share": 0.2, "seconds": 4}
    {"do": "stop"}

Writes a line of JSON a second: {"at", "sent", "queued", "refused"}; the last has "over": true. Ends
when its input ends.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from typing import Any

from confluent_kafka import Producer

from tests.gameday.events import Events, Jump, Record

_STEP_S = 0.05
_FLUSH_S = 90


def now_ms() -> int:
    """The producer's clock without a jump."""
    return time.time_ns() // 1_000_000


class Traffic:
    """One producer that queues what the broker does not accept now and sends it later, in order."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._topic = options.topic
        self._rate = options.rate
        self._events = Events(options.seed, options.tokens)
        self._jump, self._jump_share, self._jump_until = Jump(), 0.0, 0.0
        self._partitioner, self._misplaced_share, self._misplaced_until = "murmur2", 0.0, 0.0
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self._sent = 0
        self._refused: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": options.bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 0,
                "queue.buffering.max.messages": 2_000_000,
                "queue.buffering.max.kbytes": 1_000_000,
                "log_level": 0,
                "on_delivery": self._delivered,
            }
        )

    def _delivered(self, error: Any, _message: Any) -> None:
        if error is not None:
            self._refused.append(str(error))

    def run(self) -> None:
        """Send until the order to stop, or until the input ends."""
        threading.Thread(target=self._listen, daemon=True).start()
        begun = reported = time.monotonic()
        drawn = 0
        while True:
            if not self._obey():
                break
            now = time.monotonic()
            due = int((now - begun) * self._rate) - drawn
            drawn += due
            jumped = int(due * self._jump_share) if now < self._jump_until else 0
            elsewhere = int(due * self._misplaced_share) if now < self._misplaced_until else 0
            self._send(self._events.some(due - jumped - elsewhere, now_ms(), Jump()))
            self._send(self._events.some(jumped, now_ms(), self._jump))
            other = self._partitioner
            self._send(self._events.some(elsewhere, now_ms(), Jump(), partitioner=other))
            self._producer.poll(0)
            if now - reported >= 1:
                reported = now
                self._report()
            time.sleep(_STEP_S)
        self._producer.flush(_FLUSH_S)
        self._report(over=True)

    def _listen(self) -> None:
        for line in sys.stdin:
            self._orders.put(json.loads(line))
        self._orders.put({"do": "stop"})

    def _obey(self) -> bool:
        """Follow all waiting orders; return whether to continue."""
        while not self._orders.empty():
            order = self._orders.get()
            match order["do"]:
                case "poison":
                    self._send([self._events.bad(now_ms()) for _ in range(order["count"])])
                case "jump":
                    self._jump = Jump(order["events_ms"], order["records_ms"])
                    self._jump_share = order["share"]
                    self._jump_until = time.monotonic() + order["seconds"]
                case "misplace":
                    self._partitioner = order["partitioner"]
                    self._misplaced_share = order["share"]
                    self._misplaced_until = time.monotonic() + order["seconds"]
                case "stop":
                    return False
        return True

    def _send(self, records: list[Record]) -> None:
        for each in records:
            self._producer.produce(
                self._topic, each.value, each.key, each.partition, timestamp=each.timestamp
            )
        self._sent += len(records)

    def _report(self, over: bool = False) -> None:
        line = {"at": now_ms(), "sent": self._sent, "queued": len(self._producer), "over": over}
        print(json.dumps(line | {"refused": self._refused[:5]}), flush=True)


def main() -> None:
    """Run the process; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.gameday.traffic")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    Traffic(parser.parse_args()).run()


if __name__ == "__main__":
    main()
