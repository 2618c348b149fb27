"""What a GPU is sent and does with it, on the CPU: only the pinning of memory is left out."""

import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otcxr_sk import _transfer
from otcxr_sk._warning import warn_user
from otcxr_sk.images import (
    RESIZES,
    ArraySource,
    ImageReadError,
    ImageReadWarning,
    PathSource,
    Selection,
    behind,
    read_batches,
    read_usable_batches,
    scan,
)
from otcxr_sk.images.batches import _loading
from otcxr_sk.images.batches._loading import choose_workers, in_thread

GPU, CPU = torch.device("cuda"), torch.device("cpu")
LAYOUTS = {"nhw": (5, 9, 12), "nchw": (5, 3, 9, 12), "nhwc": (5, 9, 12, 1)}
BATCHES = [np.arange(3), np.array([6, 4]), np.array([5])]


@pytest.fixture
def gpu(monkeypatch):
    """A device that is called a GPU, and what it was sent."""
    sent = []

    def send(values, device):
        sent.append(values)
        return values

    monkeypatch.setattr(_transfer, "send", send)
    monkeypatch.setattr(_transfer, "pinned", lambda values: values)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return sent


@settings(max_examples=60, derandomize=True)
@given(
    dtype=st.sampled_from(["uint8", "int8", "uint16", "int16"]),
    layout=st.sampled_from([*LAYOUTS]),
    resize=st.sampled_from(RESIZES),
    size=st.sampled_from([4, 9, 16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_integers_are_scaled_and_resized_as_by_read_to_the_bit(dtype, layout, resize, size, seed):
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    array = rng.integers(limits.min, limits.max, LAYOUTS[layout], dtype, endpoint=True)
    source = ArraySource(array, layout=layout, resize=resize)
    rows = rng.permutation(5)
    raw = source.read_raw(rows)
    assert raw.nbytes == 5 * source.raw_bytes
    made = source.squares(torch.from_numpy(raw), size)
    np.testing.assert_array_equal(made.numpy(), source.read(rows, size))


def test_large_images_become_floats_in_parts(images, monkeypatch):
    source = ArraySource(images)
    raw = torch.from_numpy(source.read_raw(range(7)))
    whole = source.squares(raw, 8)
    monkeypatch.setattr("otcxr_sk.images.sources._source._AT_ONCE", 2 * images[0].size + 1)
    monkeypatch.setattr(source, "gray", lambda part: ArraySource.gray(source, _at_most(2, part)))
    assert source.squares(raw, 8).equal(whole)
    assert not source.constant(raw).any()


def _at_most(n, part):
    assert len(part) <= n
    return part


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 4), np.float32),
        np.zeros((2, 4, 4), bool),
        np.zeros((2, 4, 4), np.int32),
        np.zeros((2, 4, 4), np.dtype(np.uint16).newbyteorder()),
    ],
    ids=["floats", "booleans", "wide integers", "swapped bytes"],
)
def test_other_numbers_are_turned_into_floats_before_they_travel(array, gpu):
    source = ArraySource(array)
    assert source.raw_bytes is None
    list(read_batches(source, [np.arange(2)], 4, 0, GPU))
    assert [values.dtype for values in gpu] == [torch.float32]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_gpu_gets_the_images_of_the_cpu_and_integers_as_they_are(images, gpu, num_workers):
    source = Selection(ArraySource(images), np.array([6, 0, 1, 2, 3, 4, 5]))
    expected = list(read_batches(source, BATCHES, 16, 0))
    found = list(read_batches(source, BATCHES, 16, num_workers, GPU))
    assert all(map(torch.equal, found, expected))
    assert [(values.dtype, values.shape[1:]) for values in gpu] == 3 * [(torch.uint8, (20, 30))]


def test_a_gpu_gets_images_in_files_resized(paths, gpu):
    expected = list(read_batches(PathSource(paths), BATCHES, 16, 0))
    found = list(read_batches(PathSource(paths), BATCHES, 16, 2, GPU))
    assert all(map(torch.equal, found, expected))
    assert [(values.dtype, values.shape[1:]) for values in gpu] == 3 * [
        (torch.float32, (1, 16, 16))
    ]


def test_batches_too_large_to_travel_are_resized_first(images, gpu, monkeypatch):
    monkeypatch.setattr(_loading, "_MOST", 2 * images[0].nbytes)
    list(read_batches(ArraySource(images), BATCHES, 16, 0, GPU))
    assert [values.dtype for values in gpu] == [torch.float32, torch.float32, torch.uint8]


class _Failing(ArraySource):
    """Row 4 cannot be read, as of a file that has been cut off."""

    def _rows(self, indices):
        if 4 in indices:
            raise ImageReadError("row 4: it is cut off")
        return super()._rows(indices)


def test_of_integers_too_only_the_images_that_cannot_be_read_are_missing(images, gpu):
    found = list(read_usable_batches(_Failing(images), BATCHES, 8, 0, GPU))
    assert [[problem.row for problem in problems] for _, problems in found] == [[], [4], []]
    np.testing.assert_array_equal(found[1][0][0], ArraySource(images).read([6], 8)[0])
    with pytest.raises(ImageReadError, match="row 4: it is cut off"):
        list(read_batches(_Failing(images), BATCHES, 8, 0, GPU))


def test_a_scan_by_a_gpu_finds_what_one_by_the_cpu_finds(images, gpu):
    images[2] = 77
    images[5, 3:] = 9
    noted = {CPU: np.zeros((2, 7)), GPU: np.zeros((2, 7))}
    found = {}
    for device, seen in noted.items():

        def note(rows, values, seen=seen):
            seen[:, rows] = values

        found[device] = scan(
            ArraySource(images),
            16,
            batch_size=3,
            held_out=[1],
            refuse_unusable=False,
            device=device,
            note=note,
        )
    np.testing.assert_allclose(found[GPU][:2], found[CPU][:2], rtol=1e-12)
    (here,), (there,) = found[CPU].unusable, found[GPU].unusable
    assert (here.row, str(here.error)) == (there.row, str(there.error)) == (2, str(here.error))
    assert "row 2: the image is constant, every pixel is 0.301961" in str(here.error)
    usable = [0, 1, 3, 4, 5, 6]
    np.testing.assert_allclose(noted[GPU][:, usable], noted[CPU][:, usable], rtol=1e-12)
    with pytest.raises(ValueError, match=r"1 of 7 images cannot be used:\n  row 2"):
        scan(ArraySource(images), 16, device=GPU)


def test_a_strip_of_one_color_is_no_constant_image():
    strips = ArraySource(np.full((3, 1, 5), 4, np.uint8))
    assert not strips.constant(torch.from_numpy(strips.read_raw(range(3)))).any()


def numbers(n, made=None):
    for number in range(n):
        if made is not None:
            made.append(number)
        yield number


@given(n=st.integers(0, 9), ahead=st.integers(1, 4))
def test_a_thread_makes_all_items_in_order(n, ahead):
    assert list(in_thread(numbers(n), ahead)) == list(range(n))


def test_a_thread_is_no_further_ahead_than_it_may_be():
    made = []
    for used, _ in enumerate(in_thread(numbers(30, made), 2)):
        assert len(made) <= used + 1 + 2


def test_what_a_thread_meets_is_raised_after_the_items_before():
    def failing():
        yield 1
        raise ValueError("the second")

    items = in_thread(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="the second"):
        next(items)


def test_items_nobody_asks_for_any_more_are_not_made_and_what_made_them_is_closed():
    made, closed, before = [], [], threading.active_count()

    def items():
        try:
            yield from numbers(30, made)
        finally:
            closed.append(threading.current_thread().name)

    running = in_thread(items(), 2)
    next(running)
    running.close()
    assert len(made) <= 4
    assert closed
    # Where it was opened: a thread has settings of its own.
    assert closed[0] != threading.main_thread().name
    assert threading.active_count() == before


def test_a_thread_that_reads_for_ever_keeps_nobody_waiting_for_ever(monkeypatch):
    monkeypatch.setattr(_loading, "_GRACE", 0.05)
    stuck = threading.Event()

    def items():
        yield 1
        stuck.wait()

    running = in_thread(items())
    next(running)
    running.close()
    assert [thread.daemon for thread in threading.enumerate() if "reads" in thread.name] == [True]
    stuck.set()


def test_what_a_thread_warns_of_points_at_the_users_line():
    def items():
        warn_user("doubtful", ImageReadWarning)
        yield 1

    with pytest.warns(ImageReadWarning, match="doubtful") as told:
        assert list(in_thread(items())) == [1]
    assert told[0].filename == __file__


def test_a_thread_computes_with_the_usual_settings():
    def errors():
        yield np.geterr()["divide"]

    with np.errstate(divide="raise"):
        assert list(in_thread(errors())) == ["warn"]


@given(n=st.integers(0, 6), by=st.integers(0, 3))
def test_on_a_gpu_numbers_are_read_after_the_next_ones_are_asked_for(n, by):
    for device, late in ((CPU, 0), (None, 0), (GPU, by)):
        made = []
        running = behind(numbers(n, made), device, by)
        ages = [len(made) - 1 - number for number in running]
        assert ages == [min(late, n - 1 - number) for number in range(n)]


def test_workers_decode_files_for_a_gpu_and_nothing_else(images, paths, monkeypatch):
    monkeypatch.setattr(_loading, "cpu_count", lambda: 6)
    files, array = PathSource(paths), ArraySource(images)
    assert choose_workers(3, array, gpu=False) == 3
    assert choose_workers("auto", files, gpu=False) == choose_workers("auto", array, gpu=True) == 0
    assert choose_workers("auto", files, gpu=True) == 6
    assert choose_workers("auto", Selection(files, np.array([1])), gpu=True) == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose_workers("auto", files, gpu=True) == 1
    monkeypatch.setattr(_loading, "cpu_count", lambda: 1000)
    assert choose_workers("auto", files, gpu=True) == 16
    monkeypatch.setattr(_loading, "METHOD", None)
    assert choose_workers("auto", files, gpu=True) == 0


@pytest.mark.parametrize("number", ["4", "Auto", None, -1, 1.5])
def test_a_number_of_workers_that_is_none_is_refused(number, images):
    with pytest.raises(ValueError, match=r"num_workers must be 0 or more, or 'auto', got"):
        choose_workers(number, ArraySource(images), gpu=False)
