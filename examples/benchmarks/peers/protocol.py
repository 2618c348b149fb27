"""What is done with every method: choice of a setting, pre-training, evaluation."""

from contextlib import suppress
from dataclasses import asdict

import numpy as np
from devices import cost
from sklearn.model_selection import StratifiedGroupKFold
from study import TEST_SPLIT

from otcxr_sk import Objective
from otcxr_sk.evaluation import compare, few_labels, knn_probe, label_efficiency, linear_probe

from . import choosing
from .cache import fingerprint
from .dense import dense_features, dice_of_head
from .features import OURS, Setting, resized

FRACTIONS = (0.01, 0.1, 1.0)
# With few labels, the score depends on which patients are labeled.
DRAWS = 10
# Masks cost more than labels: nobody annotates all images.
MASK_FRACTIONS = (0.01, 0.1)
# Images for transfer are few: cross-validation, repeated.
FOLDS, REPEATS = 5, 10
EPSILON = Objective().epsilon

_DIFFERENCE = ("difference", "low", "high")
_OF_RUN = ("cpu_seconds", "gpu_seconds", "matching_accuracy", "matching_chance")
OF_KEY = (
    *("learning_rate", "weight", "encoder", "image_size", "epochs", "batch_size"),
    *("pixels", "split"),
)


class Protocol:
    """What is done with each method, one cached result at a time.

    Parameters
    ----------
    study : Study
    budget : Budget
    cache : Cache
    chosen : dict of str to Setting, optional
        Settings by method that are not searched, taken from another table.

    Attributes
    ----------
    common : dict
        The part of the key that all results share.
    """

    def __init__(self, study, budget, cache, chosen=None):
        self.study, self.budget, self.cache, self.chosen = study, budget, cache, chosen or {}
        self.train, self.test = study.parts()
        # Labels that are too rare to choose by raise an error now, not after hours.
        choosing.scores_in_folds(study, self.train, np.zeros((len(self.train), 1)))
        pixels = fingerprint(study.images, study.patients)
        self.common = {"pixels": pixels, "split": TEST_SPLIT, **asdict(budget)}
        self.tasks = fingerprint(*study.tasks.values())
        self.masks = fingerprint(*study.masks.values())
        self.images, self.transfer = study.images, None
        if study.transfer:
            others = study.transfer
            self.images = np.concatenate([study.images, others.images])
            self.transfer = fingerprint(others.images, others.patients, *others.tasks.values())

    def select(self, name, method):
        """Choose a setting by probes in folds: first the learning rate, then the weight."""
        setting = Setting(method.learning_rates[0], method.weights[0])
        for word in Setting._fields:
            known = getattr(self.chosen.get(name, Setting()), word)
            values = [v for v in getattr(method, f"{word}s") if known in (None, v)]
            options = [setting._replace(**{word: value}) for value in values]
            if len(options) > 1:
                setting = max(options, key=lambda option: self._validate(name, method, option))
            else:
                (setting,) = options
        return setting

    def _validate(self, name, method, setting):
        def evaluate_features():
            try:
                run = self._pretrained(name, method, setting, 0)
            except FloatingPointError as error:
                return {"score": None, "failed": str(error)}
            features = self._split(run["features"])[0][self.train]
            scores = choosing.scores_in_folds(self.study, self.train, features)
            return {"score": float(np.mean([list(shares.values()) for shares in scores.values()]))}

        key = self._key("selection", name, method, setting, 0)
        key |= {"tasks": self.tasks, "folds": choosing.FOLDS, "draws": choosing.DRAWS}
        score = self.cache.get(key, evaluate_features)["score"]
        return -np.inf if score is None else score

    def _pretrained(self, name, method, setting, seed):
        """Return features, cost, matching and masks of a method, trained on all but the test."""
        # A method without randomness runs once for all seeds.
        key = self._key("run", name, method, setting, seed if method.random else 0)
        key |= {"masks": self.masks, "mask_fractions": MASK_FRACTIONS, "draws": DRAWS}
        key |= {"transfer": self.transfer}
        return self.cache.get(key, lambda: self._run(name, method, setting, key["seed"]))

    def final(self, name, method, setting, seed):
        """Return features, cost, matching and scores, on test patients and images for transfer."""
        run = self._pretrained(name, method, setting, seed)
        features, others = self._split(run["features"])
        key = {**run["key"], "kind": "scores", "draws_by": seed, **self._evaluation()}

        def evaluate_features():
            scores = self._evaluate(features, seed)
            return {"scores": scores + self._evaluate_transfer(others)}

        scores = self.cache.get(key, evaluate_features)["scores"]
        return {**run, "features": features, "scores": scores + run["dense"]}

    def difference(self, ours, other, seed):
        """Return the AUC of OTCXR minus another method's, linear probe, with an interval."""

        def measure():
            rows = []
            for task, y in self.study.tasks.items():
                found = compare(
                    {"other": other["features"], OURS: ours["features"]},
                    y,
                    **self._labels(seed),
                    reference="other",
                )
                rows += [{"task": task, **row} for row in found.rows() if row["name"] == OURS]
            return {"differences": rows}

        keys = {"ours": ours["key"], "other": other["key"], "draws_by": seed, **self._evaluation()}
        name = other["key"]["method"]
        return self.cache.get({"kind": "difference", "method": name, **keys}, measure)[
            "differences"
        ]

    def _run(self, name, method, setting, seed):
        words = f"{name}, {_describe(setting)}, seed {seed}"
        print(words, end=": ", flush=True)
        name_of_cost, clock = cost(self.budget.device)
        started = clock()
        try:
            features, frozen = method.make(self.images, self.train, self.budget, setting, seed)
        except FloatingPointError as error:
            print(f"failed, {error}", flush=True)
            raise
        seconds = clock() - started
        print(f"{seconds:.0f} s", flush=True)
        seen = resized(self.study.images[self.test], self.budget.image_size)
        accuracy, chance = frozen.matching(seen, EPSILON) if frozen else (None, None)
        return {
            "features": features,
            name_of_cost: round(seconds, 2),
            "matching_accuracy": accuracy,
            "matching_chance": chance,
            "dense": self._evaluate_dense(frozen) if frozen and self.study.masks else [],
        }

    def _evaluate_dense(self, frozen):
        features = dense_features(frozen, resized(self.study.images, self.budget.image_size))
        y = np.stack(list(self.study.tasks.values()), axis=1)
        scores = []
        for fraction in MASK_FRACTIONS:
            drawn = [
                few_labels(
                    y, self.study.patients, train=self.train, fraction=fraction, random_state=draw
                )
                for draw in range(DRAWS)
            ]
            patients = [len(np.unique(self.study.patients[rows])) for rows in drawn]
            for task, truth in self.study.masks.items():
                found = [dice_of_head(features, truth, rows, self.test).mean() for rows in drawn]
                columns = fraction, np.mean(found), np.std(found, ddof=1), np.mean(patients)
                scores.append(_score(task, "dense", columns))
        return scores

    def _evaluate(self, features, seed):
        scores = []
        for task, y in self.study.tasks.items():
            for probe in ("linear", "knn"):
                found = label_efficiency(features, y, **self._labels(seed), probe=probe)
                columns = found.fractions, found.mean, found.std, found.n_patients
                scores += [_score(task, probe, row) for row in zip(*columns, strict=True)]
        return scores

    def _evaluate_transfer(self, features):
        scores = []
        study = self.study.transfer
        for task, y in study.tasks.items() if study else ():
            for probe, measure in ("linear", linear_probe), ("knn", knn_probe):
                found = []
                for repeat in range(REPEATS):
                    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=repeat)
                    of_folds = [
                        measure(features, y, study.patients, train=train, test=test)
                        for train, test in folds.split(features, y, study.patients)
                    ]
                    found.append(np.mean(of_folds))
                n_patients = len(np.unique(study.patients)) * (1 - 1 / FOLDS)
                columns = 1.0, np.mean(found), np.std(found, ddof=1), n_patients
                scores.append(_score(task, probe, columns))
        return scores

    def _split(self, features):
        """Split features into those of the study's images and of those for transfer."""
        return np.split(features, [len(self.study.images)])

    def _key(self, kind, name, method, setting, seed):
        return {
            "kind": kind,
            "method": name,
            **setting._asdict(),
            "seed": seed,
            **self.common,
            "fixed": method.fixed,
        }

    def _labels(self, seed):
        """Return who is labeled and who is tested, as `label_efficiency` and `compare` take it."""
        return {
            "groups": self.study.patients,
            "train": self.train,
            "test": self.test,
            "fractions": FRACTIONS,
            "draws": DRAWS,
            "random_state": seed,
        }

    def _evaluation(self):
        return {"tasks": self.tasks, "fractions": FRACTIONS, "draws": DRAWS}


def _score(task, probe, columns):
    names = "labels", "score", "std_of_draws", "labelled_patients"
    return {"task": task, "probe": probe, **dict(zip(names, map(float, columns), strict=True))}


def _describe(setting):
    chosen = [f"{name} {value:g}" for name, value in setting._asdict().items() if value is not None]
    return ", ".join(chosen).replace("_", " ") or "no choice"


def evaluate(protocol, methods, seeds):
    """Return one row for each method, task, fraction, probe and seed."""
    finals = {}
    for name, method in methods.items():
        setting = protocol.select(name, method)
        for seed in range(seeds):
            # A run that diverged has no row.
            with suppress(FloatingPointError):
                finals[name, seed] = protocol.final(name, method, setting, seed)
    rows = []
    for (name, seed), run in finals.items():
        differences = {}
        against = finals.get((methods[name].against, seed))
        if name != OURS and against:
            found = protocol.difference(against, run, seed)
            differences = {(row["task"], "linear", row["fraction"]): row for row in found}
        for score in run["scores"]:
            row = differences.get((score["task"], score["probe"], score["labels"]), {})
            rows.append(
                {
                    "method": name,
                    "seed": seed,
                    **score,
                    **{f"ours_less_it_{part}": row.get(part) for part in _DIFFERENCE},
                    **{column: run.get(column) for column in _OF_RUN},
                    "device": protocol.budget.device,
                    **{column: run["key"][column] for column in OF_KEY},
                    **run["made_by"],
                }
            )
    return rows
