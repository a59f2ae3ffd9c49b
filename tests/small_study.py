"""The whole study, shrunk by parameters, in a copy of its own: seven notebooks in two minutes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = {
    "classifier.epochs": 1, "classifier.batch": 8, "score_images": 6, "tune_images": 4,
    "bank_images": 8,
    "pretext_scenes": 64, "pretext_epochs": 1, "scale_sets": "1.0", "steps": 2, "lrs": "1e-5",
    "n_others": 2, "irn.epochs": 1, "irn.batch": 4, "psa.epochs": 1, "psa.batch": 4,
    "network.iterations": 4, "network.batch": 2, "network.aspp_rates": "1,2",
    "toy_seeds": 2, "toy_train": 24, "toy_test": 12, "toy_steps": 4,
    "toy_dose_seeds": 2, "toy_doses": 1.0, "toy_masks": 0.5, "irn_log2_steps": 3,
    "ablations.images": 3, "ablations.taus": 0.4, "ablations.steps": 1, "ablations.lrs": 3.0,
    "ablations.margins": 0.0, "ablations.n_others": 1,
}  # fmt: skip
MINI = SMALL | {
    "train_images": 24, "margins": 0.0, "replicas": 2, "psa_alphas": 8, "psa_log2_steps": 4,
    "val_images": 4, "smoothings": 0.0, "percentiles": 100.0, "norms": 0.4,
    "ablations.usual_textures": 1.0,
}  # fmt: skip


class SmallStudy:
    """A copy of the code in a folder, and how to run it there."""

    def __init__(self, folder, settings, profile="mini", data="", **variables):
        for part in ("ribkit", "notebooks"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        self.folder, self.build = folder, folder / "build"
        words = [word for pair in settings.items() for word in ("--set", "{}={}".format(*pair))]
        asked = ["--profile", profile, "--data", data]
        self.command = [sys.executable, "-m", "ribkit.reproduce", *asked, *words]
        self.variables = {"RIBKIT_DEVICE": "cpu", "RIBKIT_PROGRESS": ""} | variables

    def start(self, **more):
        """It runs, in a process group of its own."""
        asked = {"PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT / "tests")])}
        asked |= self.variables | more.pop("variables", {})
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            self.command, cwd=self.folder, env=os.environ | asked, start_new_session=True,
            **quiet | more,
        )  # fmt: skip

    def run(self, **more):
        """Exit status, and what was printed, of a whole run."""
        process = self.start(**more)
        out, err = process.communicate()
        return process.returncode, out, err

    def made(self):
        """Path -> what must be the same of every run: all bytes, but no times and no notebooks."""
        found = {}
        for path in self.build.rglob("*"):
            if path.name == "manifest.json":
                manifest = json.loads(path.read_text())
                content = [manifest["parameters"], manifest["code"], manifest["sha256"]]
            elif path.is_dir() or path.suffix == ".ipynb":
                content = ""
            else:
                content = path.read_bytes()
            digest = hashlib.sha256(repr(content).encode()).hexdigest()
            found[str(path.relative_to(self.build))] = digest
        return found
