"""Train what the study trains, on one process or, under torchrun, on several together.

    torchrun --nproc-per-node=2 -m ribkit.train --profile voc --data VOC2012 [NAME ...]

NAME is classifier, irn, psa or network; without one, all of them, in that order. The results lie
where ``make reproduce`` looks for them. What a training needs besides, rank 0 computes beforehand.
"""

import sys

from ribkit.networks.training import share
from ribkit.runtime import distributed
from ribkit.runtime.command import command
from ribkit.runtime.device import threads
from ribkit.runtime.errors import InputError
from ribkit.study import pipeline
from ribkit.study.command_line import opened, parser
from ribkit.study.pipeline import TRAINED
from ribkit.study.study import Study


def train(study: Study, name: str) -> None:
    """Train what is missing of one of `pipeline.TRAINED`, on all processes that have joined."""
    if not distributed.is_distributed():
        pipeline.train(study.replicas, name)
        return
    distributed.main_process_first(lambda: pipeline.prepared(study.replicas, name))
    for prepare in pipeline.prepared(study.replicas, name):
        distributed.main_process_first(prepare)
        call = prepare()  # what it needs is stored now, in rank 0 and elsewhere
        with distributed.collective(), threads(1):
            study.store.run(call.func, **call.keywords)


@command("ribkit.train")
def main(argv: list[str] | None = None) -> None:
    """Check the input, train, say what was trained."""
    arguments = parser("ribkit.train", __doc__)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TRAINED))
    options = arguments.parse_args(argv)
    names = options.names or TRAINED
    for name in names:
        if name not in TRAINED:
            raise InputError(f"'{name}' is not trained; use one of {', '.join(TRAINED)}.")
    study = opened(options)
    p = study.profile
    with distributed.joined():
        with distributed.collective():  # before anything is computed
            for name in names:
                share(getattr(p, name).batch)
        distributed.main_process_first(lambda: print(study.check(), flush=True))
        for name in names:
            train(study, name)
            if distributed.is_main_process():
                print(f"{name}: trained.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
