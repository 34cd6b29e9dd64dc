"""Airflow's plugin loader must not import the library a second time under bare names."""

from __future__ import annotations

from pathlib import Path

from airflow._shared.module_loading.file_discovery import find_path_from_directory

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


def test_loader_sees_the_plugin_and_nothing_of_the_library() -> None:
    found = {
        Path(path).relative_to(PLUGINS).as_posix()
        for path in find_path_from_directory(PLUGINS, ".airflowignore", "glob")
        if path.endswith(".py")
    }
    assert found == {"vcci_ops_plugin.py"}


def test_the_guard_is_needed(tmp_path: Path) -> None:
    (tmp_path / "vcci_ops" / "hooks").mkdir(parents=True)
    (tmp_path / "vcci_ops" / "hooks" / "redis.py").touch()
    found = [Path(path).name for path in find_path_from_directory(tmp_path, ".airflowignore", "glob")]
    assert "redis.py" in found
