"""What several test files share: one plan cache and one EfficientNet-Lite0 on the bench."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from trtgate.engines import parse_spec
from trtgate.workbench import Settings, Workbench

ENGINES = ("pytorch-fp32", "onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8")


@pytest.fixture(scope="session")
def plan_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="session")
def lite0(plan_cache: Path) -> Iterator[Workbench]:
    settings = Settings(engines=tuple(map(parse_spec, ENGINES)), plan_cache=plan_cache)
    with Workbench("efficientnet_lite0", settings) as bench:
        yield bench
