"""The images in a folder."""

import os
from typing import Literal, overload

from otcxr_sk.images._files import looks_like_image

# A file of such a name is taken for an image whatever is in it, so that one that is damaged is
# told of rather than passed over.
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".dcm", ".dicom", ".dic")

Folder = str | os.PathLike[str]


@overload
def list_images(folder: Folder) -> list[str]: ...
@overload
def list_images(folder: Folder, *, return_others: Literal[True]) -> tuple[list[str], list[str]]: ...
def list_images(
    folder: Folder, *, return_others: bool = False
) -> list[str] | tuple[list[str], list[str]]:
    """List the images in a folder and all folders in it, sorted by path.

    A file is an image if it starts like a PNG, JPEG, TIFF, NPY or DICOM file, whatever it is
    called, or if it is called like one: a damaged one is listed and stops whoever reads it. The
    index of a DICOM medium (DICOMDIR) is none. Names that start with a dot are passed over. Links
    are followed; a folder that is reached twice, or holds itself by a link, is listed once.

    Parameters
    ----------
    folder : str or path-like
    return_others : bool, default=False
        Whether to list the other files, too.

    Returns
    -------
    images : list of str
        Paths that start with `folder`.
    others : list of str
        Files that are no images, if asked for.

    Raises
    ------
    ValueError
        If there is no image.
    OSError
        If a folder cannot be listed.

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
    images: list[str] = []
    others: list[str] = []
    waiting, seen = [os.fspath(folder)], set()
    while waiting:
        current = waiting.pop()
        stat = os.stat(current)
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        with os.scandir(current) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        folders = [entry.path for entry in visible if entry.is_dir()]
        # The last is looked at first: folders in order, so that the first name of one counts.
        waiting += sorted(folders, reverse=True)
        for entry in visible:
            if not entry.is_dir():
                (images if _is_image(entry) else others).append(entry.path)
    if not images:
        raise ValueError(
            f"there is no image in {os.fspath(folder)!r}: none of its {len(others)} files is a "
            "PNG, JPEG, TIFF, NPY or DICOM file"
        )
    images.sort()
    others.sort()
    return (images, others) if return_others else images


def _is_image(entry: "os.DirEntry[str]") -> bool:
    if entry.name.lower().endswith(_SUFFIXES):
        return True
    # Opening a pipe would wait for whoever writes into it.
    if entry.name.upper() == "DICOMDIR" or not entry.is_file():
        return False
    try:
        return looks_like_image(entry.path)
    except OSError:
        return False
