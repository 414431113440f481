"""What a run was told about its labs: the values of options and ini settings, checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from pytest_benchscale.errors import BackendUnavailable, BenchscaleError
from pytest_benchscale.lab.durations import parse_duration

__all__ = ["Conditions", "Keep", "Missing", "Prepared", "Settings", "check_backend"]

Missing = Literal["fail", "skip"]
Keep = Literal["never", "failed", "always"]
Conditions = Literal["enforce", "off"]
Prepared = Literal["use", "off"]
_KEEP_FOR = 8 * 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a run. `backends` replace those of mark and file, `default_backends` do not.

    `keep_for` is in seconds. `search_path` holds the directories where topology files are
    looked for, after the test's own.
    """

    backends: tuple[str, ...] = ()
    default_backends: tuple[str, ...] = ("auto",)
    missing: Missing = "fail"
    keep: Keep = "never"
    keep_for: float = _KEEP_FOR
    reuse: bool = False
    artifacts: Path | None = None
    timeout_scale: float = 1.0
    conditions: Conditions = "enforce"
    prepared: Prepared = "use"
    images: Mapping[str, str] = field(default_factory=dict)
    presets: tuple[Path, ...] = ()
    search_path: tuple[Path, ...] = ()

    @classmethod
    def parse(
        cls,
        root: Path,
        start: Path,
        *,
        backend: str | None = None,
        missing: str | None = None,
        keep: str | None = None,
        keep_for: str | None = None,
        reuse: bool = False,
        artifacts: str | None = None,
        timeout_scale: str | None = None,
        conditions: str | None = None,
        prepared: str | None = None,
        image: Sequence[str] | None = None,
        ini_backend: str = "",
        ini_topology_path: Sequence[Path] = (),
        ini_presets: Sequence[Path] = (),
    ) -> Settings:
        """Check what was written and make settings of it; None and empty mean not given.

        `root` is searched for topologies last; a relative `artifacts` starts at `start`.

        Raises:
            BenchscaleError: something cannot be meant; one line that names it.
        """
        return cls(
            backends=_backends("--benchscale-backend", backend),
            default_backends=_backends("benchscale_backend", ini_backend or "auto"),
            missing=cast("Missing", _choice("missing", missing, ("fail", "skip"))),
            keep=cast("Keep", _choice("keep", keep, ("never", "failed", "always"))),
            keep_for=_KEEP_FOR
            if keep_for is None
            else parse_duration("--benchscale-keep-for", keep_for),
            reuse=reuse,
            artifacts=_directory(start, artifacts),
            timeout_scale=_scale(timeout_scale),
            conditions=cast("Conditions", _choice("conditions", conditions, ("enforce", "off"))),
            prepared=cast("Prepared", _choice("prepared", prepared, ("use", "off"))),
            images=dict(_image(text) for text in image or ()),
            presets=tuple(_file("benchscale_presets", path) for path in ini_presets),
            search_path=(*ini_topology_path, root),
        )

    def summary(self) -> str | None:
        """Return what differs from the defaults in one line, None when nothing does."""
        parts = [
            self._summary_of_backends(),
            "a missing backend skips" if self.missing == "skip" else "",
            f"labs are kept: {self.keep}" if self.keep != "never" else "",
            "labs are reused" if self.reuse else "",
            f"timeouts x {self.timeout_scale:g}" if self.timeout_scale != 1 else "",
            "network conditions off" if self.conditions == "off" else "",
            "no prepared states" if self.prepared == "off" else "",
            *(f"image {name}={reference}" for name, reference in self.images.items()),
            f"artifacts in {self.artifacts}" if self.artifacts else "",
        ]
        text = "; ".join(part for part in parts if part)
        return f"benchscale: {text}" if text else None

    def _summary_of_backends(self) -> str:
        if self.backends:
            return f"backend {', '.join(self.backends)}"
        if self.default_backends != ("auto",):
            return f"default backend {', '.join(self.default_backends)}"
        return ""


def check_backend(place: str, name: str) -> None:
    """Check a name against those of the backends, importing and probing none of them.

    Raises:
        BenchscaleError: there is no such backend.
    """
    from pytest_benchscale.backends import registry  # noqa: PLC0415  only where a name is given

    if name == "auto":
        return
    try:
        registry.check_name(name)
    except BackendUnavailable as error:
        raise BenchscaleError(
            f"{place}: {name!r}: {error.reason}", resolution=error.resolution
        ) from None


def _backends(place: str, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if not name:
            raise BenchscaleError(f"{place}: no backend is named in {text!r}")
        check_backend(place, name)
    return names


def _choice(option: str, text: str | None, choices: Sequence[str]) -> str:
    if text is None:
        return choices[0]
    if text not in choices:
        raise BenchscaleError(
            f"--benchscale-{option}: {text!r} is none of {', '.join(choices)}{_meant(text, choices)}"
        )
    return text


def _scale(text: str | None) -> float:
    if text is None:
        return 1.0
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise BenchscaleError(f"--benchscale-timeout-scale: {text!r} is not a number above 0")
    return value


def _image(text: str) -> tuple[str, str]:
    name, _, reference = text.partition("=")
    if not name.strip() or not reference.strip():
        raise BenchscaleError(
            f"--benchscale-image: {text!r} is not NAME=REF, as in --benchscale-image ubuntu=host"
        )
    return name.strip(), reference.strip()


def _directory(start: Path, text: str | None) -> Path | None:
    if text is None:
        return None
    path = start / Path(text).expanduser()
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not text or not nearest.is_dir():
        raise BenchscaleError(f"--benchscale-artifacts: {text!r} cannot be a directory")
    return path


def _file(place: str, path: Path) -> Path:
    if not path.is_file():
        raise BenchscaleError(f"{place}: there is no file {path}")
    return path


def _meant(text: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(text, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
