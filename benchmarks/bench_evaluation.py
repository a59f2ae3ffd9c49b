"""Seeds scored: one confusion matrix a threshold, the official way, against one pass.

Both ways in one run on smooth seeded maps, as stored in float16, at the size of VOC photographs; on
a GPU ours alone is there, on a CPU both have one thread. The official way, written from words: for
each of 30 thresholds put it as background before the maps, take the highest, and count. Ours gives
all 100. Prints the ratio, and how the cost grows.
"""

import measuring
import numpy as np
import torch
import torch.nn.functional as F

from ribkit.evaluation import miou, thresholds
from ribkit.runtime.device import device

SIZE, CLASSES, SHOWN, IMAGES = (375, 500), 20, 2, 8
SHARED = range(0, 90, 3)  # the thresholds of the official way


def image(size: tuple[int, int], classes: int, rng_seed: int) -> tuple[np.ndarray, ...]:
    """Maps ``(2, H, W)`` float16, the classes they are of, and a mask with 255 at its edges."""
    generator = torch.Generator().manual_seed(rng_seed)
    coarse = torch.rand(1, SHOWN, 6, 8, generator=generator)
    maps = F.interpolate(coarse, size, mode="bicubic").clamp(0, 1)[0].half().numpy()
    keys = torch.randperm(classes, generator=generator)[:SHOWN].sort().values.numpy()
    cells = torch.randint(0, SHOWN + 2, (1, 1, 5, 7), generator=generator).float()
    own = F.interpolate(cells, size, mode="nearest")[0, 0].int().numpy()
    return maps, keys, np.array([0, *(keys + 1), 255], np.uint8)[own]


def official(maps: np.ndarray, keys: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """Counts ``(30, 3, n)``, a threshold at a time."""
    maps, names, counted = maps.astype(np.float32), np.append(0, keys + 1), mask != 255
    found = []
    for index in SHARED:
        # the float32 that no map exceeds unless it exceeds the threshold itself
        plane = np.full((1, *mask.shape), thresholds.THRESHOLDS[index], np.float32)
        if plane.flat[0] > thresholds.THRESHOLDS[index]:
            plane = np.nextafter(plane, np.float32(0))
        labels = names[np.concatenate([plane, maps]).argmax(axis=0)]
        pairs = mask[counted].astype(int) * (classes + 1) + labels[counted]
        table = np.bincount(pairs, minlength=(classes + 1) ** 2)
        found.append(miou.counts(table.reshape(classes + 1, classes + 1)))
    return np.stack(found)


def ours(maps: np.ndarray, keys: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """What is stored of one image."""
    on_device = torch.from_numpy(maps).float().to(device())
    return thresholds.image_rows(*thresholds.sweep(on_device, keys, mask))


def seconds(size: tuple[int, int], classes: int) -> dict[str, float]:
    """Of both ways, for `IMAGES` images; that both say the same is checked."""
    images = [image(size, classes, rng_seed) for rng_seed in range(IMAGES)]
    ways = {
        "official": lambda: np.stack([official(*one, classes) for one in images]),
        "ours": lambda: thresholds.concat_rows([ours(*one) for one in images]),
    }
    taken, found = measuring.alternate(ways)
    swept = thresholds.Swept(IMAGES, classes + 1, **found["ours"])
    for k, index in enumerate(SHARED):
        np.testing.assert_array_equal(swept.at(index), found["official"][:, k])
    return taken


def measure() -> list[dict]:
    """The ratio at VOC's size, then with COCO's 80 classes and on images of other sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = []
        for size, classes in ((SIZE, CLASSES), (SIZE, 80), ((188, 250), 20), ((750, 1000), 20)):
            taken = seconds(size, classes)
            first = (size, classes) == (SIZE, CLASSES)
            entry = {
                "name": "evaluation" if first else "evaluation, growth",
                "device": measuring.name(),
            }
            entry["ratio"] = taken["official"] / taken["ours"]
            entry["size"] = {"pixels": size, "classes": classes, "maps": SHOWN, "images": IMAGES}
            found.append(entry | {"seconds": taken})
    finally:
        torch.set_num_threads(threads)
    return found


if __name__ == "__main__":
    for found in measure():
        print(measuring.words(found))
