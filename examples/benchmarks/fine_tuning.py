"""
Fine-tuning and segmentation with few labels
============================================

Trains classifiers, and on phantoms segmenters, with the labels of few patients, from a pre-trained
encoder, from random weights and from ImageNet's.

    python examples/benchmarks/fine_tuning.py examples/benchmarks/radiographs.toml FOLDER \\
        --pool kermany
    python examples/benchmarks/fine_tuning.py --phantoms 1000

Pre-training sees the pool without its test patients, and no labels. Each classifier is trained with
the labels of a share of the same patients and judged on the test patients. All three starts get the
same patients, epochs and settings, those of `OTCXRClassifier` and `OTCXRSegmenter`. Seeds draw who
is labeled, the random weights and the training; pre-training is that of seed 0. Beside it is the
linear probe that fine-tuning starts from ("frozen"), and, of masks, the pyramid on an encoder that
stays as it is.

ImageNet's weights are of EfficientNet-Lite0, from a package that holds them; the other encoders are
those of `--encoder`.

Every result is kept in ``--cache``; pre-trained encoders, too.
"""

import itertools
from functools import lru_cache, partial

import numpy as np
from devices import cost
from peers.cache import Cache, fingerprint
from peers.features import imagenet_encoder
from peers.judging import MASK_SHARES, RESAMPLES, interval
from results import markdown_head, markdown_row, write_csv
from study import laptop, make_parser, read_study

from otcxr_sk import OTCXRClassifier, OTCXRPretrainer, OTCXRSegmenter
from otcxr_sk.evaluation import few_labels
from otcxr_sk.evaluation._probe import mean_auc
from otcxr_sk.evaluation._resampling import resample, resampled_auc

PRETRAINED = "pre-trained"
STARTS = (PRETRAINED, "random", "imagenet")
# Whether the encoder stays as it is.
ENCODERS = {"frozen": True, "fine-tuned": False}
OF_RUN = ("score", "labelled_patients")


def start(name, study, options, seed):
    """Return a fitted estimator to start from; the pre-trained one is kept in the cache."""
    setting = {"encoder": options.encoder, "image_size": options.image_size}
    drawn = 0 if name == PRETRAINED else seed
    estimator = laptop(**setting, device=options.device, random_state=drawn)
    images = study.images[study.parts()[0]]
    if name == "imagenet":
        network = imagenet_encoder(options.image_size, estimator.match_stride).backbone
        estimator.set_params(encoder=network)
    if name != PRETRAINED:
        return estimator.set_params(epochs=0).fit(images)
    parameters = np.frombuffer(repr(estimator.get_params()).encode(), np.uint8)
    folder = options.cache / f"encoder-{fingerprint(images, parameters)}"
    if not folder.exists():
        estimator.fit(images).save_pretrained(folder)
    return OTCXRPretrainer.from_pretrained(folder).set_params(device=options.device)


def train_with(model, collection, targets, labeled):
    """Train a model with few labels; return how many patients have them, and the cost."""
    name, clock = cost(model.pretrainer.device)
    started = clock()
    model.fit(collection.images[labeled], targets[labeled])
    patients = np.unique(collection.patients[labeled])
    return {"labelled_patients": len(patients), name: round(clock() - started, 1)}


def classify(collection, columns, encoder, share, seed, frozen):
    """Train with few labels; return the AUC on test patients, and in resamples of them."""
    train, test = collection.parts()
    y = np.stack([collection.tasks[column] for column in columns], axis=1)
    known = ~np.isnan(y).all(1)
    train, test = train[known[train]], test[known[test]]
    labeled = few_labels(y, collection.patients, train=train, fraction=share, random_state=seed)
    labels = y if len(columns) > 1 else y[:, 0].astype(int)
    classifier = OTCXRClassifier(encoder, frozen=frozen, random_state=seed)
    facts = train_with(classifier, collection, labels, labeled)
    found = classifier.predict_proba(collection.images[test])
    if len(columns) == 1:
        first = 1 if found.shape[1] == 2 else 0
        truth = (labels[test][:, None] == classifier.classes_[first:]).astype(float)
        found = found[:, first:]
    else:
        truth = y[test]
    index, counts = resample(collection.patients[test], RESAMPLES, np.random.RandomState(0))
    return {
        "score": mean_auc(truth, found),
        "resampled": resampled_auc(truth, found, index, counts),
        **facts,
    }


def segment(collection, kind, encoder, share, seed, frozen):
    """Train with few masks; return the Dice coefficient on test patients, and in resamples.

    It is over all pixels of the test patients, averaged over structures.
    """
    train, test = collection.parts()
    y = np.column_stack(list(collection.tasks.values()))
    labeled = few_labels(y, collection.patients, train=train, fraction=share, random_state=seed)
    masks = collection.masks[kind]
    segmenter = OTCXRSegmenter(encoder, frozen=frozen, random_state=seed)
    facts = train_with(segmenter, collection, masks, labeled)
    found = segmenter.predict(collection.images[test])
    both = 2 * (masks[test] & found).sum((2, 3))
    either = masks[test].sum((2, 3)) + found.sum((2, 3))
    index, counts = resample(collection.patients[test], RESAMPLES, np.random.RandomState(0))
    weights = np.vstack([np.ones(len(test), int), counts[:, index]])
    of_resamples = (weights @ both / np.maximum(weights @ either, 1)).mean(1)
    return {"score": float(of_resamples[0]), "resampled": of_resamples[1:], **facts}


def answer_from(starts, answer, *given):
    """Answer a question, from a start that is made only where it is needed."""
    return answer(starts(), *given)


def questions(study):
    """Yield what is asked: its name, how it is answered, and the shares of labels."""
    for name in study.pool:
        collection = study.collections[name]
        if collection.in_folds:
            continue
        for task, columns in collection.overview().items():
            if task in collection.masks:
                yield task, partial(segment, collection, task), MASK_SHARES
            else:
                yield task, partial(classify, collection, columns), collection.shares


def difference(found, start, of_seeds):
    """Return how much better the pre-trained start is, and its 95 % interval by patient.

    A mean over seeds; the interval is of the test patients alone.
    """
    ours, other = ([found[name, seed] for seed in of_seeds] for name in (PRETRAINED, start))
    gaps = np.mean([a["resampled"] - b["resampled"] for a, b in zip(ours, other, strict=True)], 0)
    difference = np.mean([a["score"] - b["score"] for a, b in zip(ours, other, strict=True)])
    return {"difference": float(difference), **interval(gaps)}


def as_line(task, share, frozen, found, options):
    """Return a row of the table: means over seeds, and how far the pre-trained start is ahead."""
    cells = [task, f"{100 * share:g} %", "frozen" if frozen else "fine-tuned"]
    for name in options.starts:
        mean = np.mean([found[name, seed]["score"] for seed in range(options.seeds)])
        cells.append(f"{mean:.3f}")
        if PRETRAINED in options.starts and name != PRETRAINED:
            gap = difference(found, name, range(options.seeds))
            cells[-1] += " ({difference:+.3f}, {low:+.3f} to {high:+.3f})".format(**gap)
    return markdown_row(cells)


def main(arguments=None):
    parser = make_parser("Training with few labels, from three starts.", seeds=3, out="few.csv")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--tasks", nargs="+", help="only these")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.01, 0.1, 1.0])
    options = parser.parse_args(arguments)
    study, cache, table, lines = read_study(options), Cache(options.cache), [], []
    asked = [
        (task, answer, share)
        for task, answer, shares in questions(study)
        for share in shares
        if (not options.tasks or task in options.tasks) and share in options.shares
    ]
    data = fingerprint(study.images, *(each.patients for each in study.collections.values()))
    starts = lru_cache(partial(start, study=study, options=options))
    setting = {"encoder": options.encoder, "image_size": options.image_size}
    parameters = {
        "pretraining": laptop(**setting).get_params(),
        "training": (OTCXRClassifier().get_params(), OTCXRSegmenter().get_params()),
    }
    kinds = [ENCODERS[kind] for kind in options.encoders]
    for (task, answer, share), frozen in itertools.product(asked, kinds):
        found = {}
        for name, seed in itertools.product(options.starts, range(options.seeds)):
            what = {"task": task, "labels": share, "frozen": frozen, "seed": seed}
            key = {"kind": "few", "method": name, "data": data, "pool": study.pool, **what}
            key |= {**parameters, "device": options.device}
            make = partial(
                answer_from, partial(starts, name, seed=seed), answer, share, seed, frozen
            )
            found[name, seed] = run = cache.get(key, make)
            facts = {column: run[column] for column in (*OF_RUN, cost(options.device)[0])}
            table.append({**what, "start": name, **facts, **setting, **run["made_by"]})
        lines.append(as_line(task, share, frozen, found, options))
        print(lines[-1], flush=True)
    write_csv(table, options.out, digits=5)
    print("", *markdown_head(["", "labels", "encoder", *options.starts]), *lines, sep="\n")


if __name__ == "__main__":
    main()
