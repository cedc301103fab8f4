"""The clients' README: both clients install, and its programs compile and run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.runtime.version import VERSION
from infra.embedded.stack import Stack
from tests.integration.client_processes import node
from tests.support.service import Service, swap

ROOT = Path(__file__).parents[2]
# `tsc --strict` must accept the types; one version of TypeScript is tested.
TYPESCRIPT = "typescript@5.9.3"
README = (ROOT / "clients" / "README.md").read_text()


@pytest.fixture(scope="module")
def service(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("examples"), stack) as running:
        running.aggregator()
        running.web()
        running.wait_ready()
        # A token belongs to one partition, so all swaps have its key.
        running.produce([swap(n, token="SEEN") for n in range(3)], key="ethereum:SEEN")
        running.wait_trades(3)
        yield running


def environment(service: Service) -> dict[str, str]:
    """Return the environment that the README describes."""
    token = service.manage("issue_token", "--sub", "me").stdout.strip()
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # Python flushes each line to a terminal, but buffers output to a pipe.
    kept["PYTHONUNBUFFERED"] = "1"
    return kept | {"WEB_URL": f"http://127.0.0.1:{service.web_port}", "TOKEN": token}


def prints_a_change(command: list[str], service: Service, directory: Path) -> None:
    """Assert that the example prints the token's volume, then the new volume after a swap."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment(service),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = threading.Timer(30, process.kill)
    end.start()
    try:
        assert process.stdout is not None
        before = next(process.stdout).split()
        assert before[0] == "ethereum:SEEN", before
        number = time.time_ns()
        service.produce([swap(number, token="SEEN")], key="ethereum:SEEN")
        after = [*before[:1], f"{float(before[1]) + 10.5:.6f}"]
        seen = (line.split() for line in process.stdout)
        assert next((each for each in seen if each != before), None) == after
    finally:
        end.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def block(language: str) -> str:
    """Return the README's program in that language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an environment with the Python client, installed as the README says."""
    assert "pip install ./clients/python" in README
    checkout = tmp_path_factory.mktemp("checkout")
    # Copy only the clients, which must not need the service.
    shutil.copytree(
        ROOT / "clients", checkout / "clients", ignore=shutil.ignore_patterns("__pycache__")
    )
    venv = checkout / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=150)
    pip = [venv / "bin" / "pip", "--disable-pip-version-check"]
    installed = subprocess.run(
        [*pip, "install", "./clients/python"],
        cwd=checkout,
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert installed.returncode == 0, installed.stderr
    listed = subprocess.run([*pip, "list"], check=True, capture_output=True, text=True, timeout=60)
    found = dict(re.findall(r"^([\w-]+) +(\d\S*)", listed.stdout, re.MULTILINE))
    assert found.keys() - {"pip", "setuptools"} == {"swapclient", "websockets", "msgspec"}
    assert found["swapclient"] == VERSION
    return checkout


@pytest.mark.timeout(600)
def test_the_python_example_from_a_fresh_environment(service: Service, python: Path) -> None:
    assert "python clients/python/example.py" in README
    prints_a_change(["venv/bin/python", "clients/python/example.py"], service, python)


@pytest.mark.timeout(600)
def test_the_python_program_of_the_readme(service: Service, python: Path) -> None:
    (python / "readme.py").write_text(block("python").replace("ethereum:WETH", "ethereum:SEEN"))
    prints_a_trade(["venv/bin/python", "readme.py"], service, python)
    assert (next(python.glob("venv/lib/*/site-packages")) / "swapclient" / "py.typed").is_file()


def test_the_javascript_example(service: Service) -> None:
    assert "node clients/js/example.mjs" in README
    prints_a_change([*node(), "clients/js/example.mjs"], service, ROOT)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a CommonJS project as `npm init -y` does, with the client and TypeScript."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    assert "npm install ./clients/js" in README
    project = tmp_path_factory.mktemp("page")
    shutil.copytree(ROOT / "clients" / "js", project / "clients" / "js")
    manifest = {"name": "page", "version": "1.0.0", "type": "commonjs"}
    (project / "package.json").write_text(json.dumps(manifest))
    for package in ("./clients/js", TYPESCRIPT):
        done = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", package],
            cwd=project,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if package == TYPESCRIPT and done.returncode:
            pytest.skip(f"{TYPESCRIPT} cannot be had from the registry: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
    return project


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("module", "file"),
    [("nodenext", "readme.mts"), ("bundler", "readme.ts"), ("nodenext", "events.mts")],
)
def test_the_readmes_javascript_is_good_typescript(page: Path, module: str, file: str) -> None:
    source = EVENTS if file == "events.mts" else block("js")
    (page / file).write_text(source)
    options = ["--strict", "--noEmit", "--target", "es2022", "--lib", "es2022,dom"]
    options += ["--moduleResolution", module]
    options += ["--module", "nodenext" if module == "nodenext" else "esnext"]
    compiled = subprocess.run(
        ["node_modules/.bin/tsc", *options, file],
        cwd=page,
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert compiled.returncode == 0, compiled.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("file", ["readme.mjs", "readme.cjs"])
def test_the_readmes_javascript_runs(page: Path, service: Service, file: str) -> None:
    program = block("js").replace("ethereum:WETH", "ethereum:SEEN")
    program = program.replace('"https://swaps.example.com"', "process.env.WEB_URL")
    program = re.sub(r"token: async .*\.text\(\)", "token: process.env.TOKEN", program)
    if file == "readme.cjs":
        program = program.replace("import { SwapsClient } from", "const { SwapsClient } = require(")
        program = program.replace('require( "swapclient";', 'require("swapclient");')
    (page / file).write_text(program)
    prints_a_trade([*node(), file], service, page)


def prints_a_trade(command: list[str], service: Service, directory: Path) -> None:
    """Assert that the program prints the token with its trades, then the next trade."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment(service),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = threading.Timer(30, process.kill)
    end.start()
    try:
        assert process.stdout is not None
        lines = (line for line in process.stdout if line.startswith("ethereum:SEEN"))
        assert next(lines, None), "nothing of the trades that there are"
        service.produce([swap(time.time_ns(), token="SEEN")], key="ethereum:SEEN")
        assert next(lines, None), "nothing of the new trade"
    finally:
        end.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


EVENTS = """
import { ConnectionRefused, IngestFailed, SwapsClient, ingest } from "swapclient";
import type { Overview, Refusal, SwapEvent } from "swapclient";

const swap: SwapEvent = {
  chain: "c", tx_hash: "t", log_index: 0, timestamp: 0, token: "T", side: "buy", amount: "1",
};
ingest({ url: "https://host", token: "jwt", swaps: [swap, "{}"], withinMs: 60_000 })
  .then(({ accepted, errors }) => console.log(accepted.toFixed(), errors[0]?.field.trim()))
  .catch((error: Error) => error instanceof IngestFailed && error.report.rejected.toFixed());
// @ts-expect-error -- a side is buy or sell
ingest({ url: "/", token: "jwt", swaps: [{ ...swap, side: "both" }] });

const client = new SwapsClient({ url: "https://host", token: () => "jwt" });
client.addEventListener("refused", ({ detail }) => {
  const refusal: Refusal = detail;
  const text: string = `${refusal.code} ${refusal.close_code}`;
  console.log(text);
}, { once: true });
client.addEventListener("notice", ({ detail }) => detail.toUpperCase());
client.addEventListener("own event", (event: Event) => console.log(event.type));
client.addEventListener("error", null);
const onChange = ({ detail }: CustomEvent<{ stale: boolean }>) => console.log(detail.stale);
client.addEventListener("change", onChange);
client.removeEventListener("change", onChange);
if (client.error instanceof ConnectionRefused) console.log(client.error.retry_in_ms.toFixed());
client.subscribe({
  channel: "overview",
  onUpdate: ({ data }) => {
    const overview: Overview = data;
    const cursor: string | null = overview.next_cursor;
    console.log(cursor);
  },
});
// @ts-expect-error -- the state is a text
client.addEventListener("change", ({ detail }) => detail.state.toFixed());
"""
