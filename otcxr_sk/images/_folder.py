"""The images in a folder."""

import os
from typing import Literal, NoReturn, overload

from otcxr_sk._files import DEEPEST, walk
from otcxr_sk._paths import as_path, reason
from otcxr_sk._quote import counted, few
from otcxr_sk._warning import warn_user
from otcxr_sk.images._errors import UnusableImageWarning
from otcxr_sk.images._read import looks_like_image

# Files with these suffixes count as images whatever their content, so that a damaged one is
# reported rather than silently left out.
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".dcm", ".dicom", ".dic")

# Files that may hold images that cannot be read where they are.
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".z")
_ARCHIVES = (".zip", ".npz", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar")
_OTHER_FORMATS = (
    ".nii", ".img", ".hdr", ".mha", ".mhd", ".nrrd", ".mnc", ".jp2", ".j2k", ".j2c", ".jpf", ".jph",
    ".jls", ".jxl", ".jxr", ".bmp", ".gif", ".webp", ".heic", ".heif", ".avif", ".pgm", ".ppm",
    ".pnm", ".exr",
)  # fmt: skip

# Files that a message names.
_NAMED = 3

Folder = str | os.PathLike[str]


@overload
def list_images(folder: Folder) -> list[str]: ...
@overload
def list_images(folder: Folder, *, return_others: Literal[True]) -> tuple[list[str], list[str]]: ...
def list_images(
    folder: Folder, *, return_others: bool = False
) -> list[str] | tuple[list[str], list[str]]:
    """List the images in a folder and its subfolders, sorted by path.

    A file counts as an image if its content starts like a PNG, JPEG, TIFF, NPY or DICOM file,
    whatever its name, or if its name has a suffix of one of these, whatever its content: a damaged
    image is listed, and reading it is an error. The index of a DICOM medium (DICOMDIR) is not an
    image. Names that start with a dot are skipped. Links are followed, except to the folders
    above, and each folder is listed only once.

    Files that may hold images in a form that is not read, such as ``.dcm.gz``, ``.zip``, ``.nii``
    or ``.jp2``, are not listed, but warned of.

    Parameters
    ----------
    folder : str or path-like
        ``~`` is the home folder.
    return_others : bool, default=False
        Whether to also return the other files.

    Returns
    -------
    images : list of str
        Paths that start with `folder`.
    others : list of str
        Files that are not images, also sorted. Only if `return_others` is True.

    Raises
    ------
    ValueError
        If there is no image, or folders are more than 64 deep.
    OSError
        If a folder cannot be listed.

    Warns
    -----
    UnusableImageWarning
        If there are files that may hold images in a form that is not read, by their names, and
        `return_others` is False.

    See Also
    --------
    PathSource : Read these files, resized to squares.
    read_image : Read one file.
    read_dicom_table : Read the headers of DICOM files.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from otcxr_sk.images import list_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (2, 2)).save(Path(folder, "b"), "PNG")
    ...     _ = Path(folder, "labels.csv").write_text("path,label")
    ...     images, others = list_images(folder, return_others=True)
    >>> [Path(path).name for path in images + others]
    ['b', 'labels.csv']
    """
    folder = as_path(folder)
    if not os.path.isdir(folder):
        kind = NotADirectoryError if os.path.exists(folder) else FileNotFoundError
        raise kind(f"there is no folder {folder!r}; check the path")
    images: list[str] = []
    others: list[str] = []
    too_deep = f"the folders in {folder!r} are more than {DEEPEST} deep; move some"
    for current, names in walk(folder, too_deep, _is_seen, _raise):
        for name in filter(_is_seen, names):
            path = os.path.join(current, name)
            (images if _is_image(path) else others).append(path)
    images.sort()
    others.sort()
    unread = [path for path in others if _may_hold_images(path)]
    advice = (
        f"{len(unread)} of its files may hold images in a form that is not read "
        f"({few(unread, _NAMED, repr)}): unpack archives and compressed files, and convert other "
        "formats to PNG"
    )
    if not images:
        raise ValueError(
            f"there is no image in {folder!r}: it has {counted(len(others), 'file')}, none of them "
            f"a PNG, JPEG, TIFF, NPY or DICOM file{f'; {advice}' if unread else ''}"
        )
    if unread and not return_others:
        warn_user(f"{folder!r}: {advice}, or ignore this warning", UnusableImageWarning)
    return (images, others) if return_others else images


def _is_seen(name: str) -> bool:
    return not name.startswith(".")


def _is_image(path: str) -> bool:
    if path.lower().endswith(_SUFFIXES):
        return True
    if os.path.basename(path).upper() == "DICOMDIR":
        return False
    try:
        return looks_like_image(path)
    except OSError:
        return False


def _may_hold_images(path: str) -> bool:
    name = path.lower()
    packed = next((suffix for suffix in _PACKED if name.endswith(suffix)), "")
    more = _SUFFIXES if packed else ()
    return name.removesuffix(packed).endswith((*_ARCHIVES, *_OTHER_FORMATS, *more))


def _raise(error: OSError) -> NoReturn:
    # Without the images in it, a study would be another one.
    raise type(error)(
        f"cannot list the folder {error.filename!r}: the system says: {reason(error)}; make it "
        "readable, or pass a list of paths"
    ) from error
