"""Stages image by image: written at once, read one by one; and maps that are stored on a grid."""

import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fabricated import run_stage, stored, trained_classifier

from ribkit.data import scenes, views
from ribkit.data.images import ImageSet
from ribkit.refinement import stages as refinement
from ribkit.runtime import per_image, store
from ribkit.runtime.errors import InputError
from ribkit.runtime.store import Arrays, Store, stage
from ribkit.study import maps as seeds


@pytest.fixture(autouse=True)
def _in_process(monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")


@pytest.fixture
def images():
    return scenes.generate(0, 4, size=48)


CALLS = []


def sized(images, index):
    CALLS.append(index)
    found = {"size": np.zeros((index, 2)), "n": index, "word": f"w{index}"}
    return found if index != 2 else found | {"extra": 0.1}


def test_each_image_is_made_once_and_kept(images, tmp_path):
    CALLS.clear()
    per_image.map_to_disk(partial(sized, images), images, tmp_path, "sizes")
    assert CALLS == [0, 1, 2, 3]
    (tmp_path / "1.npz").unlink()
    made = per_image.map_to_disk(partial(sized, images), images, tmp_path, "sizes")
    assert CALLS == [0, 1, 2, 3, 1]
    assert [len(array) for array in made.arrays("size").values()] == [0, 1, 2, 3]
    table = made.table(("n", "word", "extra"))
    assert table.columns.tolist() == ["image", "n", "word", "extra"]
    assert table["n"].tolist() == [0, 1, 2, 3]
    assert table["word"].tolist() == ["w0", "w1", "w2", "w3"]
    assert table["extra"].isna().tolist() == [True, True, False, True]


def test_what_a_stage_returns_is_stored_as_a_dictionary_would_be(images, tmp_path):
    @stage("sizes")
    def lazy(scratch):
        return {
            "maps": per_image.map_to_disk(partial(sized, images), images, scratch, "").arrays(
                "size"
            )
        }

    @stage("sizes")
    def eager():
        return {"maps": {name: np.zeros((i, 2)) for i, name in enumerate(images.ids)}}

    one, two = (Store(tmp_path).run(one) for one in (lazy, eager))
    assert (one.path / "maps.npz").read_bytes() == (two.path / "maps.npz").read_bytes()
    assert not list(tmp_path.glob("*.scratch"))


def test_an_image_that_fails_is_named(images, tmp_path):

    def fails(index):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        per_image.map_to_disk(fails, images.take([1]), tmp_path, "sizes")
    assert caught.value.__notes__[-1] == f"not computed in 3 rounds: (0, '{images.ids[1]}')"


# ---- a function of one image as a stage ---------------------------------------------------------
@per_image.per_image("share", "shares", arrays=("share",), scalars=("n", "word"), gpu=False)
def share(image, maps, factor):
    """An image's share."""
    CALLS.append(image.index)
    row = {"share": maps * factor, "n": image.index}
    return row | ({"word": f"w{image.name}"} if image.label.any() else {})


def gathered(results):
    names = [image.name for image in results.images]
    sums = [float(array.sum()) for array in results.arrays("share").values()]
    return {"sums": pd.DataFrame({"image": names, "sum": sums})}


@per_image.per_image("sum", "sums", gather=gathered)
def total(image, maps):
    return {"share": maps}


@pytest.fixture
def maps(images, tmp_path):
    each = {name: np.full((2, 2), float(k)) for k, name in enumerate(images.ids)}
    return stored(tmp_path / "maps", maps=each).arrays("maps")


def test_the_function_of_one_image_is_within_reach(images):
    image = images[1]
    found = share.__wrapped__(image, np.ones((1, 2)), 3)
    assert found["share"].tolist() == [[3, 3]]
    assert (found["n"], found["word"]) == (1, "w1")
    assert (share.stage, share.resumes, share.__doc__) == ("share", True, "An image's share.")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stage_hands_each_image_its_own_arrays(images, maps, workers, tmp_path, monkeypatch):
    monkeypatch.setenv("RIBKIT_WORKERS", workers)
    images.labels[2] = False
    made = run_stage(share, images, tmp_path / "s", maps=maps, factor=2)
    assert list(made) == ["share", "images"]
    assert [array[0, 0] for array in made["share"].values()] == [0, 2, 4, 6]
    table = made["images"]
    assert table.columns.tolist() == ["image", "n", "word"]
    assert table["n"].tolist() == [0, 1, 2, 3]
    assert table["word"].isna().tolist() == [False, False, True, False]


def test_a_stage_goes_on_where_it_was(images, maps, tmp_path):
    CALLS.clear()
    given = {"maps": maps, "factor": 2}
    first = run_stage(share, images, tmp_path / "s", **given)["share"]
    assert CALLS == [0, 1, 2, 3]
    (tmp_path / "s" / "1.npz").unlink()
    again = run_stage(share, images, tmp_path / "s", **given)["share"]
    assert CALLS == [0, 1, 2, 3, 1]
    assert all((first[name] == again[name]).all() for name in images.ids)


def test_a_stage_may_gather_what_was_made_of_all_images(images, maps, tmp_path):
    result = Store(tmp_path).run(total, images=images, maps=maps)
    expected = pd.DataFrame({"image": images.ids, "sum": [0.0, 4.0, 8.0, 12.0]})
    pd.testing.assert_frame_equal(result.table("sums"), expected)
    assert [path.name for path in result.path.iterdir() if path.suffix == ".npz"] == []


def test_an_image_without_arrays_is_told_before_any_is_computed(maps, tmp_path):
    CALLS.clear()
    more = scenes.generate(0, 6, size=48)
    with pytest.raises(InputError, match=r"^maps in .*: image 4 is missing; compute it first\.$"):
        run_stage(share, more, tmp_path / "s", maps=maps, factor=2)
    assert CALLS == []


# ---- arrays -------------------------------------------------------------------------------------
def test_arrays_are_read_one_by_one_when_they_are_asked_for():
    asked = []
    arrays = Arrays("abc", lambda name: asked.append(name) or np.zeros(3))
    assert list(arrays) == ["a", "b", "c"]
    assert len(arrays) == 3
    assert "a" in arrays
    assert "d" not in arrays
    assert asked == []
    assert arrays["b"].shape == (3,)
    assert asked == ["b"]
    assert arrays.get("d") is None
    with pytest.raises(KeyError):
        arrays["d"]


def test_stored_arrays_can_be_read_by_threads_and_by_other_processes(tmp_path):
    expected = {f"2007/{k}.jpg": np.full(1000, k) for k in range(50)}
    arrays = stored(tmp_path, a=expected).arrays("a")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(arrays.get, arrays))
    assert all((one == two).all() for one, two in zip(found, expected.values(), strict=True))
    again = pickle.loads(pickle.dumps(arrays))  # noqa: S301
    assert again == arrays
    assert hash(again) == hash(arrays)
    assert {k: v.sum() for k, v in again.items()} == {k: v.sum() for k, v in expected.items()}


def test_stored_tensors_go_to_other_processes_by_their_place_alone(tmp_path):
    tensors = stored(tmp_path, w={"w": torch.ones(100_000)}).tensors("w")
    assert tensors["w"].sum() == 100_000
    sent = pickle.dumps(tensors)
    assert len(sent) < 1000
    again = pickle.loads(sent)  # noqa: S301
    assert again == tensors
    assert hash(again) == hash(tensors)
    assert torch.equal(again["w"], tensors["w"])


def test_a_file_that_is_written_again_is_read_again(tmp_path):
    for value in (1.0, 2.0):
        result = stored(tmp_path, a={"x": np.full(2, value)})
        assert result.arrays("a")["x"].tolist() == [value, value]


def test_files_bear_no_time(tmp_path):
    store.save(tmp_path, "a", {"x": np.zeros(2)})
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}


# ---- maps on a grid -----------------------------------------------------------------------------
class Grey:
    """Images of 30 x 50."""

    def image(self, id):
        return np.full((30, 50, 3), 90, np.uint8)

    def fingerprint(self, ids):
        return ""


def test_labels_of_coarse_maps_have_the_size_that_is_seen(tmp_path):
    images = ImageSet(("x",), ("a", "b"), np.array([[True, True]]), Grey())
    assert views.resized_size((30, 50), 25) == (15, 25)
    assert views.resized_size((30, 50)) == (30, 50)
    maps = np.zeros((2, 4, 7), np.float16)  # ceil(15 / 4), ceil(25 / 4)
    maps[1] = 0.9
    arguments = {"maps": stored(tmp_path, maps={"x": maps}).arrays("maps"), "long_side": 25}
    stages = {
        refinement.threshold_labels: {"threshold": 0.5},
        refinement.crf_labels: {"threshold": 0.5},
        refinement.sure_labels: {"threshold": 0.5},
    }
    for make, more in stages.items():
        made = run_stage(make, images, tmp_path / make.__name__, **arguments, **more)
        labels = made["labels"]["x"]
        assert labels.shape == (15, 25)
        assert (labels == 2).all()


def test_seeds_are_stored_at_the_stride_asked_for(tmp_path):
    images = scenes.generate(0, 2, size=50)
    images.labels[1] = False
    from ribkit.networks import classifier

    network = classifier.build("small", len(scenes.CLASSES), rng_seed=0)
    weights = stored(tmp_path, weights=network.state_dict()).tensors("weights")
    seen = {"model": trained_classifier(weights), "sizes": seeds.Sizes((1.0,), map_stride=4)}
    made = run_stage(seeds.cam_seeds, images, tmp_path / "s", **seen)
    shown = images.labels[0].sum()
    assert [maps.shape for maps in made["maps"].values()] == [(shown, 13, 13), (0, 13, 13)]
