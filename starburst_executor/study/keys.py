"""The keys of a study's objects: no other module builds one.

studies/<name>/record
               previous
               driver
               definitions/<digest>
               trials/<digest>
               artefacts/<digest>
               checkpoints/<stage>.<edition>/<index>
               curves/<stage>.<edition>
"""

from __future__ import annotations

from starburst_executor.errors import ConfigError
from starburst_executor.study.stage import is_name

__all__ = ["STUDIES", "StudyKeys"]

STUDIES = "studies/"


class StudyKeys:
    """The keys of one study. Immutable. Raises: ConfigError: the name can be none of a study."""

    __slots__ = ("driver", "folder", "name", "previous", "record")

    def __init__(self, name: str) -> None:
        if not is_name(name):
            raise ConfigError(f"name={name!r}: a study's name is 1 to 63 of letters, digits, '_' and '-'")
        self.name = name
        self.folder = f"{STUDIES}{name}/"
        self.record = f"{self.folder}record"
        self.previous = f"{self.folder}previous"
        self.driver = f"{self.folder}driver"

    def definition(self, digest: str) -> str:
        return f"{self.folder}definitions/{digest}"

    def trials(self, digest: str) -> str:
        return f"{self.folder}trials/{digest}"

    def artefact(self, digest: str) -> str:
        return f"{self.folder}artefacts/{digest}"

    def checkpoint(self, stage: str, edition: int, index: int) -> str:
        return f"{self.folder}checkpoints/{stage}.{edition}/{index}"

    def curves(self, stage: str, edition: int) -> str:
        return f"{self.folder}curves/{stage}.{edition}"
