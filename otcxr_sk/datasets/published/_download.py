"""Finding the files of a data set in the folder that it was downloaded to."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from otcxr_sk._files import DEEPEST, walk
from otcxr_sk._paths import as_path
from otcxr_sk._quote import listed, quoted
from otcxr_sk.datasets._tables import check_missing, shown

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
_NAMED = 3
# macOS adds this folder to archives.
_MAC = "__MACOSX"


class Located(NamedTuple):
    """Images that exist, and the names of those that do not.

    `rows` are where the images are among all that the tables name.
    """

    paths: list[str]
    names: list[str]
    rows: list[int]
    missing: list[str]


class Download:
    """Folder of a data set as it was downloaded.

    Parameters
    ----------
    folder : path
        Where it is.
    source : str
        What to download and from where, for messages.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """

    def __init__(self, folder: str | os.PathLike[str], source: str) -> None:
        self.root, self.source = Path(as_path(folder)), source
        if not os.path.isdir(self.root):
            raise FileNotFoundError(f"{shown(self.root)} is not a folder; download {source}")

    def look_for(self, *names: str) -> Path | None:
        """Return the first of some files or folders that exists, at the top or one level below.

        Raises
        ------
        ValueError
            If there are two of the same name one level below.
        """
        for name in names:
            if os.path.exists(self.root / name):
                return self.root / name
            found = [path for path in sorted(self.root.glob(f"*/{name}")) if _MAC not in path.parts]
            if len(found) > 1:
                raise ValueError(
                    f"{shown(found[0])} and {shown(found[1])} both exist; pass a folder with "
                    "one of them"
                )
            if found:
                return found[0]
        return None

    def find(self, *names: str) -> Path:
        """Do as `look_for`, but raise FileNotFoundError if none of them exists."""
        found = self.look_for(*names)
        if found is None:
            raise self.lack(" or ".join(names))
        return found

    def lack(self, what: str) -> FileNotFoundError:
        """Return the error for a folder without some of its files."""
        return FileNotFoundError(
            f"{shown(self.root)} has no {what}; download {self.source}{self._hint()}"
        )

    def locate(self, names: Sequence[str], paths: Iterable[str | None], missing: str) -> Located:
        """Select the rows whose images exist.

        Parameters
        ----------
        names : sequence of str
            Name of each row's image.
        paths : iterable of str or None
            Its path; None if it does not exist.
        missing : {"raise", "drop"}
            What to do if some images do not exist. If none exists, it is always an error.

        Raises
        ------
        FileNotFoundError
            If images do not exist and are not to be dropped.
        """
        check_missing(missing)
        found = list(paths)
        absent = [name for name, path in zip(names, found, strict=True) if path is None]
        if absent and (missing == "raise" or len(absent) == len(names)):
            advice = ", or pass missing='drop' to leave them out" if any(found) else ""
            raise FileNotFoundError(
                f"{len(absent)} of {len(names)} images are not in {shown(self.root)}, for "
                f"example {listed(absent[:_NAMED])}; download {self.source}{advice}{self._hint()}"
            )
        rows = [row for row, path in enumerate(found) if path is not None]
        kept = [path for path in found if path is not None]
        return Located(kept, [names[row] for row in rows], rows, absent)

    def _hint(self) -> str:
        try:
            names = os.listdir(self.root)
        except OSError:
            return " (or see whether you may read that folder)"
        packed = sorted(name for name in names if name.endswith(_ARCHIVES))
        return f" (unpack {quoted(packed[0])} first)" if packed else ""


def files_below(folder: Path, *suffixes: str) -> Iterable[Path]:
    """Yield the files with one of the suffixes, in the folder and all below, sorted by name.

    Raises
    ------
    ValueError
        If folders are nested as in no data set.
    """
    too_deep = (
        f"{shown(folder)} has folders within folders, more than {DEEPEST} deep; pass the folder of "
        "the data set"
    )
    for parent, names in walk(folder, too_deep, into=lambda name: name != _MAC):
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("._"):
                yield Path(parent, name)


def images_below(
    folder: Path, *suffixes: str, key: Callable[[Path], str] = lambda path: path.stem
) -> dict[str, str]:
    """Map the name of each image in a table, by default that of its file, to its path.

    Raises
    ------
    ValueError
        If two files have the same name.
    """
    found: dict[str, str] = {}
    for file in files_below(folder, *suffixes):
        name = key(file)
        if name in found:
            raise ValueError(
                f"{shown(found[name])} and {shown(file)} are both image {quoted(name)}; pass a "
                "folder with one of them"
            )
        found[name] = str(file)
    return found
