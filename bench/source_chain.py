"""An EVM source as a process: logs a second of a backfill, and its CPU at 100 swaps a second.

    python -m bench.source_chain [-n 100000] [--live-seconds 20]

A node on loopback answers `manage.py run_source`, which sends to a broker. The backfill is measured
from the source's beginning to the last record in the topic, which must have two for each swap. Then
a second source follows a node that mines a block a second with RATE swaps. Node and broker run on
the same cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Final

from aggregator.member.topics import ensure_topics
from bench import command
from bench.cpu import CpuMeter, cpu_seconds
from bench.service import ROOT, BenchService, Logged, WrongResult, instant, say
from bench.source_exchange import TopicCount
from bench.source_logs import FACTORIES, PER_BLOCK, USDC, WETH, KnownContracts, pool_id
from infra.embedded.kafka import Kafka
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port

LOGS: Final = 20_000
"""Logs of one round."""
RATE: Final = 100
LIVE_S: Final = 20
_LATE_S: Final = 300
_STOP_S: Final = 20


def measure(rounds: int) -> dict[str, Any]:
    """Return what was measured with LOGS logs a round."""
    return measure_logs(rounds * LOGS, LIVE_S)


def measure_logs(logs: int, live_s: int) -> dict[str, Any]:
    """Return what was measured with so many logs and so many seconds."""
    with BenchService("chain", engines=(Nats, Kafka)) as service:
        ensure_topics(service.config)
        topic = TopicCount(service)
        found = _backfill(service, topic, logs)
        return found | (_live(service, topic, live_s) if live_s else {})


def _backfill(service: BenchService, topic: TopicCount, logs: int) -> dict[str, Any]:
    blocks = logs // PER_BLOCK
    node = _node(service, "backfill", blocks + 1, 0)
    source = _source(service, "backfill", node, "--from-block", "1")
    pids = {"source": source.pid, "node": node.pid, "kafka": service.stack.kafka.pid}
    with CpuMeter(pids) as meter:
        first, last = _arrive(source, topic, 2 * logs)
    cpu = meter.between(first, last)
    source.stop(_STOP_S)
    node.stop(_STOP_S)
    say(f"chain: {logs / (last - first):,.0f} logs/s, two records for each swap")
    return {
        "logs_per_s": round(logs / (last - first)),
        "source_cpu_s_per_million_logs": round(cpu["source"] / logs * 1e6, 1),
        "node_cpu_s_per_million_logs": round(cpu["node"] / logs * 1e6, 1),
        "kafka_cpu_s_per_million_logs": round(cpu["kafka"] / logs * 1e6, 1),
        "seconds": round(last - first, 2),
        "logs": logs,
    }


def _live(service: BenchService, topic: TopicCount, seconds: int) -> dict[str, Any]:
    node = _node(service, "live", 2, RATE)
    before = topic.records()
    source = _source(service, "live", node)
    source.wait_for("events", lambda: topic.records() > before + 6 * RATE)
    begun, had, used = time.time(), topic.records(), cpu_seconds(source.pid)
    time.sleep(seconds)
    took, has, now_used = time.time() - begun, topic.records(), cpu_seconds(source.pid)
    source.check()
    share = ((now_used or 0) - (used or 0)) / took
    resident = source.resident_bytes()
    source.stop(_STOP_S)
    node.stop(_STOP_S)
    say(f"chain: {share:.1%} of a core live")
    return {
        "live_swaps_per_s": round((has - had) / 2 / took, 1),
        "live_cpu_percent_of_a_core": round(100 * share, 2),
        "resident_mb": round(resident / 1e6),
    }


def _node(service: BenchService, name: str, blocks: int, rate: int) -> Logged:
    log = service.directory / "log" / f"node-{name}.log"
    node = Logged(f"node-{name}", log, service.stack.guard)
    arguments = ["-m", "bench.chain_node", str(blocks), str(rate)]
    node.launch([sys.executable, *arguments], service.env, cwd=ROOT)
    node.wait_for("address", lambda: bool(node.lines("listening")))
    return node


def _source(service: BenchService, name: str, node: Logged, *arguments: str) -> Logged:
    config = service.directory / f"{name}.toml"
    config.write_text(_config(name, node.lines("listening")[0]["rpc"]))
    log = service.directory / "log" / f"source-{name}.log"
    process = Logged(f"source-{name}", log, service.stack.guard)
    env = service.env | {"METRICS_PORT": str(free_port())}
    asked = ["manage.py", "run_source", "--config", str(config), "--name", name, *arguments]
    process.launch([sys.executable, *asked], env, cwd=ROOT)
    return process


def _config(name: str, rpc: str) -> str:
    pools = KnownContracts().pools
    factories = "".join(
        f"[[source.{name}.factory]]\n"
        f'venue = "{factory.venue}"\nkind = "{factory.kind}"\naddress = "{factory.address}"\n'
        + (f'positions = "{factory.positions}"\n' if factory.positions else "")
        for factory in FACTORIES
    )
    return f"""[source.{name}]
kind = "evm"
chain = "bench"
rpc = ["{rpc}"]
{factories}[source.{name}.trusted]
stable = ["{USDC}"]
native = "{WETH}"
reference_pools = ["{pools[0]}", "{pools[1]}", "{pool_id(pools[2])}"]
"""


def _arrive(source: Logged, topic: TopicCount, records: int) -> tuple[float, float]:
    """Wait until all records are in the topic; return when the source began and when they were."""
    deadline = time.monotonic() + _LATE_S + records / 1_000
    while (count := topic.records()) < records:
        source.check()
        if time.monotonic() > deadline:
            raise WrongResult(f"{count:,} of {records:,} records arrived:\n{source.tail()}")
        time.sleep(0.02)
    if count != records:
        raise WrongResult(f"{records:,} records were expected, {count:,} are there")
    return instant(source.lines("source_begins")[0]), time.time()


def run(options: argparse.Namespace) -> dict[str, Any]:
    return measure_logs(options.n, options.live_seconds)


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.source_chain", description=(__doc__ or "").strip())
    parser.add_argument("-n", type=int, default=5 * LOGS, help="logs of the backfill")
    parser.add_argument("--live-seconds", type=int, default=LIVE_S, help="0 leaves this part out")
    command.main(parser, run)


if __name__ == "__main__":
    main()
