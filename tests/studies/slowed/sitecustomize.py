"""Put this folder on PYTHONPATH, before what is there, and trtgate's workers slow an engine: SLOWED="openvino-int8=0.1"
makes every inference wait for a tenth of its time more, within what is timed (on a GPU by a kernel that spins)."""

import os
import sys

if os.environ.get("SLOWED") and "trtgate.measure.worker" in sys.orig_argv:
    import time

    import numpy as np

    from trtgate.engines import backend, parse_spec
    from trtgate.engines.base import time_calls
    from trtgate.engines.gpu import GpuEngine
    from trtgate.kinds import Block

    NAME, _, SHARE = os.environ["SLOWED"].partition("=")
    found = backend(parse_spec(NAME).backend)
    load = found.load

    def slow(engine):
        original, waits = engine.block, {}

        def wait_of(inputs):
            if id(inputs) not in waits:
                original(20, inputs)
                waits[id(inputs)] = float(SHARE) * float(np.median(original(20, inputs).seconds))
            return waits[id(inputs)]

        def on_gpu(n, inputs):
            seconds = wait_of(inputs)
            with engine.ready(inputs) as lane:
                run, wait = lane.run, lane.waiting(seconds)

                def slow_run():
                    run()
                    wait()

                lane.run = slow_run
                try:
                    return original(n, inputs)
                finally:
                    lane.run = run

        def on_cpu(n, inputs):
            seconds, call, clock = wait_of(inputs), engine.bind(inputs), time.perf_counter

            def slow_call():
                call()
                until = clock() + seconds
                while clock() < until:
                    pass

            return Block(time_calls(slow_call, n))

        engine.block = on_gpu if isinstance(engine, GpuEngine) else on_cpu
        return engine

    def loading(spec, request, plan):
        engine = load(spec, request, plan)
        return slow(engine) if spec.id == NAME else engine

    found.load = loading
