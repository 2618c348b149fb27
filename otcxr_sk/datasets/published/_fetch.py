"""Downloads, resumed where they broke off, and verified."""

import hashlib
import os
import re
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

from otcxr_sk._files import continue_file, create_folder, locked, open_file
from otcxr_sk._paths import reason
from otcxr_sk.datasets._tables import shown

_STEP = 2**20
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)


def fetch(url: str, path: Path, md5: str, most: int) -> BinaryIO:
    """Open a file with this MD5, and download it first unless it is there.

    Parameters
    ----------
    url : str
    path : Path
        Where it is, or goes to.
    md5 : str
        In hexadecimal.
    most : int
        Bytes that it may have.

    Raises
    ------
    OSError
        The download fails, or another process is at it.
    ValueError
        What is downloaded has another MD5, and is removed.
    """
    file = _open_whole(path, md5)
    if file is not None:
        return file
    try:
        create_folder(path.parent)
        with locked(path.with_name(f"{path.name}.lock")):
            file = _open_whole(path, md5)
            if file is None:
                _download(url, path, md5, most)
                file = _open_whole(path, md5)
    except BlockingIOError as error:
        raise OSError(
            f"another process is downloading {shown(path)}; call again when it is done"
        ) from error
    # The server's own words are not passed on.
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            why = f"the server answers {error.code}"
        else:
            why = reason(error) if isinstance(error, OSError) and error.strerror else "it broke off"
            if isinstance(error, OSError) and error.filename:
                why = f"{shown(error.filename)}: {why}"
        raise OSError(
            f"cannot download {url} ({why}); call again to resume, or download it by hand to "
            f"{shown(path)}"
        ) from None
    if file is None:
        raise OSError(f"another process has changed {shown(path)}; call again")
    return file


def _open_whole(path: Path, md5: str) -> BinaryIO | None:
    with suppress(OSError):
        file = open_file(path, follow=False)
        if _has_md5(file, md5):
            return file
        file.close()
    return None


def _has_md5(file: BinaryIO, md5: str) -> bool:
    # Not for security alone: MD5 is what is published, and nobody can make another file for it.
    digest = hashlib.md5(usedforsecurity=False)
    file.seek(0)
    while part := file.read(_STEP):
        digest.update(part)
    file.seek(0)
    return digest.hexdigest() == md5


def _download(url: str, path: Path, md5: str, most: int) -> None:
    """Download to a file beside, which remains if the connection breaks."""
    aside = path.with_name(f"{path.name}.part")
    with continue_file(aside) as file:
        _receive(url, file, most)
        os.fsync(file.fileno())
        whole = _has_md5(file, md5)
    if not whole:
        os.unlink(aside)
        raise ValueError(
            f"{url} does not have the published MD5, and is not kept; call again to download it "
            "anew"
        )
    os.replace(aside, path)


def _receive(url: str, file: BinaryIO, most: int) -> None:
    """Append what a file lacks, and raise OSError unless it is then complete."""
    done = file.seek(0, os.SEEK_END)
    request = Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urlopen(request, timeout=60)
    except HTTPError as error:
        # No bytes are left: the download was complete, but stopped before it was verified.
        if error.code != 416:
            raise
        error.close()
        return
    # What a redirection leads to may be no address at all.
    except ValueError as error:
        raise ConnectionError from error
    with answer:
        if answer.status != 206:
            done = file.seek(0)
            file.truncate()
        length = answer.headers.get("Content-Length") or ""
        total = done + int(length) if _LENGTH.fullmatch(length) else None
        bar = tqdm(
            total=total, initial=done, desc=os.path.basename(url), unit="B", unit_scale=True,
            disable=None,
        )  # fmt: skip
        with bar:
            while part := answer.read(_STEP):
                done += len(part)
                if done > min(most, total or most):
                    file.truncate(0)
                    raise OSError(0, "the server sends more than such a file has")
                file.write(part)
                bar.update(len(part))
    if done < (total or 0):
        raise ConnectionError
