"""The code on the pages works: fenced `bash`, `python` and `yaml` blocks of README.md and docs/**/*.md are run.

The rules for somebody who writes a page:

- Every fence has a language: `bash`, `python` or `yaml` for what is run, `text`, `json`, `jinja`, ... for what is shown.
- A page runs from top to bottom in a new, empty folder that holds copies of `configs/`, `data_tools/` and `examples/`. What
  a block writes is there for the blocks below. The hub is offline.
- `bash`: the block runs with `bash -e`; `gmpo-mm` and `python` are on the path. Every command has to end with status 0.
- `python`: the blocks of a page run in one process, one after the other, and share their names.
- `yaml`: told by its keys. A training configuration goes through `gmpo-mm train FILE --dry-run`; a part of one is laid over
  the bundled model, its data and the shipped reward (with engine easyr1 or verl it is only checked). A sweep goes through
  `gmpo-mm sweep FILE --dry-run`. Evaluations and benchmarks are loaded. All other YAML is parsed.
- A fence with a title, ```` ```python title="my_losses.py" ````, is also saved under this name. That is how a page brings a
  reward file, a data file or a configuration that its other blocks name.
- A block that takes long, needs a GPU, the network or a file of the reader's is left out by a comment right above its
  fence: `<!-- not run: reason -->`. Its syntax is checked all the same, and for `gmpo-mm` that command and options exist.

`python -m tests.docs.blocks` lists what is run and what is not, with the reasons.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import RUN, BrokenPage, PageRunner, blocks_of, pages
from tests.docs.command_server import CommandServer
from tests.docs.generator import ROOT
from tests.engine.runs import write_data


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    with CommandServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), 1024, 8)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_code_of_a_page_works(page: Path, server: CommandServer, data: Path, tmp_path: Path) -> None:
    blocks = list(blocks_of(page, page.relative_to(ROOT).as_posix()))
    if any(block.language in RUN for block in blocks):
        PageRunner(server, tmp_path / "page", data).run(blocks)


def test_what_is_not_run_is_counted() -> None:
    blocks = [block for block in blocks_of(ROOT / "tests/docs/sample_page.md") if block.language in RUN]
    assert [block.not_run is None for block in blocks] == [True] * 6 + [False]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```bash\ngmpo-mm train nowhere.yaml --dry-run\n```", "line 2: status 2:(?s:.*)nowhere"),
        ("```bash\nfalse\ntrue\n```", "line 2: status 1"),
        ("```bash\nfalse | true\n```", "line 2: status 1"),
        ("```python\nx = 1\n\nassert x == 2\n```", "line 4, in"),
        ("```yaml\nworker: {actor: {los_type: gmpo}}\n```", "loss_type"),
        ("```yaml\nengine: verl\nworker: {actor: {seq_mean: easyr1}}\n```", "seq_mean"),
        (
            "```yaml\nbase: configs/quickstart.yaml\nvariants: {a: {overrides: [a.b=1]}}\nseeds: [1]\n```",
            "a.b",
        ),
        ("```yaml\nmodel: m\nbenchmarks: [math501]\n```", "math500"),
        ("```yaml\nname: a\nprotocol: {}\ngrader: maths\ntemplate: model\nmade: {}\n```", "maths"),
        ("```yaml\na: [\n```", "no YAML"),
        ("<!-- not run: long -->\n```bash\ngmpo-mm train FILE --dryrun\n```", "dryrun"),
        ("<!-- not run: long -->\n```bash\ncd x && gmpo-mm trian FILE\n```", "trian"),
        ("<!-- not run: long -->\n```bash\nif true\n```", "no bash"),
        ("<!-- not run: long -->\n```python\nx =\n```", "no Python"),
        ("<!-- not run: -->\n```bash\ntrue\n```", "no reason"),
        ("```sh\ntrue\n```", "write bash"),
        ("```\ntrue\n```", "write text"),
        ("```bash\ntrue\n", "not closed"),
        ('```text title="../x"\nx\n```', "outside"),
    ],
)
def test_what_is_wrong_is_found(
    text: str, found: str, server: CommandServer, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(BrokenPage, match=found):
        PageRunner(server, tmp_path / "folder", data).run(list(blocks_of(tmp_path / "page.md")))


def test_a_block_in_a_list_is_run(server: CommandServer, data: Path, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("- one\n\n    ```python\n    if True:\n        x = 1\n    ```\n")
    (block,) = blocks_of(tmp_path / "page.md")
    assert block.text == "if True:\n    x = 1"
    PageRunner(server, tmp_path / "folder", data).run([block])
