"""The files that a run leaves behind."""

import contextlib
import fcntl
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bigjax.config import differences
from bigjax.errors import SaveError, UserError

ROW = {"step": int, "split": str, "seconds": int | float}  # what a line of figures has besides them


class Workdir:
    """A run's folder; process 0 alone writes into it.

    Args:
      path: the folder, made when the run starts.
      writes: whether this process writes.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"

    def check(self, config: Mapping[str, Any], data_fingerprint: str) -> None:
        """Makes sure that the folder is new or holds this very run.

        Raises:
          UserError: it holds another experiment (the sentence says which keys differ), other data, or no run at all.
        """
        if not self.path.exists():
            return
        if not (self.path / "config.json").exists():
            if any(path.is_file() and not path.name.startswith(".") for path in self.path.rglob("*")):
                raise UserError(f"--workdir={self.path} holds files but no run; choose a new or empty folder.")
            return
        if different := differences(self.read("config.json"), json.loads(json.dumps(config))):
            raise UserError(
                f"--workdir={self.path} holds a different experiment: {'; '.join(different)}. "
                "Choose another --workdir, or the same config."
            )
        manifest = self.path / "manifest.json"
        if manifest.exists() and self.read(manifest.name).get("data_fingerprint") != data_fingerprint:
            raise UserError(
                f"The data are not those that the run in {self.path} began with: their content has changed."
            )

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the run.

        Raises:
          UserError: it is missing or damaged.
        """
        try:
            content = json.loads((self.path / name).read_text())
        except FileNotFoundError as error:
            raise UserError(f"{self.path} holds no run: it has no {name}.") from error
        except OSError as error:
            raise UserError(f"{self.path / name} cannot be read: {error.strerror or error}.") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path / name} is damaged: {error}.") from error
        if not isinstance(content, dict):
            raise UserError(f"{self.path / name} is damaged: it is no JSON object.")
        return content

    def write(self, name: str, content: Mapping[str, Any] | str) -> None:
        """Writes a file all at once: a reader sees the old one or the new one."""
        if not self.writes:
            return
        file = self.path / name
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        temporary = file.with_name(f".{file.name}.tmp")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text)
            temporary.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise SaveError(f"{file} could not be written: {error.strerror or error}.") from error

    def rows(self) -> list[dict[str, Any]]:
        """The logged figures, without lines that are none, such as a last one that was cut off."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in ROW.items()):
                rows.append(row)
        return rows

    def begin(self, config: Mapping[str, Any], manifest: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Writes what is known before the first step."""
        self.write("config.json", config)
        self.write("manifest.json", manifest)
        for name, content in files.items():
            self.write(name, content)

    def keep_rows(self, step: int) -> list[dict[str, Any]]:
        """Drops the figures that a run which goes on from `step` will log again; returns the others."""
        rows = [row for row in self.rows() if row["step"] <= step and row["split"] != "test"]
        self.write(self.metrics.name, "".join(json.dumps(row) + "\n" for row in rows))
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a line of figures, all of it or nothing."""
        if not self.writes:
            return
        size = self.metrics.stat().st_size if self.metrics.exists() else 0
        try:
            with self.metrics.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.metrics, size)
            raise SaveError(f"{self.metrics} could not be written: {error.strerror or error}.") from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from training in the folder, which is made; the lock ends with the process.

        Raises:
          UserError: another process holds it, or the folder cannot be made or written.
        """
        if not self.writes:
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.path, os.O_RDONLY)
        except FileExistsError as error:
            raise UserError(f"--workdir={self.path} is a file; a run needs a folder.") from error
        except OSError as error:
            raise UserError(f"--workdir={self.path} cannot be used: {error.strerror or error}.") from error
        try:
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise UserError(f"--workdir={self.path} cannot be written; choose another folder.")
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"Another process trains in --workdir={self.path}; wait for it, end it, or choose another folder."
                ) from error
            except OSError as error:  # NFS and others lock no folders
                warnings.warn(
                    f"{self.path} cannot be locked ({error.strerror}): see to it that no other process trains in it.",
                    stacklevel=2,
                )
            yield
        finally:
            os.close(folder)
