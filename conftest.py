"""The plugin and the fixtures of bench/, for `pytest bench/` and `pytest tests/` alike."""

# pytester, for tests/, may only be named here: pytest allows pytest_plugins in the topmost conftest alone.
pytest_plugins = ["trtgate.plugin", "fixtures.engines", "pytester"]
