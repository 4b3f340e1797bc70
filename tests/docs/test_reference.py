"""The documentation: generated pages are those of the code, links lead somewhere, commands named in it exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = generator().pages()


@pytest.mark.parametrize("name", ["capture.md", "verdict.schema.json", "cli.md", "rules.md"])
def test_generated_page_is_the_one_committed(name: str) -> None:
    """`make docs` would change nothing."""
    assert GENERATED[name] == (ROOT / "docs/reference" / name).read_text(encoding="utf-8"), "run: make docs"


def test_the_page_of_the_score_is_made_of_its_file() -> None:
    """Both are committed, or neither."""
    page = ROOT / "docs/reference/score.md"
    assert page.exists() == ("score.md" in GENERATED)
    assert not page.exists() or page.read_text(encoding="utf-8") == GENERATED["score.md"], "run: make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file, and its anchor a heading there."""
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        headings = re.findall(r'^#+ (.+)$|<a id="([^"]+)">', target.read_text(encoding="utf-8"), re.MULTILINE)
        assert not anchor or anchor in {part.lower() for heading in headings for part in heading if part}, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_named_in_examples_exist(page: Path) -> None:
    """Each `culpa ...` line in a shell example uses a subcommand and options that the command line has."""
    examples = "\n".join(re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    for line in re.findall(r"(?<![\w.])culpa ([a-z][^&\n]*)", re.sub(r"#.*", "", examples)):
        before = line.split(" -- ")[0].split()
        assert f"## culpa {before[0]}\n" in GENERATED["cli.md"], line
        for option in (word for word in before if word.startswith("-") and word != "--"):
            assert re.search(rf"[`\s]{re.escape(option)}[`,\s]", GENERATED["cli.md"]), line


def test_readme_keeps_the_place_of_the_verdict() -> None:
    """The README has exactly one marked place for a verdict pasted from a run."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"<!-- verdict:begin -->\n.*<!-- verdict:end -->", readme, re.DOTALL)
    assert readme.count("<!-- verdict:") == 2
