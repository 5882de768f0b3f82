"""Bytes and multiply-adds of one run on many machines: predicted, and measured on this one.

    python benchmarks/cluster.py --shape 7b
    python benchmarks/cluster.py [--model NAME] [--workers 1 2 4] [--aim self] [--shards 16]

Without --model, a random Llama of --hidden, --neurons, --heads and --layers is pruned by a fifth, in float32. A
scheduler and workers of one thread are started here, and each process counts the bytes that come out of its sockets.
Each row says what a formula (`predicted`) expects of them, and how far apart the two are. What Dask itself says (keys,
heartbeats, task names) is in no formula.

Multiply-adds are counted by torch in one process, once: those of sums and steps, which workers do, and those of the
rest, which the client does. Rows of 8 and 64 workers are computed from these, from the rates that this machine reached
with them, and from --link bytes a second into each machine; everything passes one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from scale import Nothing, replaced

HERE = Path(__file__).parent
SAME = ("model", "layers", "hidden", "neurons", "tokens", "settings", "workers", "shards")  # what names a row
MODELLED = (8, 64)
COUNTING = """
from tornado.iostream import IOStream
def count(read):
    def counted(self, buffer):
        size = read(self, buffer)
        IOStream.received += size or 0
        return size
    return counted
if not hasattr(IOStream, "received"):  # Dask imports this more than once
    IOStream.received, IOStream.read_from_fd = 0, count(IOStream.read_from_fd)
"""


@dataclass(frozen=True)
class Run:
    """What the bytes depend on; widths are those of each layer, before and after."""

    sequences: int
    length: int
    hidden: int
    head: int
    shards: int
    workers: int
    aimed: bool  # at the dense model's stream, which is carried too
    halves: bool  # sums of two halves of the text, to choose a ridge
    heads: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, int], ...]
    neurons: tuple[tuple[int, int], ...]


SEVEN = Run(128, 256, 4096, 128, 16, 8, True, True, ((32, 32),) * 32, ((32, 32),) * 32, ((11008, 7680),) * 32)


def predicted(run: Run) -> dict[str, int]:
    """Bytes into the scheduler, all workers together, and the client: layers that all stay, in float32."""
    states = 4 * run.sequences * run.length * run.hidden
    rope = 2 * 4 * run.length * run.head
    sent, layers, summed, moved, back = 0, rope, 0, 0, 0
    for place, (heads, groups, neurons) in enumerate(zip(run.heads, run.groups, run.neurons, strict=True)):
        watched = {heads[0] * run.head: heads[0] > heads[1], neurons[0]: neurons[0] > neurons[1]}
        for inputs in (inputs for inputs, narrowed in watched.items() if narrowed):
            size, crossing, parts = sums(run, inputs), *tree(run)
            summed, moved = summed + parts * size, moved + crossing * size
        attention = [4 * run.hidden * run.head * 2 * (h + g) for h, g in zip(heads, groups, strict=True)]
        mlp = [4 * run.hidden * 3 * n for n in neurons]
        layers += 4 * 2 * run.hidden + attention[0] + mlp[0]
        layers += attention[1] * (heads[0] > heads[1]) + mlp[1] * (neurons[0] > neurons[1])
        sent += states * (2 if run.aimed and place else 1)
        back += states * (2 if run.aimed else 1)
    up, down = sent + layers, summed + back
    found = {"scheduler": up + down, "workers": up + (run.workers - 1) * layers + moved, "client": down}
    return found | {"total": sum(found.values())}


def sums(run: Run, inputs: int) -> int:
    """Bytes of the sums over one part of the text, as matrices."""
    return 8 * (inputs * inputs + 2 * inputs + 1 + (inputs * run.hidden if run.aimed else 0))


def tree(run: Run) -> tuple[int, int]:
    """How many sums go from one worker to another in a step, and how many come back to the client."""
    from comp_lib.scale.shards import slices

    shards = slices(run.sequences, run.length, run.shards)
    size, moved = -(-run.sequences // (1 + run.halves)), 0
    starts = range(0, run.sequences, size)
    for start in starts:
        here = [place for place, rows in enumerate(shards) if rows.start < start + size and rows.stop > start]
        seats = [place * run.workers // len(shards) for place in here]
        while len(seats) > 1:
            pairs = [seats[i : i + 2] for i in range(0, len(seats), 2)]
            moved += sum(pair[0] != pair[-1] for pair in pairs)
            seats = [pair[0] for pair in pairs]
    return moved, len(starts)


def spent() -> tuple[int, float]:
    """(bytes out of the sockets, CPU seconds) of this process so far."""
    import os

    from tornado.iostream import IOStream

    return IOStream.received, sum(os.times()[:2])


@contextlib.contextmanager
def cluster(workers: int, folder: Path):
    """The address of a scheduler with so many workers, whose processes count."""
    from distributed import Client

    (folder / "counting.py").write_text(COUNTING)
    file, processes = folder / f"scheduler-{workers}.json", []

    def start(what: str, *more: str) -> None:
        words = ["-m", "dask", what, "--preload", str(folder / "counting.py"), "--scheduler-file", str(file), *more]
        with (folder / f"{what}-{len(processes)}.log").open("wb") as log:
            processes.append(subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, cwd=folder))

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        for _ in range(workers):
            start("worker", "--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
        while not file.exists():
            if processes[0].poll() is not None:
                raise SystemExit(
                    f"expected a scheduler, got one that ended: {(folder / 'scheduler-0.log').read_text()[-500:]}"
                )
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        with Client(address, timeout=120, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=300)
        yield address
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def made(arguments: argparse.Namespace, folder: Path) -> Path:
    """A random Llama on disk."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=arguments.hidden,
        intermediate_size=arguments.neurons,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.heads,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "parent")
    return folder / "parent"


def macs(flops: float) -> int:
    return int(flops) // 2


def counted(prune) -> dict[str, float]:
    """Multiply-adds of sums and steps and of the rest of the layers, and the seconds of both, in one process."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from comp_lib.prune_layer import Here, LayerPruner

    aten = torch.ops.aten

    def attention(query, key, value, *rest, out_val=None, **more):
        *batch, length, width = query
        return 4 * batch[0] * batch[1] * length * key[-2] * width

    def matrix(a, *rest, **more):
        return 2 * a[-1] ** 3 // 3

    own = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten.linalg_cholesky_ex: matrix,
        aten.linalg_solve_triangular: lambda a, b, *rest, **more: a[-1] ** 2 * b[-1],
        aten.cholesky_solve: lambda b, a, *rest, **more: 2 * a[-1] ** 2 * b[-1],
        aten._linalg_solve_ex: lambda a, b, *rest, **more: 2 * a[-1] ** 3 // 3 + 2 * a[-1] ** 2 * b[-1],
    }
    found = {"workers": 0.0, "layers": 0.0, "workers_seconds": 0.0, "layers_seconds": 0.0}
    before = {(kind, name): getattr(kind, name) for kind, name in ((Here, "sums"), (Here, "through"))}
    before[LayerPruner, "prune_layer"] = LayerPruner.prune_layer

    def wrap(function, key, count):
        def wrapped(*values):
            started = time.perf_counter()
            with FlopCounterMode(display=False, custom_mapping=own) if count else contextlib.nullcontext() as mode:
                result = function(*values)
            if count:
                found[key] += mode.get_total_flops()
            else:
                found[f"{key}_seconds"] += time.perf_counter() - started
            return result

        return wrapped

    try:
        for count in (True, False):  # counting takes time
            for (kind, name), function in before.items():
                setattr(kind, name, wrap(function, "layers" if kind is LayerPruner else "workers", count))
            prune()
    finally:
        for (kind, name), function in before.items():
            setattr(kind, name, function)
    client = found["layers"] - found["workers"]
    return {
        "workers": macs(found["workers"]),
        "client": macs(client),
        "workers_seconds": round(found["workers_seconds"], 3),
        "client_seconds": round(found["layers_seconds"] - found["workers_seconds"], 3),
    }


def modelled(run: Run, work: dict[str, float], workers: int, link: float) -> dict[str, object]:
    """A row of so many workers, computed: they compute side by side, everything else happens one after the other."""
    run = replace(run, workers=workers, shards=max(run.shards, workers))
    size = predicted(run)
    seconds = {
        "workers": work["workers_seconds"] / workers,
        "client": work["client_seconds"],
        "scheduler's link": size["scheduler"] / link,
        "workers' links": size["workers"] / link / workers,
        "client's link": size["client"] / link,
    }
    alone = work["workers_seconds"] + work["client_seconds"]
    return {
        "workers": workers,
        "shards": run.shards,
        "computed": True,
        "bytes_predicted": size,
        "multiply_adds": {"client": work["client"], "each worker": int(work["workers"]) // workers},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "one_process_seconds": round(alone, 3),
        "speed_up_without_network": round(alone / (seconds["workers"] + seconds["client"]), 2),
        "speed_up": round(alone / sum(seconds.values()), 2),
        "rests_on": {
            "multiply-adds a second of workers": round(work["workers"] / work["workers_seconds"]),
            "multiply-adds a second of the client": round(work["client"] / work["client_seconds"]),
            "link, bytes a second": link,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="smollm2-135m, or a folder with a Llama (default: a random one)")
    parser.add_argument("--shape", choices=["7b"], help="run nothing: bytes of LLaMA-2-7B's shape, by the formula")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--neurons", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--kv-groups", type=int, help="to keep, as in prune (default: all)")
    parser.add_argument("--aim", choices=["self", "dense"], default="dense")
    parser.add_argument("--link", type=float, default=125e6, help="bytes a second, of the computed rows")
    parser.add_argument("--out", type=Path, default=HERE / "cluster.json")
    arguments = parser.parse_args()
    if arguments.shape is not None:
        for workers in MODELLED:
            size = predicted(replace(SEVEN, workers=workers, shards=max(16, workers)))
            print(
                f"{workers:>4} workers: " + ", ".join(f"{name} {value / 1e9:,.1f} GB" for name, value in size.items())
            )
        return
    exec(COUNTING, {})

    import torch
    from distributed import Client
    from transformers import AutoConfig

    from comp_lib.models.load import open_model
    from comp_lib.scale.machines import Machines
    from comp_lib.scale.model_on_disk import Streamed
    from comp_lib.scale.prune_to import Means, prune_to
    from comp_lib.settings import Settings

    torch.set_num_threads(1)  # as a worker has
    rows = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else []
    with tempfile.TemporaryDirectory(prefix="comp-lib-") as name:
        folder = Path(name)
        if arguments.model is None:
            parent = made(arguments, folder)
            config = AutoConfig.from_pretrained(parent)
        else:
            parent, config, _ = open_model(arguments.model)
        if arguments.sequences * arguments.length < config.intermediate_size:
            sys.exit(f"expected at least {config.intermediate_size:,} tokens, got fewer: the formula is for matrices")
        size = arguments.sequences, arguments.length
        ids = torch.randint(config.vocab_size, size, generator=torch.Generator().manual_seed(0))
        settings = Settings(ratio=0.2, layers=0, aim=arguments.aim, kv_groups=arguments.kv_groups)

        def prune(machines: Machines | None = None):
            out = folder / f"small-{time.time_ns()}"
            return prune_to(out, Streamed(parent, config), Nothing(), ids, settings, means=Means(machines))

        work, done = counted(prune), prune()
        repeats = config.num_attention_heads // config.num_key_value_heads
        groups = tuple(zip(done.before.kv_groups, done.after.kv_groups, strict=True))
        run = Run(
            *size,
            config.hidden_size,
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            arguments.shards,
            1,
            settings.aim == "dense",
            settings.ridge == "auto",
            tuple((repeats * before, repeats * after) for before, after in groups),
            groups,
            tuple(zip(done.before.neurons, done.after.neurons, strict=True)),
        )
        made_of = {"model": arguments.model or "random", "layers": len(groups), "tokens": ids.numel()}
        made_of |= {"settings": {"aim": settings.aim, "kv_groups": settings.kv_groups}, "hidden": run.hidden}
        made_of |= {"neurons": run.neurons[0], "threads": 1, "link": arguments.link}
        for workers in arguments.workers:
            with cluster(workers, folder) as address, Client(address, set_as_default=False) as client:
                machines = Machines(address, run.shards)
                prune(machines)  # processes import what they need
                before = client.run_on_scheduler(spent), [*client.run(spent).values()], spent()
                started = time.perf_counter()
                prune(machines)
                seconds = time.perf_counter() - started
                after = client.run_on_scheduler(spent), [*client.run(spent).values()], spent()
            measured, cpu = (
                {
                    "scheduler": after[0][i] - before[0][i],
                    "workers": sum(one[i] for one in after[1]) - sum(one[i] for one in before[1]),
                    "client": after[2][i] - before[2][i],
                }
                for i in (0, 1)
            )
            measured["total"] = sum(measured.values())
            expected = predicted(replace(run, workers=workers))
            row = {
                "workers": workers,
                "shards": run.shards,
                "computed": False,
                "bytes_predicted": expected,
                "bytes_measured": measured,
                "apart": {name: round(measured[name] / expected[name] - 1, 4) for name in expected},
                "multiply_adds": {"client": work["client"], "all workers": work["workers"]},
                "seconds": round(seconds, 2),
                "cpu_seconds": {name: round(value, 2) for name, value in cpu.items()},
            }
            rows = replaced(rows, json.loads(json.dumps(made_of | row)), SAME)
        for workers in MODELLED:
            row = made_of | modelled(run, work, workers, arguments.link)
            rows = replaced(rows, json.loads(json.dumps(row)), SAME)
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(rows)))


def table(rows: list[dict]) -> list[str]:
    lines = [f"{'workers':>8}{'shards':>8}{'MB predicted':>14}{'measured':>10}{'apart':>8}  seconds"]
    for row in rows:
        expected, measured = row["bytes_predicted"]["total"] / 1e6, row.get("bytes_measured", {}).get("total")
        found = f"{measured / 1e6:>10.1f}{row['apart']['total']:>8.1%}" if measured else f"{'':18}"
        lines.append(f"{row['workers']:>8}{row['shards']:>8}{expected:>14.1f}{found}  {row['seconds']}")
    return lines


if __name__ == "__main__":
    main()
