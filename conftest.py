"""The plugin and the fixtures of bench/, for `pytest bench/` and `pytest tests/` alike."""

pytest_plugins = ["trtgate.plugin", "fixtures.engines"]
