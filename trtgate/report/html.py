"""Pages as one HTML file: no network, no framework, nothing beside it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from trtgate.kinds import printable
from trtgate.report import drawings, svg
from trtgate.report.page import Bars, Boxes, Gallery, Masks, Notes, Page, Plot, Room, Table, failed, fitting
from trtgate.verdict.policy import SEVERITY

if TYPE_CHECKING:
    import jinja2

TEMPLATE = Path(__file__).with_name("page.html")


@functools.cache
def _template() -> jinja2.Template:
    import jinja2  # not on the way of who wants no report

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["jpeg"] = drawings.jpeg_link
    environment.filters["severity"] = SEVERITY.index  # by which verdicts are sorted, the worst first
    kinds = {
        **{"table": Table, "notes": Notes, "plot": Plot, "bars": Bars, "gallery": Gallery},
        **{"boxes": Boxes, "masks": Masks},
    }
    for name, kind in kinds.items():
        environment.tests[name] = lambda part, kind=kind: isinstance(part, kind)
    environment.globals.update(
        plot_svg=svg.plot_svg,
        bars_svg=svg.bars_svg,
        legend=svg.legend,
        boxes_svg=drawings.boxes_svg,
        boxes_legend=drawings.boxes_legend,
        mask_svg=drawings.mask_svg,
        masks_legend=drawings.masks_legend,
        failed=failed,
        fitting=lambda parts: fitting(parts, Room.DOCUMENT),
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def render(page: Page) -> str:
    """A page as an HTML document."""
    # Names may hold what turns round how a line reads, or what no file in UTF-8 can.
    return printable(_template().render(page=page))
