"""Checkpoints of a training state, by orbax: written in the background, whole or absent."""

import contextlib
import errno
import os
import pathlib
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxact.training._mesh import is_key
from jaxact.training._step import State


class Checkpoints:
    """The checkpoints of one run, in a folder.

    Use it as a context manager: leaving it waits for the last checkpoint to be written.
    """

    def __init__(self, folder: pathlib.Path, /, *, keep: int = 2):
        """Opens the folder, making it if need be; half-written checkpoints in it are dropped.

        Args:
          folder: where they lie, a subfolder for each.
          keep: how many of the newest are kept, at least 1.

        Raises:
          ValueError: if ``keep`` is less than 1.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1; got {keep}")
        import orbax.checkpoint as ocp  # slow to import, and only needed here

        self._folder = folder
        self._args = ocp.args
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_handlers=ocp.StandardCheckpointHandler(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=True, create=True
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._writing():
            self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Names the folder where the disk is full, and leaves no half of a checkpoint."""
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore's are ValueErrors
            full = os.strerror(errno.ENOSPC)
            if full not in str(error):
                raise
            for half in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(half, ignore_errors=True)
            raise OSError(errno.ENOSPC, full, str(self._folder)) from error

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: State, /) -> None:
        """Starts to save a state, once an earlier save is done; the state may be donated at once.

        Args:
          state: of the run.

        Raises:
          OSError: if the disk is full, also where it was for the one before; it names the folder.
        """
        leaves = jax.tree.map(lambda a: jnp.array(a, copy=True), _named(state))
        with self._writing():
            self._manager.save(int(state.step), args=self._args.StandardSave(leaves), force=True)

    def restore(self, like: State, /, *, step: int | None = None) -> State:
        """Reads a checkpoint, to the bit as it was saved.

        Args:
          like: a state of the same run, such as `init` gives; only its structure, shapes and dtypes
            are used.
          step: of the checkpoint; by default the newest that can be read: those after it, which
            are damaged, are renamed to end in ``.corrupt``, with a warning.

        Returns:
          The state.

        Raises:
          ValueError: if there is no such checkpoint, it is damaged, or it holds another network or
            optimizer.
        """
        steps = self._manager.all_steps()
        if not steps or step not in (None, *steps):
            raise ValueError(
                f"{self._folder} holds no checkpoint{'' if step is None else f' {step}'}"
            )
        wanted = jax.tree.map(_abstract, _named(like))
        for tried in sorted(steps, reverse=True) if step is None else [step]:
            place = self._folder / str(tried)
            try:
                saved = self._manager.item_metadata(tried)
                kinds = {k: (v.shape, v.dtype) for k, v in saved.items()}
            except (ValueError, OSError, AttributeError):
                kinds = {}
            if kinds:
                _same_leaves(place, kinds, wanted)
            try:
                found: Any = self._manager.restore(tried, args=self._args.StandardRestore(wanted))
                break
            except (ValueError, OSError, KeyError) as error:
                if step is not None or tried == min(steps):
                    raise ValueError(f"checkpoint {place} is damaged") from error
            warnings.warn(f"checkpoint {place} is damaged; an earlier one is taken", stacklevel=2)
            place.rename(place.with_name(f"{tried}.corrupt"))
            self._manager.reload()
        leaves, structure = jax.tree_util.tree_flatten_with_path(like)
        restored = [
            jax.random.wrap_key_data(found[_name(path)], impl=jax.random.key_impl(leaf))
            if is_key(leaf)
            else found[_name(path)]
            for path, leaf in leaves
        ]
        return jax.tree.unflatten(structure, restored)

    def wait(self) -> None:
        """Waits until every checkpoint that was started is written."""
        with self._writing():
            self._manager.wait_until_finished()


def _named(state: State) -> dict[str, Any]:
    """The leaves by path; keys as their data."""
    return {
        _name(path): jax.random.key_data(leaf) if is_key(leaf) else leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _same_leaves(place: pathlib.Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in sorted(saved.keys() ^ wanted.keys()):
        where = "lacks" if name in wanted else "has besides"
        raise ValueError(
            f"checkpoint {place} is of another network or optimizer: it {where} {name}"
        )
    for name, (shape, dtype) in saved.items():
        leaf = wanted[name]
        if tuple(shape) != leaf.shape or dtype != leaf.dtype:
            raise ValueError(
                f"checkpoint {place} is of another network or optimizer: {name} has shape "
                f"{tuple(shape)} and dtype {dtype} where this run has {leaf.shape} and {leaf.dtype}"
            )
