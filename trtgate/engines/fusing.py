"""A classifier's convolutions fused with what follows them, by PyTorch's own means.

Batch norms are folded into the weights before them; a convolution followed by ReLU, or by a residual addition and ReLU,
becomes the one cuDNN call that ATen has for it (`aten::cudnn_convolution_relu`, `aten::cudnn_convolution_add_relu`).
What it cannot fuse stays as it was.
"""

from __future__ import annotations

import operator

import torch
from torch import fx
from torch.fx.experimental.optimization import fuse as fold_batch_norms

from trtgate.kinds import EngineUnavailable

ADDITIONS = (torch.add, operator.add, operator.iadd)


def fuse(module: torch.nn.Module) -> torch.nn.Module:
    """A fused copy of an inference-mode module, for half precision on a GPU.

    Raises EngineUnavailable when the module's control flow cannot be traced.
    """
    try:
        traced = fold_batch_norms(module)
    except (fx.proxy.TraceError, TypeError) as error:
        raise EngineUnavailable(f"its module cannot be traced: {error}") from error
    assert isinstance(traced, fx.GraphModule)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], torch.nn.ReLU):
            _fuse_into(traced, modules, node)
    traced.graph.eliminate_dead_code()
    traced.graph.lint()
    traced.recompile()
    return traced


def _fuse_into(traced: fx.GraphModule, modules: dict[str, torch.nn.Module], relu: fx.Node) -> None:
    """Replace a ReLU, with the convolution and perhaps the addition before it, by one call."""
    before = relu.args[0]
    assert isinstance(before, fx.Node)
    skip: fx.Node | None = None
    if before.op == "call_function" and before.target in ADDITIONS and len(before.users) == 1:
        sides = [side for side in before.args[:2] if isinstance(side, fx.Node)]
        main = next((side for side in sides if _can_fuse(modules, side)), None)
        if main is None or len(sides) != 2:
            return
        skip = sides[1] if main is sides[0] else sides[0]
    elif _can_fuse(modules, before):
        main = before
    else:
        return
    convolution = modules[str(main.target)]
    assert isinstance(convolution, torch.nn.Conv2d)
    graph = traced.graph
    with graph.inserting_before(relu):
        weight, bias = (graph.get_attr(f"{main.target}.{name}") for name in ("weight", "bias"))
        where = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)
        images = main.args[0]
        if skip is None:
            fused = graph.call_function(torch.cudnn_convolution_relu, (images, weight, bias, *where))
        else:
            fused = graph.call_function(torch.cudnn_convolution_add_relu, (images, weight, skip, 1.0, bias, *where))
    relu.replace_all_uses_with(fused)
    # The unfused calls write in place (`relu_`, `+=`), so they must go, and not just be unused.
    for node in (relu, before, main):
        if not node.users and node in graph.nodes:
            graph.erase_node(node)


def _can_fuse(modules: dict[str, torch.nn.Module], node: fx.Node) -> bool:
    """A dense convolution with a bias, whose output nobody else reads."""
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    return (
        isinstance(module, torch.nn.Conv2d)
        and module.groups == 1
        and module.bias is not None
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and len(node.users) == 1
    )
