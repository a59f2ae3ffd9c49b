"""Every stage of the study once, as small as it can be, stored in argv[1]: for test_determinism."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fabricated import trained_classifier

from ribkit.data import digits, scenes
from ribkit.method.rivals import Rival
from ribkit.method.settings import Settings
from ribkit.networks import classifier, configs, deeplab
from ribkit.networks.configs import AffinityConfig
from ribkit.networks.trained import TrainedModel
from ribkit.refinement import irn, psa, stages
from ribkit.refinement.random_walk import WALKS
from ribkit.runtime.store import Result, Store, stage
from ribkit.study import (
    ablations,
    coverage,
    information,
    mask_free,
    panels,
    predictions,
    toy_masking,
)
from ribkit.study import maps as seeds
from ribkit.study import toy as bottleneck
from ribkit.study.maps import Adaptation, Sizes

COUNT, N_LABELS = 4, len(scenes.CLASSES) + 1
SIZES = {"long_sides": (40, 56), "crop": 48}
CLASSIFIER = configs.ClassifierConfig(epochs=2, batch=4, lr=0.01, momentum=0.9, **SIZES)
HEADS = AffinityConfig(stride=4, radius=3, epochs=2, batch=4, lr=0.05, crop=48)
NETWORK = configs.DeepLabConfig(aspp_rates=(1, 2), iterations=3, batch=4, lr=0.01, crop=48)
RIVAL = Rival(norm=0.4, smoothing=0.02, percentile=95.0)
RIB = Settings(steps=2, lr=1e-3, n_others=2, margin=1e9)


def run(store: Store) -> Iterator[Result]:
    """The results, each as soon as it is stored."""
    images, others = (scenes.generate(rng_seed, COUNT, size=48) for rng_seed in (0, 1))
    sets = {"images": images}
    start = {"scenes": scenes.Pretext(2, 32), "epochs": 1, "rng_seed": 0}
    yield (made := store.run(classifier.pretrain, **start))
    pretext = made.tensors("weights")
    begun = {"backbone": "small", "pretext": pretext}
    learns = sets | {"monitor_images": others, "training": CLASSIFIER} | begun
    yield (made := store.run(classifier.train, **learns))
    model = trained_classifier(made.tensors("weights"))
    view = {"long_sides": (40, 56), "side": 32, "rng_seed": 0}
    yield (made := store.run(seeds.feature_bank, model=model, images=others, **view))
    seen = sets | {"model": model, "sizes": Sizes((1.0, 0.5))}
    adapted = seen | {"adaptation": Adaptation(RIB, made.tensors("features"))}
    yield (made := store.run(seeds.cam_seeds, **seen))
    changed = {"maps": made.arrays("maps"), "rival": RIVAL}
    yield (made := store.run(seeds.feature_norms, **seen))
    yield store.run(seeds.rival_seeds, **sets, **changed, norm=made.arrays("norm"))
    yield (made := store.run(seeds.rib_seeds, **adapted))
    maps = made.arrays("maps")
    yield store.run(seeds.growth, **adapted)
    yield store.run(seeds.score, **sets, maps=maps)
    yield store.run(mask_free.levels, **sets, maps=maps)
    yield store.run(coverage.cover, **sets, maps=maps, plain=maps, threshold=0.4)
    yield store.run(ablations.measure, **adapted)
    yield store.run(ablations.adapt_once, **adapted)
    whole = sets | {"model": model, "long_side": None}
    yield store.run(information.layers, **whole)
    yield store.run(panels.gradient_region, **whole)
    yield store.run(information.estimate, **whole, probe_train_images=others, maps={"RIB": maps})
    plain = sets | {"maps": maps, "long_side": None}
    learns = begun | {"n_labels": N_LABELS, "long_side": None}
    yield store.run(stages.threshold_labels, **plain, threshold=0.4)
    yield store.run(stages.crf_labels, **plain, threshold=0.4)
    yield (labels := store.run(stages.sure_labels, **plain, threshold=0.4))
    walks = {"irn": ((stages.irn_walk, panels.irn_panels), {"walk": WALKS["official"]})}
    walks["psa"] = (stages.psa_walk,), {"alpha": 4.0, "log2_steps": 3}
    for kind, trained in (("irn", irn), ("psa", psa)):
        parts = ((images, labels.arrays("labels")),)
        result = store.run(trained.train, **learns, parts=parts, training=HEADS)
        yield result
        every, how = walks[kind]
        weights = result.tensors("weights")
        network = TrainedModel.of(trained.build, weights, **begun, training=HEADS)
        for walk in every:
            yield store.run(walk, **plain, model=network, **how)
    learns |= {"parts": ((images, None),), "training": NETWORK}
    yield (made := store.run(deeplab.train, **learns))
    options = begun | {"n_labels": N_LABELS, "training": NETWORK}
    network = TrainedModel.of(deeplab.build, made.tensors("weights"), **options)
    seen = {"model": network, "scales": (1.0, 0.5), "long_side": None}
    yield (made := store.run(predictions.predict, **sets, **seen))
    yield store.run(stages.score, **sets, labels=made.arrays("refined"))
    yield store.run(predictions.predict_present, **sets, **seen)
    yield store.run(predictions.objects, **sets)
    yield (salient := store.run(predictions.foreground, **sets, model=network, long_side=None))
    both = {"labels": labels.arrays("labels"), "salient": salient.arrays("maps")}
    yield store.run(stages.salient_labels, **sets, **both)
    yield store.run(classifier.imagenet, backbone="small")
    toy = {"digits": digits.load(n_train=40, n_test=8), "steps": 5}
    yield store.run(bottleneck.experiment, **toy, seeds=(0,), activations=("sigmoid",))
    yield store.run(toy_masking.masking, **toy, shares=(0.5,))
    yield store.run(projection)


@stage("projection")
def projection() -> dict:
    """What `information.estimate` has numpy and scipy do, of as many features as a study has."""
    random, kinds = np.random.default_rng(0), np.repeat([0, 1], 2000)
    features = random.normal(size=(4000, 64)) + 0.1 * kinds[:, None]
    return {"values": {"values": information.projection(features, kinds).coef_}}


if __name__ == "__main__":
    for _ in run(Store(Path(sys.argv[1]))):
        pass
