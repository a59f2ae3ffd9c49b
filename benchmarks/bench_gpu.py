"""Whether all that computes on a GPU works on this one, how long it takes and how much memory.

Each part has a process of its own, so that one that fails, hangs or fills the card stops no other;
data are made here. Under eight minutes on an H100. On a CPU the parts are shrunk, which tells only
that they run, and the notebooks are left to ``make soak``.
"""

import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from unittest import mock

import bench_evaluation
import bench_memory
import bench_random_walk
import measuring
import numpy as np
import torch
import torch.distributed as dist
from bench_adaptation import LITE, MINI, VOC, Size, agreement, bank, label, network, ours
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torchvision import models

from ribkit.data import scenes
from ribkit.evaluation import thresholds
from ribkit.networks import classifier, configs, deeplab
from ribkit.networks.architectures import Weights
from ribkit.networks.backbone import PRECISIONS
from ribkit.networks.training import Objective
from ribkit.refinement import irn, psa, random_walk
from ribkit.runtime.device import device
from ribkit.runtime.errors import ResourceError, resource_errors
from ribkit.runtime.parallel import map_images
from ribkit.runtime.progress import measured
from ribkit.runtime.store import Store
from ribkit.study import profiles

ROOT = Path(__file__).parents[1]
LIMIT_S = 450  # of all parts together
GPU = device().type == "cuda"
SIZE = VOC if GPU else dataclasses.replace(MINI, steps=2)
LITE = LITE if GPU else dataclasses.replace(LITE, image=(48, 64), side=48, steps=2, n_others=2)
SIZES = [(333, 500), (500, 375), (366, 488), (281, 500), (500, 334)] if GPU else [(48, 64)]
N_LABELS = len(scenes.CLASSES) + 1


# ---- adaptation ---------------------------------------------------------------------------------
@lru_cache(maxsize=2)
def frozen(size: Size, precision: torch.dtype | None) -> dict[str, Tensor]:
    """The bank that one step's others fill: noise, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    shape = size.n_others, 3, size.side, size.side
    pixels = 255 * torch.rand(shape, generator=generator)
    return bank(size, precision, (pixels.to(device()), label(size, others=True)))


def seconds(way: Callable[[], object]) -> float:
    """Until it is done, also on the device."""
    return measuring.alternate({"once": way}, 1)[0]["once"]


def adaptation(folder: Path) -> dict:
    """One image at the paper's size: the first time, then again; and how often the host waits."""
    found = {}
    for name, precision in PRECISIONS.items():
        way = partial(ours, SIZE, precision, frozen(SIZE, precision))
        found[name] = {"first (s)": seconds(way), "again (s)": min(seconds(way), seconds(way))}
        with measured() as measures:
            way()
        found[name] |= {"MiB": measures["memory"], "waits": waits(way)}
    return found


def waits(way: Callable[[], object]) -> int:
    """How often the host waits for the device."""
    if not GPU:
        return 0
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        way()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def memory(folder: Path) -> dict:
    """Peaks of the official way and of ours, in MiB."""
    size = VOC if GPU else MINI
    ways = bench_memory.PRECISIONS
    return {f"{way} (MiB)": measuring.apart(bench_memory.held, size, way) for way in ways}


def precision(folder: Path) -> dict:
    """How far maps are from the CPU's, and two runs from one another, over the largest value."""
    found = {}
    short = {"image": (192, 256), "scales": (1.0, 0.5), "side": 160, "steps": 4, "n_others": 4}
    for size in (MINI, dataclasses.replace(VOC, **short)) if GPU else (SIZE,):
        with mock.patch.dict(os.environ, RIBKIT_DEVICE="cpu"):
            reference = _maps(size, None)
        ways = {"float32": (None, False), "TF32": (None, True), "bfloat16": (torch.bfloat16, True)}
        for name, (kind, tf32) in ways.items():
            torch.backends.cudnn.allow_tf32 = tf32
            maps, again = _maps(size, kind), _maps(size, kind)
            found[f"{size.backbone}, {name}"] = agreement(reference, maps)
            found[f"{size.backbone}, {name}, again"] = agreement(maps, again)
    if GPU:
        assert found["small, float32"] < 1e-3, found
    return found


def _maps(size: Size, kind: torch.dtype | None) -> dict[float, Tensor]:
    """On the CPU, of a network made anew on the device that computes."""
    network.cache_clear()
    frozen.cache_clear()
    return {scale: maps.cpu() for scale, maps in ours(size, kind, frozen(size, kind)).items()}


def layout(folder: Path) -> dict:
    """Seconds with each order of memory."""
    found = {}
    for size in (SIZE, LITE):
        for name, kind in PRECISIONS.items():
            for order in (torch.contiguous_format, torch.channels_last):
                network(size.backbone, size.classes, kind).to(memory_format=order)
                frozen.cache_clear()
                way = partial(ours, size, kind, frozen(size, kind))
                way()
                words = f"{size.backbone}, {name}, {str(order).split('.')[1]} (s)"
                found[words] = min(seconds(way), seconds(way))
    return found


def sizes(folder: Path) -> dict:
    """What an image of a size that is new to cuDNN costs more than the next one of this size."""
    kind, taken = torch.bfloat16, []
    ours(SIZE, kind, frozen(SIZE, kind))
    for image in SIZES:
        way = partial(ours, dataclasses.replace(SIZE, image=image), kind, frozen(SIZE, kind))
        taken.append([seconds(way), min(seconds(way), seconds(way))])
    new, known = np.mean(taken, axis=0)
    return {"new size (s)": new, "known size (s)": known}


# ---- processes ----------------------------------------------------------------------------------
def workers(folder: Path) -> dict:
    """Images by one process and by two on the same device: seconds, and how far maps differ."""
    found, maps = {}, {}
    for count in (1, 2):
        with mock.patch.dict(os.environ, RIBKIT_WORKERS=str(count)):
            map_images(one, range(2), "warm")
            started = time.perf_counter()
            results = map_images(one, range(8), "adaptation")
        found[f"{count} processes (s)"] = time.perf_counter() - started
        found[f"{count} processes, each (MiB)"] = max(held for _, _, held in results)
        maps[count] = [made for made, _, _ in results]
        found[f"{count} processes, at work"] = len({process for _, process, _ in results})
    found["largest difference"] = max(map(agreement, maps[1], maps[2]))
    return found


def one(index: int) -> tuple[dict[float, Tensor], int, float]:
    """Maps of an image, the process that made them, and the most that it held so far."""
    kind = torch.bfloat16
    maps = ours(SIZE, kind, frozen(SIZE, kind), index)
    held = torch.cuda.max_memory_reserved() / 2**20 if GPU else 0.0
    return {scale: made.cpu() for scale, made in maps.items()}, os.getpid(), held


def out_of_memory(folder: Path) -> dict:
    """What lacks memory ends in the sentence for it, whichever library says so."""
    tasks = {"too much": lambda: torch.empty(2**50, dtype=torch.uint8, device=device())}
    if GPU:
        tasks |= {"cuBLAS on a full card": _multiply, "cuDNN on a full card": _convolve}
    found = {}
    for name, task in tasks.items():
        try:
            with resource_errors("benchmark"):
                task()
            found[name] = "it had enough"
        except ResourceError as error:
            found[name] = str(error)
    return found


def _fill() -> list[Tensor]:
    """All of the device's memory, in ever smaller pieces."""
    pieces, size = [], 2**32
    while size >= 2**21:
        try:
            pieces.append(torch.empty(size, dtype=torch.uint8, device=device()))
        except torch.OutOfMemoryError:
            size //= 2
    return pieces


def _multiply() -> None:
    one, other, product = torch.ones(3, 512, 512, device=device())
    pieces = _fill()
    torch.mm(one, other, out=product)
    assert pieces


def _convolve() -> None:
    conv = torch.nn.Conv2d(64, 64, 3).to(device())
    x = torch.ones(8, 64, 128, 128, device=device())
    pieces = _fill()
    conv(x)
    assert pieces


# ---- walk and scores ----------------------------------------------------------------------------
def walk(folder: Path) -> dict:
    """IRN's walk on the device and on the CPU, against one in double precision; also of no map."""
    size = bench_random_walk.SIZE if GPU else (24, 32)
    on, grid = bench_random_walk.maps(size)
    cam, edge = on.cpu(), grid.cpu()
    ways = {"cpu": partial(random_walk.propagate, cam, edge)}
    ways["device"] = partial(random_walk.propagate, on, grid)
    taken, found = measuring.alternate(ways, 2)
    exact = random_walk.propagate(cam.double(), edge.double())
    errors = {
        f"{name}, error": float((made.cpu() - exact).abs().max() / exact.max())
        for name, made in found.items()
    }
    assert errors["device, error"] < 10 * errors["cpu, error"], errors
    assert random_walk.propagate(on[:0], grid).shape == (0, *size)
    seconds_ = {f"{name} (s)": value for name, value in taken.items()}
    return {"ratio": taken["cpu"] / taken["device"]} | errors | seconds_


def evaluation(folder: Path) -> dict:
    """All thresholds counted on the device and on the CPU: the same numbers."""
    maps, keys, mask = bench_evaluation.image(bench_evaluation.SIZE, bench_evaluation.CLASSES, 0)
    maps = torch.from_numpy(maps).float()
    both = {"cpu": maps, "device": maps.to(device())}
    ways = {name: partial(thresholds.sweep, m, keys, mask) for name, m in both.items()}
    taken, found = measuring.alternate(ways)
    for alone, other in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(alone, other)
    found = {f"{name} (s)": value for name, value in taken.items()}
    return {"ratio": taken["cpu"] / taken["device"]} | found


# ---- trainings ----------------------------------------------------------------------------------
def trainings(folder: Path) -> dict:
    """Some iterations of each training, on a GPU at the paper's size: ResNet-50, random weights."""
    begun, how, images = {"backbone": "small"}, {"batch": 2, "crop": 48}, scenes.generate(0, 2, 48)
    if GPU:
        file, how, images = folder / "resnet50.pth", {}, scenes.generate(0, 32, 512)
        torch.save(models.resnet50().state_dict(), file)
        begun = {"backbone": "resnet50", "weights": Weights(file)}
    how |= {"lr": 1e-9}  # which changes no random network
    learns = begun | {"parts": ((images, None),), "n_labels": N_LABELS, "long_side": None}
    sets = {"images": images, "monitor_images": images.take([0])}
    config = configs.ClassifierConfig(epochs=4, **how)
    heads = configs.AffinityConfig(epochs=5, **how)
    psa_heads = profiles.load("voc").psa if GPU else heads
    psa_heads = dataclasses.replace(psa_heads, epochs=5, **how)
    segmenter = configs.DeepLabConfig(iterations=8, **how)
    calls = {
        "classifier": partial(classifier.train, training=config, **sets, **begun),
        "irn": partial(irn.train, training=heads, **learns),
        "psa": partial(psa.train, training=psa_heads, **learns),
        "network": partial(deeplab.train, training=segmenter, **learns),
    }
    store, found = Store(folder / "results"), {}
    for name, call in calls.items():
        manifest = store.run(call.func, **call.keywords).manifest
        found[name] = {"iteration (s)": manifest["each"], "MiB": manifest["memory"]}
    return found


def torchrun(folder: Path) -> dict:
    """Four trainings in a process that torchrun started; a step through NCCL (on a CPU gloo)."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    started = time.perf_counter()
    script = ROOT / "tests" / "train_together.py"
    subprocess.run([sys.executable, *words, script, folder / "results"], check=True)
    found = {"seconds": time.perf_counter() - started}
    assert len(list((folder / "results").glob("*/manifest.json"))) == 4
    backend = "nccl" if GPU else "gloo"
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1)
    training = configs.DeepLabConfig(aspp_rates=(1, 2, 3), head="deeplabv3", crop=48)
    segmenter = deeplab.build("small", N_LABELS, training).to(device()).train()
    if GPU:
        segmenter.head = torch.nn.SyncBatchNorm.convert_sync_batchnorm(segmenter.head)
    objective = DistributedDataParallel(Objective(segmenter, deeplab.balanced_cross_entropy))
    labels = torch.zeros(2, 48, 48, dtype=torch.uint8, device=device())
    loss = objective(torch.zeros(2, 3, 48, 48, device=device()), labels)
    loss.backward()
    dist.all_reduce(total := loss.detach().clone())
    assert total == loss.detach()
    dist.destroy_process_group()
    return found


# ---- the study ----------------------------------------------------------------------------------
def study(folder: Path) -> dict:
    """Every stage once, as small as can be: seconds of each."""
    import tiny_chain

    return {made.name: made.manifest["seconds"] for made in tiny_chain.run(Store(folder))}


def notebooks(folder: Path) -> dict:
    """All seven, with few images."""
    if not GPU:
        return {"left out": "on a CPU make soak runs them"}
    missing = [name for name in ("papermill", "ipykernel") if not importlib.util.find_spec(name)]
    if missing:
        return {"left out": f"{' and '.join(missing)} missing"}
    from small_study import MINI as FEW
    from small_study import SmallStudy

    path = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    code, out, err = SmallStudy(folder, FEW, RIBKIT_DEVICE="cuda", PYTHONPATH=path).run()
    assert code == 0, err
    return {"printed": out.splitlines()[-1]}


# ---- all parts ----------------------------------------------------------------------------------
PARTS = (adaptation, walk, evaluation, precision, memory, layout, sizes, workers, out_of_memory)
PARTS += (trainings, torchrun, study, notebooks)


def alone(name: str, folder: str) -> None:
    """Compute one part in this process; what it finds goes to a file of the folder."""
    (part,) = (part for part in PARTS if part.__name__ == name)
    (scratch := Path(folder, "scratch")).mkdir()
    with measured() as measures:
        found = part(scratch)
    found = {"memory (MiB)": measures["memory"]} | found
    Path(folder, "found.json").write_text(json.dumps(found, default=float))


def apart(name: str, limit: float) -> dict:
    """The entry of one part, from a process of its own that is killed after ``limit`` seconds."""
    places = [ROOT, ROOT / "benchmarks", ROOT / "tests", *filter(None, [os.getenv("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, "-c", "import sys, bench_gpu; bench_gpu.alone(*sys.argv[1:])"]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "said"), "w") as said:
        process = subprocess.Popen(
            [*command, name, folder],
            env=environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = f"killed after {limit:.0f} s"
            process.wait()
        entry = {"name": f"gpu, {name}", "seconds": time.perf_counter() - started}
        if code == 0:
            return entry | {"worked": True} | json.loads(Path(folder, "found.json").read_text())
        last = Path(said.name).read_text().splitlines()[-12:]
        return entry | {"worked": False, "status": code, "said": last}


def row(entry: dict) -> str:
    """An entry's row of the table."""
    worked = "left out" if "left out" in entry else "yes" if entry["worked"] else "NO"
    memory = f"{entry['memory (MiB)']:,.0f}" if "memory (MiB)" in entry else ""
    return f"{entry['name'][5:]:14} {worked:9} {entry['seconds']:8.1f} {memory:>12}"


def measure() -> list[dict]:
    """An entry for each part; a table of them is printed as they come."""
    print(f"{'part':14} {'worked':9} {'seconds':>8} {'memory (MiB)':>12}", flush=True)
    entries, until = [], time.perf_counter() + LIMIT_S
    for part in PARTS:
        entry = apart(part.__name__, max(20.0, until - time.perf_counter()))
        print(row(entry), flush=True)
        entries.append(entry | {"device": measuring.name(), "torch": torch.__version__})
    return entries


if __name__ == "__main__":
    for found in measure():
        print(measuring.words(found))
