"""What is done with every method: choice of a setting, pre-training, evaluation."""

from contextlib import suppress
from dataclasses import asdict
from functools import partial

import numpy as np
from devices import cost
from study import TEST_SPLIT

from otcxr_sk import Objective

from . import choosing, judging
from .cache import fingerprint
from .features import OURS, Setting, resized

EPSILON = Objective().epsilon

# Columns of the differences, by what they are in `judging.differences`.
OURS_LESS_IT = {f"ours_less_it_{part}": part for part in ("difference", "low", "high")}
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
        self.to_choose_on = {
            name: each for name, each in study.to_choose_on().items() if name in study.pool
        }
        # Labels that are too rare to choose by raise an error now, not after hours.
        for each in self.to_choose_on.values():
            choosing.scores_in_folds(each, np.zeros((len(each.patients), 1)))
        pool = [study.collections[name] for name in study.pool]
        pixels = fingerprint(*(array for each in pool for array in (each.images, each.patients)))
        self.common = {"pixels": pixels, "split": TEST_SPLIT, **asdict(budget)}
        self.images = {
            "all_pixels": fingerprint(study.images),
            "trained_on": fingerprint(self.train),
            "matched": fingerprint(self.test),
        }
        self.questions = {name: _questions(each) for name, each in study.collections.items()}

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
            features = self.study.split(run["features"])
            found = [
                choosing.mean_in_folds(each, features[name])
                for name, each in self.to_choose_on.items()
            ]
            return {"score": float(np.mean(found))}

        key = self._key("selection", name, method, setting, 0)
        key |= {"folds": choosing.FOLDS, "draws": choosing.DRAWS}
        key |= {"questions": {name: self.questions[name] for name in self.to_choose_on}}
        score = self.cache.get(key, evaluate_features)["score"]
        return -np.inf if score is None else score

    def _pretrained(self, name, method, setting, seed):
        """Return features, cost, matching and masks of a method, trained on the pool."""
        # A method without randomness runs once for all seeds.
        key = self._key("run", name, method, setting, seed if method.random else 0)
        masks = {name: _of_masks(each) for name, each in self.study.collections.items()}
        key |= {"masks": masks, "mask_shares": judging.MASK_SHARES, "draws": judging.DRAWS}
        return self.cache.get(key, lambda: self._run(name, method, setting, key["seed"]))

    def final(self, name, method, setting, seed):
        """Return features, cost and matching, and what every collection is judged with."""
        run = self._pretrained(name, method, setting, seed)
        judged = {}
        for other, features in self.study.split(run["features"]).items():
            key = {**run["key"], "kind": "scores", "draws_by": seed, "collection": other}
            key |= {"questions": self.questions[other], "draws": judging.DRAWS}
            key |= {"folds": (judging.FOLDS, judging.REPEATS), "resamples": judging.RESAMPLES}
            judge = partial(judging.judge, self.study.collections[other], features, seed)
            judged[other] = self.cache.get(key, judge)
        del run["features"]
        return {**run, "judged": judged}

    def _run(self, name, method, setting, seed):
        words = f"{name}, {_describe(setting)}, seed {seed}"
        print(words, end=": ", flush=True)
        name_of_cost, clock = cost(self.budget.device)
        started = clock()
        try:
            features, frozen = method.make(
                self.study.images, self.train, self.budget, setting, seed
            )
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
            "dense": {
                name: judging.judge_masks(each, frozen, self.budget.image_size)
                for name, each in self.study.collections.items()
                if frozen and each.masks
            },
        }

    def _key(self, kind, name, method, setting, seed):
        return {
            "kind": kind,
            "method": name,
            **setting._asdict(),
            "seed": seed,
            **self.common,
            **self.images,
            "fixed": method.fixed,
        }


def _questions(collection):
    """Return what the scores of a collection depend on, beside its images."""
    values = fingerprint(collection.patients, *collection.tasks.values())
    return [list(collection.tasks), values, collection.shares, collection.in_folds]


def _of_masks(collection):
    """Return what the scores of masks depend on; nothing if there are none."""
    if not collection.masks:
        return None
    return [fingerprint(*collection.masks.values()), *_questions(collection)]


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
        ours = None if name == OURS else finals.get((methods[name].against, seed))
        for other, judged in run["judged"].items():
            collection, gaps = protocol.study.collections[other], {}
            if ours:
                gaps = judging.differences(other, collection, ours["judged"][other], judged)
            mean = judging.mean_score(other, collection, judged["scores"])
            scores = [*judged["scores"], *run["dense"].get(other, ()), *([mean] if mean else ())]
            for score in scores:
                linear = score["probe"] == "linear"
                gap = gaps.get((score["task"], score["labels"]), {}) if linear else {}
                rows.append(
                    {
                        "method": name,
                        "seed": seed,
                        "pool": " ".join(protocol.study.pool),
                        "collection": other,
                        **score,
                        **{column: gap.get(part) for column, part in OURS_LESS_IT.items()},
                        **{column: run.get(column) for column in _OF_RUN},
                        "device": protocol.budget.device,
                        **{column: run["key"][column] for column in OF_KEY},
                        **run["made_by"],
                    }
                )
    return rows
