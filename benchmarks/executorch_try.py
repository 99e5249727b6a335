"""What ExecuTorch makes of a `.pt2` file: whether it lowers and runs, how far logits are from torch's, and what a delegate takes.

    python -m benchmarks.executorch_try write FOLDER                # here: files of the tests' small networks
    OTHER/bin/python benchmarks/executorch_try.py lower FOLDER      # where ExecuTorch and torch are; stillbit is not needed

"folded" computes the weights before lowering, so that they are float constants. Writes benchmarks/results/executorch.json.
"""

import importlib.metadata
import json
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

NETWORKS = ("mobilenet-lsq_paper", "resnet-integer", "vit-qkr_tensor", "swin-torchvision")
SHAPE = (3, 32, 32)
BATCHES = (1, 2)


def write(folder: Path) -> None:
    from stillbit.export import export_program
    from tests.export.networks import MODELS, image

    for name in NETWORKS:
        export_program(MODELS[name](), folder / f"{name}.pt2", example=image())


def folded(exported: ExportedProgram) -> ExportedProgram:
    """Computes what depends on no input, and gives the program of the rest."""
    network = exported.module()
    assert isinstance(network, fx.GraphModule)
    now: dict[fx.Node, Tensor] = {}
    for node in list(network.graph.nodes):
        if node.op == "get_attr":
            now[node] = network.get_buffer(node.target)
        elif node.op == "call_function" and node.all_input_nodes and all(one in now for one in node.all_input_nodes):
            result = node.target(*fx.map_arg(node.args, now.__getitem__), **fx.map_arg(node.kwargs, now.__getitem__))
            if isinstance(result, Tensor):
                now[node] = result
    for number, (node, tensor) in enumerate(now.items()):
        if node.op == "call_function" and any(user not in now for user in node.users):
            network.register_buffer(f"folded_{number}", tensor.clone())
            with network.graph.inserting_before(node):
                node.replace_all_uses_with(network.graph.get_attr(f"folded_{number}"))
    network.graph.eliminate_dead_code()
    network.recompile()

    class Rest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.network(x)
            return output

    batch = torch.export.Dim("batch", min=1, max=8)
    return torch.export.export(Rest(), (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: batch},))


def lower(path: Path, form: str) -> dict[str, Any]:
    """Lowers a file, runs it on batches, and counts the operations that no delegate takes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    exported = torch.export.load(path)
    reference = exported.module()
    partitioners = [] if form == "portable" else [XnnpackPartitioner()]
    row: dict[str, Any] = {"network": path.stem, "form": form, "pt2_bytes": path.stat().st_size}
    try:
        edge = to_edge_transform_and_lower(folded(exported) if form == "folded" else exported, partitioner=partitioners)
        calls = [node for node in edge.exported_program().graph.nodes if node.op == "call_function"]
        row["left"] = Counter(str(node.target).partition(">")[0].split(" ")[-1].strip(":") for node in calls)
        lowered = path.with_suffix(f".{form}.pte")
        lowered.write_bytes(edge.to_executorch().buffer)
        row["pte_bytes"] = lowered.stat().st_size
        method = Runtime.get().load_program(lowered).load_method("forward")
        images = [torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(batch)) for batch in BATCHES]
        row["largest_difference"] = max(float((method.execute([x])[0] - reference(x)).abs().max()) for x in images)
    except Exception as error:  # whatever it is, the record says it
        row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return row


def main() -> None:
    task, folder = sys.argv[1], Path(sys.argv[2])
    if task == "write":
        write(folder)
        return
    rows = [lower(folder / f"{name}.pt2", form) for name in NETWORKS for form in ("portable", "xnnpack", "folded")]
    record = {
        "command": "python -m benchmarks.executorch_try write FOLDER; OTHER/bin/python benchmarks/executorch_try.py lower FOLDER",
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "executorch")} | {"python": platform.python_version()},
        "hardware": platform.machine(),
        "what": f"largest difference of a logit from torch's, random images, batches {BATCHES}; left: operations outside delegates",
        "rows": rows,
    }
    (Path(__file__).parent / "results" / "executorch.json").write_text(json.dumps(record, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
