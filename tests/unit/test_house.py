"""The rules of the house: one meaning per class name, plain words, references that lead somewhere.

Fails with the file, the line, what is wrong and what to write instead. To be fast it parses only
files whose raw text matches a pattern.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.support import house

# Django looks these up by name, so each app and model has its own.
DJANGO = {"Meta", "Media", "Command", "Migration"}

# A struck-out word, and what to write instead. A phrase may be broken over two lines.
STRUCK_OUT = {
    r"behind": "end, after, follows, or lag",
    r"(?:puts?|putting|sets?|setting) (?:\w+ )?aside": "send to the dead-letter topic, or skip",
    r"dear(?:er|est)?": "expensive",
    r"cure[sd]?": "fix",
    r"anew": "again",
    r"for ever": "indefinitely",
    r"at once": "immediately, together, or concurrently",
    r"by itself": "automatically, or on its own",
    r"heard": "received",
    r"lets? go|letting go": "release",
    r"told|tells|telling": "announce, publish, report, or say",
    r"hasten(?:s|ed|ing)?": "flush early, or bring forward",
    r"doubt(?:s|ed|ing)?": "check, or verify",
}

# Ordinary English for the position in a network, and the usual phrase for a growing lag.
ALLOWED = (
    r"behind (?:(?:an?|the|our|your) )?(?:\w+ )?(?:prox(?:y|ies)|balancer|nginx|ingress)",
    r"lag(?:s|ged|ging)? (?:\w+ )?behind",
)

# Documents and code; histories and generated lists are not prose of ours.
PROSE = (
    *(".md", ".py", ".lua", ".sql", ".js", ".mjs", ".ts", ".css", ".html", ".xml", ".json"),
    *(".yml", ".yaml", ".toml", ".conf", ".in", ".sh", "Makefile", "Dockerfile"),
)
NO_PROSE = ("CHANGELOG.md", "docs/decisions/", "data/", "tests/unit/test_house.py")

# Files that a document names although they are not in the repository.
ELSEWHERE = {"listen.py", "that-folder/swaps.js", "report.md", "clientinfo.py"}


def _spread(pattern: str) -> str:
    """The pattern where each blank may be an end of line and the next line's comment mark."""
    return pattern.replace(" ", r"(?:[ \t]|\n[ \t]*(?:--|//|[#*>])?[ \t]*)+")


_STRUCK_OUT = {
    re.compile(rf"\b(?:{_spread(word)})\b", re.I): instead for word, instead in STRUCK_OUT.items()
}
_ANY = re.compile(rf"\b(?:{_spread('|'.join(STRUCK_OUT))})\b", re.I)
_ALLOWED = re.compile(rf"\b(?:{_spread('|'.join(ALLOWED))})\b", re.I)


def test_a_public_class_name_is_defined_once() -> None:
    places = defaultdict[str, list[str]](list)
    for name, path, line in house.classes():
        if name not in DJANGO:
            places[name].append(f"{path}:{line}")
    assert _report(
        f"{name} is defined at {', '.join(found)}: give each a name that says which it is"
        for name, found in sorted(places.items())
        if len(found) > 1
    )


def test_struck_out_words_are_gone() -> None:
    assert _report(struck_out())


def struck_out() -> Iterator[str]:
    for path in house.of_kind(*PROSE):
        if path.startswith(NO_PROSE) or not _ANY.search(house.content(path)):
            continue
        for text in house.texts(path):
            yield from struck_out_of(text)


def struck_out_of(text: house.Text) -> Iterator[str]:
    prose = re.sub(r"`[^`\n]+`", "…", text.text)
    prose = _ALLOWED.sub(lambda found: "\n" * found.group().count("\n"), prose)
    for pattern, instead in _STRUCK_OUT.items():
        for found in pattern.finditer(prose):
            line = text.line + prose.count("\n", 0, found.start())
            word = " ".join(found.group().split())
            yield f'{text.path}:{line}: "{word}": write {instead}'


SAMPLE = '''
"""A docstring that is
told twice."""
log.info("told", because="nobody heard of it")
x = told  # a phrase at
# once, over two lines; what runs behind a proxy is allowed
def f():
    """`told` in code is a name."""
    raise ValueError(f"{x} is dear")
'''


def test_prose_is_read_and_code_is_not() -> None:
    texts = house.python_texts("sample.py", SAMPLE)
    found = {line.partition(": write")[0] for text in texts for line in struck_out_of(text)}
    assert found == {
        'sample.py:3: "told"',
        'sample.py:4: "told"',
        'sample.py:4: "heard"',
        'sample.py:5: "at # once"',
        'sample.py:9: "dear"',
    }


def test_the_design_is_cited_by_sections_and_rules_that_exist() -> None:
    design = house.content("docs/design.md")
    sections = _sections(design) - _not_yet(design)
    assert _report(
        f"{path}:{line}: DESIGN {wanted} is not in docs/design.md, or not built yet: cite another"
        " section (## n.) or item (n.) of its list, or docs/exactly-once.md"
        for path, line, wanted in citations()
        if wanted not in sections
    )


_NUMBERS = r"\d+(?:(?:,| and|, and| to) \d+)*"
_CITED = re.compile(_spread(rf"DESIGN ({_NUMBERS})(?: rules? ({_NUMBERS}))?"))


def citations() -> Iterator[tuple[str, int, str]]:
    """(path, line, "4" or "4 rule 7") of each citation in the repository."""
    for path in house.of_kind(*PROSE):
        if path not in ("docs/design.md", "tests/unit/test_house.py", "CHANGELOG.md"):
            for line, wanted in citations_of(house.content(path)):
                yield path, line, wanted


def citations_of(text: str) -> Iterator[tuple[int, str]]:
    for found in _CITED.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        for section in _numbers(found[1]):
            yield line, section
            for rule in _numbers(found[2] or ""):
                yield line, f"{section} rule {rule}"


def test_a_citation_of_several_rules_is_read_whole() -> None:
    text = "DESIGN 3, 4 and 5\nand DESIGN 4\n    # rules 7 and 8; DESIGN 4 rules 1 to 3"
    assert [wanted for _, wanted in citations_of(text)] == [
        *("3", "4", "5"),
        *("4", "4 rule 7", "4 rule 8"),
        *("4", "4 rule 1", "4 rule 2", "4 rule 3"),
    ]


def _numbers(text: str) -> list[str]:
    words = re.findall(r"\d+|to", text)
    if len(words) == 3 and words[1] == "to":
        return [str(each) for each in range(int(words[0]), int(words[2]) + 1)]
    return [each for each in words if each != "to"]


def _sections(design: str) -> set[str]:
    found = set[str]()
    for number, body in re.findall(r"^## (\d+)\.(.*?)(?=^## |\Z)", design, flags=re.M | re.S):
        found.add(number)
        found |= {f"{number} rule {rule}" for rule in re.findall(r"^(\d+)\. ", body, flags=re.M)}
    return found


def _not_yet(design: str) -> set[str]:
    """The rules of section 4 that a line "Not yet: rules n to m" names: no code follows them."""
    named = re.findall(rf"^\*\*Not yet\*\*: rules ({_NUMBERS}) describe", design, flags=re.M)
    return {f"4 rule {rule}" for rules in named for rule in _numbers(rules)}


def test_links_of_documents_lead_to_files_and_headings() -> None:
    assert _report(broken_links())


def broken_links() -> Iterator[str]:
    for path in house.of_kind(".md"):
        text = house.content(path)
        for found in re.finditer(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
            target, _, anchor = found[1].partition("#")
            line = text.count("\n", 0, found.start()) + 1
            source = house.files()[path]
            wanted = source.parent / target if target else source
            if not wanted.exists():
                yield f"{path}:{line}: {target} does not exist: link to a file that does"
            elif anchor and wanted.suffix == ".md" and anchor not in house.anchors(wanted):
                yield f"{path}:{line}: no heading of {wanted.name} makes #{anchor}"


def test_files_that_are_named_exist() -> None:
    assert _report(missing_files())


def missing_files() -> Iterator[str]:
    """Files in backticks, named from the root or from any folder, and folders from the root."""
    kinds = r"py|lua|sql|md|mjs|js|yml|yaml|toml|html|css|sh|in"
    file = rf"(?:[\w.-]+/)*[\w-][\w.-]*\.(?:{kinds})"
    folder = rf"(?:{'|'.join(house.ROOMS)})/[\w/-]+"
    named = re.compile(rf"`(?:\./)?({file}|{folder})(?:::?[\w:]+)?`")
    known = {ending for path in house.files() for ending in _endings(path)} | ELSEWHERE
    for path in house.of_kind(".md", ".py"):
        if path in ("CHANGELOG.md", "tests/unit/test_house.py"):
            continue
        if not named.search(house.content(path)):
            continue
        whole = house.Text(path, 1, house.content(path))
        for text in [whole] if path.endswith(".md") else house.docstrings(path):
            for found in named.finditer(text.text):
                if found[1].startswith(("var/", "secrets/")) or found[1] in known:
                    continue
                if not (house.REPOSITORY / found[1]).is_dir():
                    line = text.line + text.text.count("\n", 0, found.start())
                    yield f"{path}:{line}: {found[1]} does not exist: name a file that does"


def test_every_direct_dependency_has_its_row() -> None:
    rows = re.findall(r"^\| ([\w-]+) \|", house.content("docs/dependencies.md"), flags=re.M)
    named = {
        package: path
        for path in house.of_kind(".in")
        for package in re.findall(r"^([a-z][\w-]*)", house.content(path), flags=re.M)
    }
    missing = named.keys() - rows
    assert _report(f"{named[each]}: {each} needs a row in docs/dependencies.md" for each in missing)
    gone = set(rows) - named.keys() - {"package"}
    assert _report(
        f"docs/dependencies.md: {each} is no direct dependency: drop it" for each in gone
    )


def _endings(path: str) -> Iterator[str]:
    parts = PurePosixPath(path).parts
    for first in range(len(parts)):
        yield "/".join(parts[first:])


def _report(findings: Iterator[str]) -> bool:
    """True where there are none; else fail with each on a line of its own."""
    found = sorted(set(findings))
    if found:
        raise AssertionError(f"{len(found)} to fix:\n" + "\n".join(found))
    return True
