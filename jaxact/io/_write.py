"""Files that are whole or absent, also if the process dies while it writes them."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path, /) -> Iterator[pathlib.Path]:
    """Gives a temporary path, and renames what was written there when the block ends well.

    Args:
      path: the file; what stood there is replaced at once, or stays if the block fails.

    Yields:
      The path to write to, in the same folder, so that the renaming is atomic.

    Raises:
      OSError: if it cannot be written; it names the file.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "notes.txt"
      ...     with replacing(path) as temporary:
      ...         _ = temporary.write_text("whole")
      ...     path.read_text()
      'whole'
    """
    with of_file(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = pathlib.Path(name)
        try:
            yield temporary
            with temporary.open("r+b") as file:  # Windows syncs no file open for reading
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def of_file(path: pathlib.Path, /) -> Iterator[None]:
    """Raises what the system refuses inside as an `OSError` that names the user's file.

    Args:
      path: the file that is written.

    Raises:
      OSError: with the number and the words of what was raised inside.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_whole(path: pathlib.Path, data: bytes, /) -> None:
    """Writes a file so that it is whole or absent, also if the process dies meanwhile.

    Args:
      path: the file; what stood there is replaced.
      data: its bytes.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)
