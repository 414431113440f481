"""What is written down of where a daemon is: with it, another process finds the same one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pytest_benchscale.backends.docker.endpoints import find_docker


def context(home: Path, host: str, *, skip: bool, files: bool) -> dict[str, str]:
    digest = hashlib.sha256(b"far").hexdigest()
    meta = home / "contexts" / "meta" / digest
    meta.mkdir(parents=True)
    endpoint = {"Host": host, "SkipTLSVerify": skip}
    (meta / "meta.json").write_text(json.dumps({"Endpoints": {"docker": endpoint}}))
    if files:
        pems = home / "contexts" / "tls" / digest / "docker"
        pems.mkdir(parents=True)
        for name in ("ca.pem", "cert.pem", "key.pem"):
            (pems / name).write_text("x")
    return {"DOCKER_CONTEXT": "far", "DOCKER_CONFIG": str(home)}


@pytest.mark.parametrize(
    "environment",
    [
        {"DOCKER_HOST": "unix:///run/mine.sock"},
        {"DOCKER_HOST": "ssh://me@far:2222/run/docker.sock"},
        {"DOCKER_HOST": "tcp://far:2376", "DOCKER_CERT_PATH": "pems"},
        {"DOCKER_HOST": "tcp://far:2376", "DOCKER_CERT_PATH": "pems", "DOCKER_TLS_VERIFY": "1"},
        {"DOCKER_HOST": "tcp://far", "DOCKER_CONFIG": "pems", "DOCKER_TLS_VERIFY": "1"},
    ],
)
def test_variables_lead_another_process_to_the_same_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pems").mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (Path("pems") / name).write_text("x")
    here = find_docker(environment)
    place = here.environment()
    monkeypatch.chdir("/")
    # What else the other process has in its environment does not lead it astray.
    there = find_docker({"DOCKER_CONTEXT": "other", **place})
    assert there.url == here.url
    assert (there.certificates is None) == (here.certificates is None)
    if here.certificates and there.certificates:
        assert there.certificates.verify == here.certificates.verify
        assert there.certificates.ca == tmp_path / "pems" / "ca.pem"


@pytest.mark.parametrize(("skip", "files"), [(False, True), (True, True), (False, False)])
def test_a_context_is_written_down_as_what_it_leads_to(
    tmp_path: Path, *, skip: bool, files: bool
) -> None:
    here = find_docker(context(tmp_path, "tcp://far:2376", skip=skip, files=files))
    there = find_docker(here.environment())
    assert (there.url, there.certificates) == (here.url, here.certificates)
    assert (there.certificates is not None) == files


def test_the_default_is_written_down_as_its_socket(tmp_path: Path) -> None:
    place = find_docker({"DOCKER_CONFIG": str(tmp_path)}).environment()
    assert place["DOCKER_HOST"].startswith("unix:///")
