"""The keys of a study's objects: no other module builds one.

studies/<name>/record
               previous
               driver
               definitions/<digest>
               trials/<digest>
               artefacts/<digest>
               artefacts/parts/<digest>
               baselines/<name>
               checkpoints/<stage>.<edition>/<index>
               curves/<stage>.<edition>
               live/<stage>.<edition>
               reports/<stage>.<edition>/<index>
               reports/<stage>.<edition>/ended
               searches/<stage>.<edition>/<number>
"""

from __future__ import annotations

from starburst_executor.errors import ConfigError
from starburst_executor.study.stage import is_name

__all__ = ["STUDIES", "StudyKeys"]

STUDIES = "studies/"


class StudyKeys:
    """The keys of one study. Immutable. Raises: ConfigError: the name can be none of a study."""

    __slots__ = ("artefacts", "baselines", "driver", "folder", "name", "previous", "record")

    def __init__(self, name: str) -> None:
        if not is_name(name):
            raise ConfigError(f"name={name!r}: a study's name is 1 to 63 of letters, digits, '_' and '-'")
        self.name = name
        self.folder = f"{STUDIES}{name}/"
        self.record = f"{self.folder}record"
        self.previous = f"{self.folder}previous"
        self.driver = f"{self.folder}driver"
        self.artefacts = f"{self.folder}artefacts/"
        self.baselines = f"{self.folder}baselines/"

    def definition(self, digest: str) -> str:
        return f"{self.folder}definitions/{digest}"

    def trials(self, digest: str) -> str:
        return f"{self.folder}trials/{digest}"

    def artefact(self, digest: str) -> str:
        return f"{self.artefacts}{digest}"

    def artefact_part(self, digest: str) -> str:
        return f"{self.artefacts}parts/{digest}"

    def baseline(self, name: str) -> str:
        return f"{self.baselines}{name}"

    def checkpoint(self, stage: str, edition: int, index: int) -> str:
        return f"{self.folder}checkpoints/{stage}.{edition}/{index}"

    def searches(self, stage: str, edition: int) -> str:
        """Return the folder of a search's log; the numbers of its entries have eight digits."""
        return f"{self.folder}searches/{stage}.{edition}/"

    def live(self, stage: str, edition: int) -> str:
        return f"{self.folder}live/{stage}.{edition}"

    def reports(self, stage: str, edition: int) -> str:
        """Return the folder of what the trials of a stage report."""
        return f"{self.folder}reports/{stage}.{edition}/"

    def curves(self, stage: str, edition: int) -> str:
        return f"{self.folder}curves/{stage}.{edition}"
