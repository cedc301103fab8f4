"""Every command of the documents runs here, or its rule names the test that runs it.

The README's commands start the service. Bash runs a command as it is written, in the directory of
tests/support/docs_site.py; `docker` is the stand-in of tests/support/docs_docker.py. A command
without a rule fails.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource
from django.core.management import get_commands

from aggregator.runtime.config import load
from infra.embedded.stack import Stack
from tests.support.archived import archive
from tests.support.docs_commands import LANGUAGES, ROOT, Command, commands, documents, fences
from tests.support.docs_exchange import coinbase
from tests.support.docs_node import ethereum_node
from tests.support.docs_site import BEFORE, BIN, PROCESSES, WETH, WITHIN_S, Site
from tests.support.processes import wait_until
from tests.support.service import Service
from tests.unit.packaging import commands as packaged
from tests.unit.packaging.files import yaml_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("checkout")
    with archive(stack.clickhouse.url) as kept:
        settings = {
            "CLICKHOUSE_URL": kept.url,
            "ARCHIVE_LINGER": "100ms",
            "PROFILING": "1",
            "DATABASE_FILE": str(directory / "web-data/db.sqlite3"),
            "DJANGO_SECRET_KEY": "x" * 50,
            "KAFKA_GROUP_PROTOCOL": "consumer",
        }
        with Service(tmp_path_factory.mktemp("docs"), stack, **settings) as service:
            found = Site(directory, service, kept, stack)
            try:
                found.start()
                yield found
            finally:
                shutil.rmtree(found.backups, ignore_errors=True)


Run = Callable[[Site, str], None]


def runs(says: str = "", then: str = "", first: str = "", **env: str) -> Run:
    """Run it in bash; it must succeed. `first` is the pattern of a command to run before it."""

    def run(site: Site, text: str) -> None:
        for each in commands():
            if first and re.fullmatch(first, each.text):
                site.run(each.text)
        assert says in site.run(text + then, **env).stdout

    return run


def fewer_schedules(site: Site, text: str) -> None:
    """Run it in bash with 50 schedules."""
    assert "0 of 50" in site.run(re.sub(r"-n \d+", "-n 50", text)).stdout


def ablates(site: Site, text: str) -> None:
    """Run it in bash with 3 schedules for each rule."""
    rows = site.run(re.sub(r"-n \d+", "-n 3", text)).stdout.splitlines()
    assert sum(row.endswith("of 3") or " of 3 " in row for row in rows) > 20, rows


def ran_before(site: Site, text: str) -> None:
    """The site's preparation has run it."""
    assert site.done[text].returncode == 0


def serves(site: Site, text: str) -> None:
    """The site's process with this command line must be ready."""
    [name] = [name for name, each in PROCESSES.items() if each == text]
    path = f"http://127.0.0.1:{site.ports[name]}/readyz"
    site.run(f"curl --silent --fail-with-body {path}")
    assert site.running[name].running


def elsewhere(file: str, test: str) -> Run:
    """Name another test that runs it."""

    def run(site: Site, text: str) -> None:
        assert f"def {test}(" in (ROOT / file).read_text(), f"no {test} in {file}"

    return run


def each_way(site: Site, text: str) -> None:
    """Run it with the options in brackets and without them."""
    site.run(re.sub(r" \[.*?\]", "", text))
    site.run(re.sub(r"[\[\]]", "", text))


def makes(site: Site, text: str) -> None:
    """Every program of the target's recipe must exist and accept its arguments."""
    asked = recipe(text)
    assert asked
    for program, *arguments in asked:
        assert (BIN / program).exists() or (ROOT / ".ci" / program).exists(), program
        if (program, *arguments[:1]) == ("python", "manage.py"):
            packaged.check([program, *arguments])
        elif is_ours(program, *arguments):
            assert faults_of_ours()[*arguments] is None
        _paths_exist(arguments)


@cache
def recipe(text: str) -> list[tuple[str, ...]]:
    """Return the programs that make would run, each with its arguments."""
    dry = f'make() {{ command make -n "$@"; }}; {text}'
    done = subprocess.run(
        ["bash", "-euc", dry], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.replace("\\\n", " ")
    found = re.findall(r"\.(?:venv/bin|ci)/([\w-]+)((?: +[^\s;&|]+)*)", done)
    return [(program, *shlex.split(rest)) for program, rest in found]


def is_ours(program: str, *arguments: str) -> bool:
    """Return whether it is `python -m` with a module of the repository."""
    return (
        program == "python"
        and arguments[0] == "-m"
        and arguments[1].partition(".")[0] in {"bench", "tests", "infra"}
    )


@cache
def faults_of_ours() -> dict[tuple[str, ...], str | None]:
    """Return the error of each command line of our modules; one process checks all of them."""
    lines = {
        tuple(arguments)
        for command in commands()
        if re.fullmatch(MAKE, command.text)
        for program, *arguments in recipe(command.text)
        if is_ours(program, *arguments)
    }
    asked = sorted(lines)
    done = subprocess.run(
        [sys.executable, "tests/support/docs_parse.py"],
        cwd=ROOT,
        input=json.dumps([each[1:] for each in asked]),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(asked, json.loads(done.stdout), strict=True))


def are_tests(site: Site, text: str) -> None:
    """The tests run in this session, so only check that their files exist."""
    assert _paths_exist(shlex.split(text))


def _paths_exist(arguments: list[str]) -> int:
    paths = [each for each in arguments if each.startswith("tests/")]
    assert all((ROOT / each).exists() for each in paths), paths
    return len(paths)


def is_a_command(site: Site, text: str) -> None:
    """Check that `manage.py NAME` in a sentence exists; its use with options is run elsewhere."""
    [_, name] = text.split()
    assert name in get_commands()


def feeds_until_interrupted(site: Site, text: str) -> None:
    """Run it until swaps arrive; Ctrl-C must end it with status 0."""

    def invented() -> int:
        """Count synthetic tokens (TK0, TK1, …) only; a recording may still be arriving."""
        trades: int = site.service.overview(q="TK")["totals"]["trades"]
        return trades

    before = invented()
    command = shlex.split(site.filled(text))
    with subprocess.Popen(
        command,
        cwd=site.directory,
        env=site.service.env | site.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as feeding:
        try:
            wait_until(lambda: invented() > before, WITHIN_S, "invented trades")
            feeding.send_signal(signal.SIGINT)
            said, _ = feeding.communicate(timeout=WITHIN_S)
        finally:
            feeding.kill()
    assert feeding.returncode == 0, said


def follows_a_chain(site: Site, text: str) -> None:
    """Run it on a node of Ethereum until the source is live; SIGTERM must end it with status 0."""
    log = site.directory / "source.log"
    with (
        ethereum_node() as url,
        log.open("wb") as out,
        subprocess.Popen(
            shlex.split(text.replace("wss://HOST/KEY", url)),
            cwd=site.directory,
            env=site.service.env | site.env | {"ETH_RPC": url, "METRICS_PORT": "0"},
            stdout=out,
            stderr=out,
        ) as source,
    ):
        try:
            wait_until(lambda: '"live"' in log.read_text(), WITHIN_S, "a live source")
            source.terminate()
            assert source.wait(WITHIN_S) == 0, log.read_text()
        finally:
            source.kill()


def reads_an_exchange(site: Site, text: str) -> None:
    """Run it on an exchange on loopback until it reads; SIGTERM must end it with status 0."""
    log = site.directory / "exchange.log"
    with (
        coinbase("BTC-USD", "ETH-USD", "USDT-USD", "SOL-USDT") as venue,
        log.open("wb") as out,
    ):
        urls = {"stream-url": venue.stream_url, "rest-url": venue.rest_url}
        options = "".join(f" --{name} {url}" for name, url in urls.items())
        if "--config" in text:
            [settings] = [
                content
                for language, content in fences(ROOT / "docs/sources-exchanges.md")
                if language == "toml"
            ]
            keys = [f'{name.replace("-", "_")} = "{url}"\n' for name, url in urls.items()]
            (site.directory / "exchanges.toml").write_text(settings + "".join(keys))
            options = ""
        sign = '"tx_hash":"BTC-USD"' if "--dry-run" in text else '"live"'
        with subprocess.Popen(
            shlex.split(text + options),
            cwd=site.directory,
            env=site.service.env | site.env | {"METRICS_PORT": "0"},
            stdout=out,
            stderr=out,
        ) as source:
            try:
                wait_until(lambda: sign in log.read_text(), WITHIN_S, sign)
                source.terminate()
                assert source.wait(WITHIN_S) == 0, log.read_text()
            finally:
                source.kill()


def is_checked(site: Site, text: str) -> None:
    """Have the command check its settings; the nodes are a reader's own."""
    names = {"ETH_RPC": "wss://HOST/KEY", "BSC_RPC": "wss://HOST/KEY"}
    checked = text if text.endswith("--check") else f"{text} --check"
    assert 'kind = "evm"' in site.run(checked, **names).stdout


def has_letters(site: Site, text: str) -> None:
    """Run it with two dead letters; map a position in the command to the first or second."""
    if not site.letters:
        site.service.produce([b"not a swap", b"nor this"], key="ethereum:WETH")
        site.letters = len(site.service.dead_letters(2))
    said = site.run(re.sub(r"\b0:15\b", "0:1", re.sub(r"\b0:12\b", "0:0", text))).stdout
    if " replay " in text and "--dry-run" not in text:
        assert "0 letters replayed to" in said, "both would be refused again"
    else:
        assert "would pass now" in said or "not_json" in said


def makes_a_superuser(site: Site, text: str) -> None:
    """Run it without its questions: options and a variable give the answers."""
    answers = " --noinput --username ops --email ops@example.com"
    site.run(text + answers, DJANGO_SUPERUSER_PASSWORD=uuid4().hex)
    with closing(sqlite3.connect(site.directory / "web-data/db.sqlite3")) as database:
        asked = "SELECT count(*) FROM auth_user WHERE username = 'ops' AND is_superuser"
        assert database.execute(asked).fetchone() == (1,)


def restores(site: Site, text: str) -> None:
    """Restore the backup next to the archive in use and compare."""
    [backup] = [each.text for each in commands() if "BACKUP DATABASE" in each.text]
    if not any(site.backups.glob("*")):
        site.run(backup)
    [place] = re.findall(r'S3\(.*\)(?=")', site.filled(backup))
    today = site.run("date +%F").stdout.strip()
    other = f"{site.archive.name}_restored"
    query = site.filled(text).replace(site.archive.name, f"{site.archive.name} AS {other}")
    site.archive.ask(query.replace("S3(…)", place.replace("$(date +%F)", today)))
    try:
        assert site.archive.ask(f"SELECT count() FROM {other}.raw_swaps")[0][0] >= 5
    finally:
        site.archive.ask(f"DROP DATABASE {other} SYNC")


def rehearses(site: Site, text: str) -> None:
    """Run its commands in order; the restored database must contain the archive's rows."""
    if not any(site.backups.glob("*")):
        site.run(next(each.text for each in commands() if "BACKUP DATABASE" in each.text))
    restore, count, drop = [each.text for each in commands() if "rehearsal" in each.text]
    assert text in {restore, count, drop}
    site.run(restore)
    try:
        assert int(site.run(count).stdout.split()[0]) >= 5
    finally:
        site.run(drop)
    assert site.archive.ask("SHOW DATABASES LIKE '%rehearsal%'") == []


def queries(site: Site, text: str) -> None:
    """Run the query in ClickHouse; PART becomes an existing part."""
    of_ours = "WHERE active AND database = currentDatabase() AND table = 'raw_swaps'"
    [(part,)] = site.archive.ask(f"SELECT name FROM system.parts {of_ours} LIMIT 1")
    assert site.archive.ask(text.replace("'PART'", f"'{part}'"))


def names_our_topic(site: Site, text: str) -> None:
    """Check the topic, the group and the setting with Kafka's client, because rpk is Redpanda's."""
    config = load({})
    _, kind, verb, name, *options = shlex.split(text)
    ours = {"topic": {config.kafka_topic, config.kafka_dlq_topic}, "group": {config.archiver_group}}
    assert name in ours[kind]
    if verb == "alter-config":
        assert options[0] == "--set"
        setting, _, value = options[1].partition("=")
        admin = AdminClient({"bootstrap.servers": site.service.env["KAFKA_BOOTSTRAP"]})
        resource = ConfigResource(ConfigResource.Type.TOPIC, site.service.topic)
        [done] = admin.describe_configs([resource]).values()
        assert int(done.result(20)[setting].value) < int(value)


def is_our_namespace(site: Site, text: str) -> None:
    """Check the namespace; the rest needs a cluster."""
    assert yaml_of("infra/k8s/base/kustomization.yaml")["namespace"] in text.split()


def has_help(site: Site, text: str) -> None:
    """Check that the subcommand exists; running it needs a daemon or a cluster."""
    program, *rest = text.split()
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    subprocess.run([path, *rest, "--help"], check=True, capture_output=True, timeout=WITHIN_S)


README: Final = "tests/e2e/test_readme.py"
EXAMPLES: Final = "tests/e2e/test_client_examples.py"
PROMTOOL: Final = elsewhere("tests/integration/test_promtool.py", "test_a_wrong_rule_is_noticed")
_TARGETS: Final = (
    "demo-chain|demo SOURCE|up|down|kill|lint|test|chaos|gameday|audit|bench-[a-z0-9]+"
)
MAKE: Final = rf"(for .*; do )?make ({_TARGETS})\b.*"
SQLITE: Final = r"docker compose exec web python -c .*sqlite3.*"

RULES: Final[tuple[tuple[str, Run], ...]] = (
    (r"git clone .*", runs(then=" && test -f Makefile")),
    (r"make demo", elsewhere(README, "test_make_demo_from_a_clean_checkout")),
    (r"make help", runs(says="make gameday")),
    (MAKE, makes),
    (r"\.venv/bin/(python -m )?pytest .*", are_tests),
    (
        r"\.venv/bin/python -m tests\.storm .*",
        elsewhere("tests/integration/test_chain_storm.py", "test_a_small_storm"),
    ),
    *((re.escape(text), ran_before) for text in BEFORE),
    *((re.escape(text), serves) for text in PROCESSES.values()),
    (r"(\.venv/bin/)?python manage\.py feed data/.*", runs()),
    (r"(\.venv/bin/)?python manage\.py feed --synthetic .*", feeds_until_interrupted),
    (r".* manage\.py run_source (exchange|.*--name coinbase).*", reads_an_exchange),
    (r".* manage\.py run_source .*(--to-block \d+|--check)", is_checked),
    (r".* manage\.py run_source .*(--dry-run|--name eth)", follows_a_chain),
    (r"manage\.py source list", runs()),
    (
        r"manage\.py source reset .*",
        elsewhere(
            "tests/integration/test_source_command.py",
            "test_a_source_is_shown_and_begins_at_another_block",
        ),
    ),
    (r"export ETH_RPC=.*", runs(then=' && test -n "$ETH_RPC"')),
    (r"python manage\.py (compile_engine|issue_token .*|import_tokens .*)", runs()),
    (r"manage\.py dead_letters .*", has_letters),
    (r"manage\.py unlock NAME", runs(says="NAME: the count of attempts is reset")),
    (r"manage\.py doctor", runs(says=" 0 FAIL")),
    (r"python -m tests\.model all -n \d+", fewer_schedules),
    (r"python -m tests\.model ablate -n \d+", ablates),
    (r"\.venv/bin/python manage\.py reference", runs(then=" --check")),
    (r"manage\.py \w+ .*\[.*\]", each_way),
    (r"manage\.py \w+ --.*", runs()),
    (r"manage\.py \w+", is_a_command),
    (
        r"curl -X POST .*/api/ingest/swaps.*",
        elsewhere("tests/integration/test_ingest.py", "test_curl_as_the_document_writes_it"),
    ),
    (
        r"(/tmp/swapclient/bin/python|node) clients/.*/example_ingest\.\w+",
        elsewhere("tests/integration/test_ingest.py", "test_the_examples_of_the_clients"),
    ),
    (r"curl .* > wall\.folded", runs(then=" && grep --quiet '^MainThread;' wall.folded")),
    (r"curl .* > heap\.pb\.gz", runs(then=" && gzip --test heap.pb.gz")),
    (r"curl -s http://HOST:8080/readyz", runs(says='"ready":true')),
    (r"curl .*/api/status.*", runs(says='"partitions":')),
    (r"curl .*/api/.*", runs(says=WETH)),
    (r"docker compose exec -T aggregator .* > p\.gz", runs(then=" && gzip --test p.gz")),
    (
        r"go tool pprof .*",
        elsewhere("tests/integration/test_alerts_end_to_end.py", "test_go_reads_the_profiles"),
    ),
    (r"docker compose exec web python manage\.py createsuperuser", makes_a_superuser),
    (r"docker compose cp web:/data/backup\.sqlite3 .*", runs(first=SQLITE)),
    (r"docker compose exec clickhouse .*rehearsal.*", rehearses),
    (r"(SWAPS_VERSION=… )?docker compose .*", runs()),
    (r"docker inspect|kubectl top", has_help),
    (r"kubectl get pods -n .*", is_our_namespace),
    (
        r"kubectl apply -k infra/k8s/base",
        elsewhere("tests/unit/packaging/test_kubernetes.py", "test_kustomize_builds_it"),
    ),
    (r"rpk .*", names_our_topic),
    (r"RESTORE DATABASE .*", restores),
    (r"SELECT .*", queries),
    (r"df -h", runs()),
    (r"go (-C .*)?build.*", PROMTOOL),
    (r"set -a; .*", runs(then=' && test -n "$WEB_URL" && test -n "$KAFKA_BOOTSTRAP"')),
    (r"export TOKEN=.*", runs(first=r"set -a; .*", then=' && test -n "$TOKEN"')),
    (r"/tmp/swapclient/bin/python listen\.py", elsewhere(README, "run_the_examples")),
    (
        r"python3 -m venv .*|/tmp/swapclient/bin/python .*",
        elsewhere(EXAMPLES, "test_the_python_example_from_a_fresh_environment"),
    ),
    (
        r"pip install \./clients/python",
        elsewhere(EXAMPLES, "test_the_python_example_from_a_fresh_environment"),
    ),
    (r"npm install \./clients/js", elsewhere(EXAMPLES, "test_the_readmes_javascript_runs")),
    (r"node clients/js/example\.mjs", elsewhere(EXAMPLES, "test_the_javascript_example")),
)


def rules_of(text: str) -> list[Run]:
    """Return the rules that match; the first one applies."""
    return [run for pattern, run in RULES if re.fullmatch(pattern, text)]


@pytest.mark.parametrize("command", commands(), ids=lambda each: each.text)
def test_it_does_what_the_document_says(command: Command, site: Site) -> None:
    found = rules_of(command.text)
    assert found, f"{command.place} names a command that no rule here knows: {command.text}"
    found[0](site, command.text)


def test_every_rule_is_of_a_command() -> None:
    texts = [command.text for command in commands()]
    idle = [pattern for pattern, _ in RULES if not any(re.fullmatch(pattern, t) for t in texts)]
    assert idle == []


def test_every_fence_says_what_it_holds() -> None:
    """A command in a fence without a language would not be found."""
    said = [language for path in documents() for language, _ in fences(path)]
    found = {language.partition(" ")[0] for language in said}
    assert found <= LANGUAGES


def test_what_a_command_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text(
        "`make` is needed, `make up` typed, `nats_url` is a name.\n"
        "```sh\nmake demo   # stays\ncurl -s \\\n    http://here\n```\n"
        "```text\nmake nothing\n```\n"
    )
    monkeypatch.setattr("tests.support.docs_commands.ROOT", tmp_path)
    assert [each.text for each in commands()] == ["make demo", "curl -s http://here", "make up"]
