"""How the tests run on several workers: one embedded stack for all, long files first.

Every file stays on one worker, so what its fixtures start is started once. A worker that needs the
engines asks the process that started it; that one owns them, so they end with it however it ends.
Without workers (plain `pytest`) a session has a stack of its own.
"""

from __future__ import annotations

import gc
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

from infra.embedded import ports
from infra.embedded.stack import Stack

# What takes longest, so that no worker begins it when the others are about to end. The rest follows
# in the order of the folders, unit tests last: they fill what is left of every worker's time.
LONGEST_FIRST: Final = (
    "tests/integration/test_promtool.py",
    "tests/e2e/test_readme.py",
    "tests/integration/test_history_storm.py",
    "tests/integration/test_archiver.py",
    "tests/integration/test_clients.py",
    "tests/e2e/test_client_examples.py",
    "tests/chaos/test_chaos.py",
    "tests/chaos/test_archive_chaos.py",
    "tests/integration/test_schemathesis.py",
    "tests/integration/test_pipeline.py",
)
# One worker runs a file and then its companion: both build promtool; and a worker is given its next
# file while the last test but one still runs, so a file of one long test would hold back others.
TOGETHER: Final = {
    "tests/e2e/test_client_examples.py": "tests/e2e/test_readme.py",
    "tests/integration/test_alerts_end_to_end.py": "tests/integration/test_promtool.py",
}

_UNIT: Final = Path(__file__).parent / "unit"
_WANTED: Final = "wanted"
_ADDRESSES: Final = "addresses.json"
_POLL_S: Final = 0.05
_START_WITHIN_S: Final = 110
_DIRECTORY: Final = "stack_directory"


class SharedStack:
    """The stack of all workers, on a thread of the process that started them."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="tests-stack-")
        self.directory = Path(self._temporary.name)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="stack", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not (self.directory / _WANTED).exists():
            if self._over.wait(_POLL_S):
                return
        try:
            with Stack(self.directory / "engines") as running:
                found = {
                    "ports": {engine.name: engine.port for engine in running.engines},
                    "s3_secret": running.s3.secret_key,
                }
                self._tell(found)
                self._over.wait()
        except Exception as fault:
            self._tell({"fault": str(fault)})

    def _tell(self, found: dict[str, Any]) -> None:
        part = self.directory / "part"
        part.write_text(json.dumps(found))
        part.rename(self.directory / _ADDRESSES)

    def close(self) -> None:
        """Stop the engines, where a worker wanted them."""
        self._over.set()
        self._thread.join()
        self._temporary.cleanup()


def pytest_configure(config: pytest.Config) -> None:
    """A worker keeps to its share of the free ports; who starts workers has another."""
    worker = getattr(config, "workerinput", None)
    count = worker["workercount"] if worker else config.getoption("numprocesses", None)
    if not count:
        return
    ports.keep_to_share(int(worker["workerid"][2:]) if worker else count, count + 1)
    if worker is None:
        shared = config.stash[_SHARED] = SharedStack()
        config.add_cleanup(shared.close)


_SHARED: Final = pytest.StashKey[SharedStack]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where to ask for the stack."""
    node.workerinput[_DIRECTORY] = str(node.config.stash[_SHARED].directory)


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka, Redis, NATS, S3 and ClickHouse on free ports, started when a first test asks for them.

    Shared by the whole session and all its workers: take topics, keys, subjects, buckets and
    databases of your own, and do not stop an engine (start a `Stack` of your own for that).
    """
    worker = getattr(pytestconfig, "workerinput", None)
    if worker is not None:
        yield _joined(Path(worker[_DIRECTORY]))
        return
    with Stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def pytest_collection_finish() -> None:
    """Leave what the imports made out of every later collection: it stays to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """What nobody closed is found while a test can still fail for it.

    Python would find it at the end of the process, and nobody hears a worker then.
    """
    yield
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_open_by_a_file(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same for each file that opens connections, so that no other file's test is blamed."""
    yield
    if not request.path.is_relative_to(_UNIT):
        gc.collect()


def _joined(directory: Path) -> Stack:
    """A stack that runs elsewhere: it knows all addresses, and has nothing to stop."""
    (directory / _WANTED).touch()
    deadline = time.monotonic() + _START_WITHIN_S
    while not (directory / _ADDRESSES).exists():
        assert time.monotonic() < deadline, f"no stack within {_START_WITHIN_S} s"
        time.sleep(_POLL_S)
    found = json.loads((directory / _ADDRESSES).read_text())
    assert "fault" not in found, found["fault"]
    joined = Stack(directory / "engines", ports=found["ports"])
    joined.s3.secret_key = found["s3_secret"]
    return joined


class ByFile(LoadScopeScheduling):
    """A file is run by one worker."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return TOGETHER.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Which worker runs what."""
    config.option.loadscopereorder = False  # it would begin with the files of the most tests
    return ByFile(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first, where there are workers to divide them among."""
    if hasattr(config, "workerinput"):
        rank = {name: number for number, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))
