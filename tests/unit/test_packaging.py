"""What is installed is all of the source, under its right names."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def listed_packages() -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return set(parser["options"]["packages"].split())


def source_packages(root: Path) -> set[str]:
    """Names of all folders that hold Python files."""
    folders = {
        path.parent.relative_to(root).parts
        for top in ("tfdist", "callbacks")
        for path in (root / top).rglob("*.py")
    }
    names = {".".join(parts) for parts in folders}
    return {
        f"tfdist.{name}" if name.startswith("callbacks") else name for name in names
    }


def import_origin(module: str, *, folder: Path, path: str | None = None) -> Path:
    """Returns the file that a fresh interpreter, started in a folder, would import."""
    environment = {
        name: os.environ[name] for name in os.environ if name != "PYTHONPATH"
    }
    if path is not None:
        environment["PYTHONPATH"] = path
    code = f"from importlib.util import find_spec; print(find_spec({module!r}).origin)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel that was built from a copy, so that the source stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for top in ("tfdist", "callbacks"):
        shutil.copytree(
            ROOT / top, source / top, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet"]
    subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", folder, source],
        check=True,
        timeout=240,
    )
    return next(folder.glob("tfdist-*.whl"))


def test_every_package_is_listed():
    assert listed_packages() == source_packages(ROOT)


def test_a_forgotten_package_is_seen(tmp_path):
    for folder in ("tfdist/new", "callbacks"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").touch()
    assert source_packages(tmp_path) == {"tfdist.new", "tfdist.callbacks"}


def test_wheel_holds_every_source_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    source = {
        str(path.relative_to(ROOT))
        for top in ("tfdist", "callbacks")
        for path in (ROOT / top).rglob("*.py")
    }
    assert packed == {
        f"tfdist/{name}" if name.startswith("callbacks/") else name for name in source
    }


def test_type_checkers_read_the_annotations(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert "tfdist/py.typed" in archive.namelist()  # PEP 561: also for subpackages


def test_pytest_starts_where_tensorflow_is_not_installed(tmp_path):
    test = tmp_path / "test_missing.py"
    test.write_text(
        "import pytest\n"
        "import tfdist\n"
        "@pytest.mark.parametrize('name', ['strategy', 'callbacks', 'tools'])\n"
        "def test_it_is_told_on_use(name):\n"
        "    with pytest.raises(ImportError, match='HINT: pip install .tfdist'):\n"
        "        getattr(tfdist, name)\n"
    )
    code = (
        "import sys; sys.modules['tensorflow'] = None; import pytest;"
        "sys.exit(pytest.main(['-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", code, test]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", ["tfdist", "tfdist.callbacks", "tfdist.launch"])
def test_wheel_is_imported_anywhere(wheel, module, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    origin = import_origin(module, folder=tmp_path, path=str(tmp_path / "site"))
    assert origin.is_relative_to(tmp_path / "site")


def test_this_installation_is_imported_anywhere(tmp_path):
    origin = import_origin("tfdist.callbacks", folder=tmp_path)
    assert origin.parent.name == "callbacks"


def test_callbacks_is_no_global_module(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if ".dist-info" not in top} == {"tfdist"}


def test_tensorflow_is_never_a_base_requirement(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/METADATA"))
        lines = archive.read(name).decode().splitlines()
    requirements = [line for line in lines if line.startswith("Requires-Dist:")]
    assert any("extra ==" in line for line in requirements)
    assert not [
        line for line in requirements if "tensorflow" in line and "extra ==" not in line
    ]
