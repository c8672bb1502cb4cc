"""What the documentation says is so: tables are the code's, links and commands lead somewhere, names exist.

    python -m tests.test_docs        # writes the generated parts of the pages anew

A page has generated parts between comments: `<!-- settings: dpo -->` … `<!-- end -->` is a table of all settings of
dpo, `<!-- settings: dapo beside grpo -->` one of those in which dapo differs, `<!-- stages: dapo -->` has GRPO's stages
with those that dapo exchanges, `<!-- diff: a2c beside actor_critic_td -->` what a2c changes in that file, and
`<!-- results: a2c -->` its rows of the learning table of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from advantage.algorithms import ALGORITHMS, find, module
from advantage.cli import COMMANDS
from advantage.cli_language import stages as stages_command
from advantage.core import __all__ as CORE
from advantage.errors import UserError
from advantage.language.formats import KINDS
from advantage.language.models import PACKAGED
from advantage.language.tasks import PREFERENCES, TASKS
from advantage.language.verifiers import BUILT_IN
from advantage.runs.keys import KEYS, definition
from advantage.settings import describe, resolve
from advantage.watch import TRIPWIRES
from tests import test_readme

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
OF_ALGORITHMS = [page for page in PAGES if page.stem in ALGORITHMS]
KINDS_OF_PARTS = "settings|stages|diff|results"
GENERATED = re.compile(rf"(<!-- ({KINDS_OF_PARTS}): (\w+)(?: beside (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)

of_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
of_every_algorithm = pytest.mark.parametrize("page", OF_ALGORITHMS, ids=lambda page: page.name)


# --- what is generated ---


def generated(text: str) -> str:
    """A page with its generated parts as the code has them now."""

    def part(match: re.Match[str]) -> str:
        opening, what, name, beside, end = match.groups()
        found = {"settings": settings_of, "diff": diff_of}
        found |= {"stages": lambda name, _: stages_of(name), "results": lambda name, _: results_of(name)}
        lines = found[what](name, beside)
        return "\n".join([opening, *lines, "", end])

    return GENERATED.sub(part, text)


def settings_of(name: str, beside: str | None) -> list[str]:
    """A row a setting, an algorithm's own first; beside another one, only those that differ from its."""
    kind = module(name).Settings
    theirs = {setting: default for setting, default, _ in describe(module(beside).Settings)} if beside else {}
    rows = {row[0]: row for row in describe(kind) if theirs.get(row[0]) != row[1]}
    if not rows:
        return [f"Settings and defaults are those of [{beside}]({beside}.md#defaults)."]
    lines = [f"The rest is as in [{beside}]({beside}.md#defaults).", ""] if beside else []
    lines += ["| setting | default | meaning |", "|---|---|---|"]
    for setting in dict.fromkeys(setting for each in kind.__mro__ for setting in declared(each) if setting in rows):
        _, default, meaning = rows[setting]
        if setting == "threads" and find(name).world == "language":  # the machine's own number
            default, meaning = "all cores", meaning.partition(" [")[0]
        default, meaning = default.replace('"none"', "none"), meaning.replace("|", r"\|")
        lines.append(f"| `{setting}` | {default} | {meaning} |")
    return lines


def results_of(name: str) -> list[str]:
    """The head of the learning table and the algorithm's rows."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    lines = text.partition("## Learning")[2].partition("\n## ")[0].splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("|"))
    return [*lines[head : head + 2], *(line for line in lines[head + 2 :] if line.startswith(f"| {name} "))]


def diff_of(name: str, beside: str) -> list[str]:
    """What a neighbour on the ladder changes, from the settings on."""
    sources = [inspect.getsource(module(one)) for one in (beside, name)]
    old, new = (source[source.index("@dataclass") :].splitlines() for source in sources)
    changes = [line for line in difflib.unified_diff(old, new, n=1, lineterm="") if line[:3] not in ("---", "+++")]
    return ["```diff", *("" if line.startswith("@@") else line for line in changes[1:]), "```"]


def declared(kind: type) -> list[str]:
    """The settings that a class declares itself or gives another default; none of a class without settings."""
    inherited = vars(kind.__base__).get("__dataclass_fields__", {}) if kind.__base__ else {}
    fields = vars(kind).get("__dataclass_fields__", {})
    return [name for name, field in fields.items() if inherited.get(name) is not field]


def stages_of(name: str) -> list[str]:
    """The stages as a picture, and a table: of GRPO all, of a variant those that it exchanges, with a thick border."""
    found, _ = stages_command()
    assert isinstance(found, dict)
    stages = {row["name"]: row["stages"] for row in found["algorithms"]}
    own, theirs = stages["grpo"], stages[name]
    lines = ["```mermaid", "flowchart LR"]
    lines += [f'    {stage}["{stage}<br/>{theirs.get(stage, it)["function"]}"]' for stage, it in own.items()]
    lines += ["    " + " --> ".join(own)]
    if name == "grpo":
        table = ["| stage | what it does |", "|---|---|"]
        table += [f"| {stage} | {it['meaning']} |" for stage, it in own.items()]
    else:
        lines += ["    classDef exchanged stroke-width:4px", f"    class {','.join(theirs)} exchanged"]
        table = [f"| stage | grpo | {name} |", "|---|---|---|"]
        table += [f"| {stage} | {own[stage]['meaning']} | {it['meaning']} |" for stage, it in theirs.items()]
    return [*lines, "```", "", *table]


@of_every_page
def test_generated_parts_are_what_the_code_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == generated(text), f"docs/{page.name} is behind the code; `python -m tests.test_docs` writes it anew"


def test_a_default_that_has_changed_shows() -> None:
    text = generated("<!-- settings: dpo -->\n<!-- end -->")
    stale = text.replace("| `beta` | 0.1 |", "| `beta` | 0.2 |")
    assert stale != text == generated(stale) == generated(text)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_has_a_page_with_all_its_parts(name: str) -> None:
    assert DOCS / f"{name}.md" in PAGES, f"write docs/{name}.md, in the form of the other algorithms' pages"
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert re.match(r"# .+\n\n    [LJ] = ", text), "a page begins with what is optimised"
    parts = [f"../src/advantage/algorithms/{name}.py)", "benchmarks/RESULTS.md)", "```mermaid", "## Look at first"]
    parts += ["## Try it", "## Beside ", "## Defaults", f"<!-- settings: {name}", "## Sources"]
    assert [part for part in parts if part not in text] == []


# --- links and commands ---


def dead_links(page: Path) -> list[str]:
    """The relative links of a page, with their anchors, that lead nowhere."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [link for link in links if "://" not in link and not leads_somewhere(link, page)]


def leads_somewhere(link: str, page: Path) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def commands(page: Path) -> set[str]:
    """The command lines of a page: those in blocks, and those in backticks that are more than a command's name."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("advantage ")]
    lines += re.findall(r"^ {4}(advantage .+)$", text, flags=re.MULTILINE)
    lines += re.findall(r"`(advantage \w+ [^`\n]+)`", text)
    return {shlex.join(shlex.split(line, comments=True)) for line in lines}


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in commands(page)}), ids=str)
def test_command_lines_are_accepted(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    test_readme.test_command(shlex.split(line), monkeypatch, capsys, tmp_path)


# --- names in backticks ---

BESIDE = re.compile(r"^## Beside .*?(?=^## |\Z)", flags=re.MULTILINE | re.DOTALL)
PREFIXES = {key.partition("/")[0] for key in KEYS if "/" in key}
METRIC = re.compile(rf"(?:{'|'.join(PREFIXES)})/\w+(?:/\w+)?")
OTHER_WORDS = {"none", "true", "false", "margin", "train"}  # a column that may be absent, a function of each file


def names_in(page: Path, *, beside: bool) -> list[str]:
    """What stands in backticks in a page's prose, or in its comparison with other libraries."""
    text = GENERATED.sub("", page.read_text(encoding="utf-8"))
    parts = BESIDE.findall(text) if beside else [BESIDE.sub("", text)]
    return [name for part in parts for name in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", part)]


def settings_in(world: str) -> dict[str, Any]:
    """Each setting of a world, and the settings of one of its algorithms that has it."""
    kinds = [module(name).Settings for name, entry in ALGORITHMS.items() if entry.world == world]
    return {field.name: kind for kind in kinds for field in dataclasses.fields(kind)}


def words_of(world: str) -> set[str]:
    """Every word that a page of a world may write in backticks: metrics, settings, their choices, columns, …"""
    settings = settings_in(world)
    choices = {c for kind in settings.values() for field in dataclasses.fields(kind) for c in field.metadata["choices"]}
    columns = {column for ways in KINDS.values() for way in ways for column in way}
    ours = {*KEYS, *ALGORITHMS, *CORE, *COMMANDS, *TASKS, *PREFERENCES, *PACKAGED, *BUILT_IN, *OTHER_WORDS}
    return ours | set(settings) | choices | columns | {tripwire.name for tripwire in TRIPWIRES}


def unknown_metrics(page: Path) -> list[str]:
    names = [*names_in(page, beside=False), *names_in(page, beside=True)]
    return [name for name in names if METRIC.fullmatch(name) and definition(name) == ("", "")]


def unknown_words(page: Path) -> list[str]:
    known = words_of(find(page.stem).world)
    return [n for n in names_in(page, beside=False) if re.fullmatch(r"[a-z][a-z0-9_]*", n) and n not in known]


def impossible_settings(page: Path) -> list[str]:
    """`name=value` that the page's algorithm does not take, nor, where it has no such setting, another of its world."""
    own, others = module(page.stem).Settings, settings_in(find(page.stem).world)
    known = others | dict.fromkeys((field.name for field in dataclasses.fields(own)), own)
    found = []
    for beside in (False, True):
        for text in names_in(page, beside=beside):
            pair = re.fullmatch(r"(\w+)\s?=\s?\"?([^\"]+)\"?", text)
            if pair is None or (beside and pair[1] not in known):  # there it is another library's word
                continue
            try:
                resolve(known.get(pair[1], own), {pair[1]: pair[2]})
            except UserError as error:
                found.append(f"{text}: {error}")
    return found


@of_every_page
def test_metrics_exist(page: Path) -> None:
    assert unknown_metrics(page) == []


@of_every_algorithm
def test_words_in_backticks_exist(page: Path) -> None:
    assert unknown_words(page) == []


@of_every_algorithm
def test_settings_in_backticks_can_be_given(page: Path) -> None:
    assert impossible_settings(page) == []


def test_what_does_not_exist_shows(tmp_path: Path) -> None:
    page = tmp_path / "dpo.md"
    page.write_text(
        "# DPO\n\n`train/loss` `train/los` `rewards/exact/mean` `ent_coef` `beta` `beta=-1` `loss = \"ipo\"` `lr=1`\n"
        "[here](#dpo) [nowhere](#sft) [no file](sft.md)\n\n    advantage train dpo tiny --data pairs.jsonl  # pairs\n\n"
        "## Beside TRL\n\n`loss_type=\"sigmoid\"` `label_smoothing=0.7` `ld_alpha`\n"
    )  # fmt: skip
    assert unknown_metrics(page) == ["train/los"]
    assert unknown_words(page) == ["ent_coef"]
    assert [line.partition(":")[0] for line in impossible_settings(page)] == ["beta=-1", "lr=1", "label_smoothing=0.7"]
    assert dead_links(page) == ["#sft", "sft.md"]
    assert commands(page) == {"advantage train dpo tiny --data pairs.jsonl"}


@pytest.mark.slow
def test_words_of_trl_are_those_of_trl() -> None:
    trl = pytest.importorskip("trl", minversion="1.16")
    configs = (trl.SFTConfig, trl.DPOConfig, trl.RewardConfig, trl.GRPOConfig, trl.RLOOConfig)
    known = words_of("language") | {field.name for config in configs for field in dataclasses.fields(config)}
    for page in OF_ALGORITHMS:
        if find(page.stem).world == "language":
            words = [re.match(r"[a-z][a-z0-9_]*(?==|$)", name) for name in names_in(page, beside=True)]
            assert [word[0] for word in words if word and word[0] not in known] == [], page.name


if __name__ == "__main__":
    for one in PAGES:
        before = one.read_text(encoding="utf-8")
        if before != (after := generated(before)):
            one.write_text(after, encoding="utf-8")
            print(f"docs/{one.name}")
