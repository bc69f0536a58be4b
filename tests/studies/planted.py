"""Is a search to be trusted? Changes planted in a stand-in index of twelve versions, at every place.

    python tests/studies/planted.py [--kinds wait,memory,answers,import,build] [--times N] [--share 10%] [--made-up]

Runs `trtgate bisect` over tests/standin_index.py with each kind of change from each version on, N times, and prints the
version that it named, its races and seconds. A wait is real unless times are `--made-up`. Ends with a count.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.standin_index import PACKAGE, VERSIONS, make_index, planted
from trtgate.__main__ import main as trtgate
from trtgate.search import environments

# Enough for some of their answers to flip.
PHOTOS = 8
METRICS = {"wait": "latency", "memory": "host_memory", "answers": "answers", "import": "latency", "build": "build"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(METRICS))
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--share", default="10%")
    parser.add_argument("--made-up", action="store_true")
    options = parser.parse_args()
    environments.WORKER = ()  # the wheels find what this Python has
    os.environ.update({"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""})
    share = float(options.share.rstrip("%")) / 100
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index, photos = make_index(folder), folder / "photos"
        photos.mkdir()
        for photo in sorted((ROOT / "data" / "evaluation").glob("*.jpg"))[:PHOTOS]:
            (photos / photo.name).symlink_to(photo)
        common = ["bisect", "--package", PACKAGE, "--index-url", index, "--environments", str(folder / "kept")]
        common += ["--model", "efficientnet_lite0", "--engine", "onnxruntime-int8", "--afresh"]
        common += ["--good", VERSIONS[0], "--bad", VERSIONS[-1], "--json", str(folder / "out.json")]
        common += ["--images", str(photos)]
        for kind in options.kinds.split(","):
            more = {"made_up": options.made_up, "share": share} if kind == "wait" else {"made_up": options.made_up}
            delta = ["--delta", str(share / 2)] if kind == "wait" else []
            for first_bad in range(1, len(VERSIONS)):
                for _ in range(options.times):
                    os.environ.update(planted(kind, first_bad, **more))
                    began = time.monotonic()
                    with contextlib.redirect_stdout(said := io.StringIO()), contextlib.redirect_stderr(said):
                        status = trtgate([*common, "--metric", METRICS[kind], *delta])
                    if status not in {0, 6}:
                        sys.exit(f"the search ended with {status}:\n{said.getvalue()}")
                    found = json.loads((folder / "out.json").read_text())
                    answer, races = found["answer"], len(found["races"])
                    named = answer["bad"] if answer["kind"] in {"found", "between"} else answer["kind"]
                    right = "right" if named == VERSIONS[first_bad] else "told" if status == 6 else "WRONG"
                    counts[kind][right] += 1
                    counts[kind]["most races"] = max(counts[kind]["most races"], races)
                    seconds = time.monotonic() - began
                    line = f"{kind} from {VERSIONS[first_bad]}: {named}, {right}, {races} races, {seconds:.0f} s"
                    print(line, flush=True)
            print(f"{kind}: {dict(counts[kind])}", flush=True)


if __name__ == "__main__":
    main()
