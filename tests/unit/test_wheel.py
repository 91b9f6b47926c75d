from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from airflow_provider_cio import __version__
from airflow_provider_cio.get_provider_info import get_provider_info
from hatch_build import for_index
from tests.airflow_names import DagBag
from tests.matrix.targets import TARGETS

REPOSITORY = Path(__file__).parents[2]
INFO = f"airflow_provider_cio-{__version__}.dist-info"
EXAMPLES = "airflow_provider_cio/example_dags"

BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
LOAD = """
import json, sys
from importlib.metadata import distributions
sys.path.insert(0, sys.argv[1])
[ours] = distributions(path=sys.argv[1:])
[entry] = ours.entry_points.select(group="apache_airflow_provider")
info = entry.load()()
print(json.dumps([sys.modules[entry.module].__file__, info]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as `python -m build` does, but in this environment: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    ran = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return folder / ran.stdout.split()[-1]


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def test_wheel_name(wheel: Path) -> None:
    assert wheel.name == f"airflow_provider_cio-{__version__}-py3-none-any.whl"


def test_wheel_holds_only_the_package(names: list[str]) -> None:
    sources = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "airflow_provider_cio").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert "airflow_provider_cio/py.typed" in sources
    sources |= {f"{EXAMPLES}/{path.name}" for path in (REPOSITORY / "dags").glob("*.py")}
    facts = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert set(names) == sources | facts


def test_wheel_metadata(wheel: Path) -> None:
    metadata = Parser().parsestr(zipfile.ZipFile(wheel).read(f"{INFO}/METADATA").decode())
    assert metadata["Name"] == get_provider_info()["package-name"]
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_all("Provides-Extra") == ["bigquery", "duckdb", "postgres", "redshift", "snowflake"]
    classifiers = metadata.get_all("Classifier", [])
    assert "Framework :: Apache Airflow :: Provider" in classifiers
    tested = {"3.11", *(target.python for target in TARGETS.values() if target.python)}
    assert {one.rpartition(" ")[2] for one in classifiers if "Python :: 3." in one} == tested
    assert links(str(metadata.get_payload())) == []
    needs = {re.split("[<>]", line)[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert needs == {"apache-airflow", "apache-airflow-providers-common-compat", "msgspec", "pendulum", "requests"}


def links(text: str) -> list[str]:
    """Return the relative targets of links and images."""
    return [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("https://")]


def test_readme_links_need_an_address() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert len(links(readme)) > 10
    without, linked = (for_index(readme, source, "1.2") for source in (None, "https://example.com/us/repo/"))
    assert "[connections](https://example.com/us/repo/blob/v1.2/docs/connections.md)" in linked
    assert "](https://example.com/us/repo/raw/v1.2/docs/images/flow-light.png)" in linked
    assert "connections (`docs/connections.md`)" in without
    assert (links(without), links(linked)) == ([], [])
    assert "![" not in without
    assert without.count("```") == linked.count("```") == readme.count("```")


@pytest.mark.parametrize("syntax", ["glob", "regexp"])
def test_airflow_does_not_load_the_examples(
    wheel: Path, tmp_path: Path, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `[core] load_examples`, Airflow reads the folder `example_dags` of each provider."""
    monkeypatch.setenv("AIRFLOW__CORE__DAG_IGNORE_FILE_SYNTAX", syntax)
    zipfile.ZipFile(wheel).extractall(tmp_path)
    bag = DagBag(tmp_path / EXAMPLES)
    assert (bag.dags, bag.import_errors) == ({}, {})
    (tmp_path / EXAMPLES / ".airflowignore").unlink()
    assert "customerio_to_segment" in DagBag(tmp_path / EXAMPLES).dags


def test_wheel_entry_point(wheel: Path, tmp_path: Path) -> None:
    """The process has the wheel alone, without this checkout and without site-packages."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    command = [sys.executable, "-I", "-S", "-c", LOAD, str(tmp_path)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    file, info = json.loads(ran.stdout)
    assert Path(file).is_relative_to(tmp_path)
    assert info == get_provider_info()
