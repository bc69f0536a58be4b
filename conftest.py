"""The fixtures of bench/, for `pytest bench/` and `pytest tests/` alike; the plugin is named in pytest.ini."""

import pytest

# pytester, for tests/, may only be named here: pytest allows pytest_plugins in the topmost conftest alone.
pytest_plugins = ["fixtures.engines", "pytester"]


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    if not pluginmanager.hasplugin("trtgate.plugin"):
        raise pytest.UsageError(
            "pytest took its configuration from somewhere else than this checkout's pytest.ini; name bench/ before any "
            "option, or write --option=PATH"
        )
