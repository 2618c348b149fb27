"""scikit-learn's own callbacks, from version 1.9 on."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

pytest.importorskip("sklearn.callback", reason="scikit-learn before 1.9 has no callbacks")


class Diary:
    """A callback that follows scikit-learn's protocol."""

    def __init__(self, stop_after=None):
        self.pages, self.embeddings, self.stop_after = [], [], stop_after

    def setup(self, estimator, context):
        self.pages.append("setup")

    def teardown(self, estimator, context):
        self.pages.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.pages.append(f"begin {context.task_name} {context.task_id} of {context.max_subtasks}")

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        self.pages.append(f"end {context.task_name} {context.task_id}")
        self.embeddings.append(fitted_estimator.transform(X))
        return context.task_name == "epoch" and context.task_id + 1 == self.stop_after


def test_a_run_is_a_task_and_every_epoch_a_subtask(tiny, X):
    diary = Diary()
    fitted = tiny(epochs=2).set_callbacks(diary).fit(X)
    assert diary.pages == [
        "setup",
        "begin fit 0 of 2",
        "begin epoch 0 of 0",
        "end epoch 0",
        "begin epoch 1 of 0",
        "end epoch 1",
        "end fit 0",
        "teardown",
    ]
    np.testing.assert_array_equal(fitted.weights_, tiny(epochs=2).fit(X).weights_)
    np.testing.assert_array_equal(diary.embeddings[-1], fitted.transform(X))
    assert not np.array_equal(diary.embeddings[0], diary.embeddings[1])


def test_a_callback_may_end_the_run(tiny, X):
    diary = Diary(stop_after=1)
    assert tiny(epochs=3).set_callbacks(diary).fit(X).n_epochs_ == 1
    assert diary.pages[-3:] == ["end epoch 0", "end fit 0", "teardown"]


def test_a_run_that_has_ended_has_no_epochs_left(tiny, X, tmp_path):
    tiny(checkpoint=tmp_path).fit(X)
    diary = Diary()
    tiny(checkpoint=tmp_path).set_callbacks(diary).fit(X)
    assert diary.pages == ["setup", "begin fit 0 of 0", "end fit 0", "teardown"]


def test_a_fit_that_fails_is_torn_down(tiny, X):
    diary = Diary()
    with pytest.raises(FloatingPointError):
        tiny(learning_rate=1e30).set_callbacks(diary).fit(X)
    assert diary.pages == ["setup", "begin fit 0 of 1", "begin epoch 0 of 0", "teardown"]


def test_a_scoring_monitor_scores_every_epoch(tiny, X):
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring={"score": lambda estimator, X, y: estimator.score(X)})
    fitted = tiny(epochs=3).set_callbacks(monitor).fit(X, np.zeros(len(X)))
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert [row["task_id"] for row in epochs] == [0, 1, 2]
    assert epochs[-1]["score"] == fitted.score(X)
    assert len({row["score"] for row in epochs}) == 3


def test_a_pipeline_passes_on_its_callbacks(tiny, X):
    class Passed(Diary):
        max_propagation_depth = None

        def on_fit_task_end(self, estimator, context):
            self.pages.append(f"end {context.task_name} {context.task_id}")

    diary = Passed()
    make_pipeline(tiny(epochs=2), StandardScaler()).set_callbacks(diary).fit(X)
    assert [page for page in diary.pages if "epoch" in page] == [
        "begin epoch 0 of 0",
        "end epoch 0",
        "begin epoch 1 of 0",
        "end epoch 1",
    ]


def test_clones_share_callbacks_as_in_scikit_learn(tiny, X):
    diary = Diary()
    clone(tiny().set_callbacks(diary)).fit(X)
    assert diary.pages[-1] == "teardown"
