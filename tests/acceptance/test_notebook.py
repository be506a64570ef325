"""The notebook of the documentation, and asyncio.run in notebooks, each on a real kernel."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
LIMIT_S = 300

OPEN = """
from memorizz_async import AsyncMongoDBProvider, MongoDBConfig, allow_nested_run
import asyncio, os
provider = AsyncMongoDBProvider(
    MongoDBConfig(db_name=os.environ["TEST_DB"]),
    embedding_provider=lambda texts: [[1.0, 2.0] for _ in texts],
)
async def main():
    await provider.store_async({"content": "a fact", "dedup_key": "k"}, memory_id="ada")
    return await provider.retrieve_memory_units_by_query_async("q", memory_id="ada")
type(asyncio.get_running_loop()).__module__
"""
RUN = "print(asyncio.run(main())[0]['content'])"
AWAIT = "print((await main())[0]['content'])"
CLOSE = "await provider.close_async()"


@pytest.fixture
def environment(mongod: Any, db_name: str, tmp_path: Path) -> dict[str, str]:
    """Of a kernel: this checkout, and nothing of it written into the user's folders."""
    return {
        **os.environ,
        "MONGODB_URI": mongod.uri,
        "TEST_DB": db_name,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "HF_HUB_OFFLINE": "1",
    }


async def executed(
    notebook: Any, environment: dict[str, str], folder: Path, kernel: str = "python3"
) -> Any:
    """The notebook with its outputs. Raises CellExecutionError where a cell fails."""
    client = NotebookClient(
        notebook,
        timeout=LIMIT_S,
        kernel_name=kernel,
        resources={"metadata": {"path": str(folder)}},
    )
    return await client.async_execute(env=environment)


def cells(*sources: str) -> Any:
    made = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
    return nbformat.v4.new_notebook(cells=made)


def outputs(notebook: Any, kind: str) -> list[str]:
    """What the cells showed, of one MIME type, or printed (`stdout`, `stderr`)."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == kind:
                found.append(output.text)
            elif kind in output.get("data", {}):
                found.append(output.data[kind])
    return found


async def test_the_quickstart_runs_from_top_to_bottom(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """On a mongod that it starts itself: tables, a plot, a context, and no warning of ours."""
    environment["MONGODB_URI"] = f"local://{tmp_path / 'data'}"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    done = await executed(notebook, environment, tmp_path)
    [table] = outputs(done, "text/html")
    assert "hazelnuts" in table
    assert "LONG_TERM_MEMORY</b> (3)" in table
    assert len(outputs(done, "image/png")) == 1
    [prompt] = outputs(done, "stdout")
    assert "You are Ben's assistant." in prompt
    assert "Ada is allergic to hazelnuts. (" in prompt
    assert "session monday, turn" in prompt
    assert "of 150 tokens" in prompt
    # Of tqdm, which a library of the model imports, where ipywidgets is absent.
    assert all("TqdmWarning" in text for text in outputs(done, "stderr"))


def test_the_notebook_is_kept_without_outputs() -> None:
    """They would be one machine's figures; what is shown above is what a run gives now."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert any("await " in "".join(cell["source"]) for cell in code)


async def test_asyncio_run_works_where_somebody_insists(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """After `allow_nested_run`, or `nest_asyncio.apply`, with one provider for both ways."""
    for allow in ("allow_nested_run()", "import nest_asyncio; nest_asyncio.apply()"):
        done = await executed(cells(OPEN, allow, RUN, AWAIT, RUN, CLOSE), environment, tmp_path)
        assert outputs(done, "stdout") == ["a fact\n"] * 3


async def test_without_it_asyncio_run_says_that_a_loop_is_running(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Python's own error; the documentation's first line is the answer to it."""
    with pytest.raises(CellExecutionError, match="cannot be called from a running event loop"):
        await executed(cells(OPEN, "call = main()\nasyncio.run(call)"), environment, tmp_path)


@pytest.fixture
def uvloop_kernel(environment: dict[str, str], tmp_path: Path) -> str:
    """A kernel whose loop is uvloop's: `uvloop.install()` ran before it started."""
    launch = (
        "import uvloop, warnings; warnings.simplefilter('ignore'); uvloop.install(); "
        "from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
    )
    folder = tmp_path / "jupyter" / "kernels" / "on-uvloop"
    folder.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-c", launch, "-f", "{connection_file}"],
        "display_name": "on uvloop",
        "language": "python",
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    return "on-uvloop"


async def test_on_uvloop_the_error_says_what_to_do_and_doing_it_works(
    environment: dict[str, str],
    uvloop_kernel: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Uvloop cannot be patched. Both ways out of the message run here, with one provider."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    failing = """
try:
    allow_nested_run()
except Exception as error:
    print(type(error).__name__, error)
"""
    on_its_own_loop = """
from concurrent.futures import ThreadPoolExecutor
print(ThreadPoolExecutor(1).submit(asyncio.run, main()).result()[0]["content"])
"""
    done = await executed(
        cells(OPEN, failing, AWAIT, on_its_own_loop, CLOSE), environment, tmp_path, uvloop_kernel
    )
    assert outputs(done, "text/plain") == ["'uvloop'"]
    error, *facts = outputs(done, "stdout")
    assert error.startswith("ConfigurationError asyncio.run cannot be nested on this event loop")
    for words in ("Seen: a uvloop.Loop", "await main()", "ThreadPoolExecutor(1)", "--loop asyncio"):
        assert words in error
    assert facts == ["a fact\n"] * 2


async def test_awaiting_works_on_uvloop_after_nest_asyncio_has_failed(
    environment: dict[str, str],
    uvloop_kernel: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own `apply` fails half-way, with asyncio patched already: the provider goes on."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    failing = """
import nest_asyncio
try:
    nest_asyncio.apply()
except ValueError as error:
    print(error)
"""
    done = await executed(cells(OPEN, failing, AWAIT, CLOSE), environment, tmp_path, uvloop_kernel)
    assert outputs(done, "stdout") == [
        "Can't patch loop of type <class 'uvloop.Loop'>\n",
        "a fact\n",
    ]
