"""What each backend runs for an image name."""

import platform
from pathlib import Path

import pytest

from pytest_benchscale.errors import NotSupported
from pytest_benchscale.topology import images
from pytest_benchscale.topology.images import is_rootfs, resolve, rootfs_path
from pytest_benchscale.topology.model import Build


@pytest.mark.parametrize(
    ("image", "backend", "reference"),
    [
        (None, "local", "host"),
        ("host", "local", "host"),
        (None, "docker", "debian:stable-slim"),
        (None, "podman", "debian:stable-slim"),
        (None, "a-third-party", "default"),
        ("debian-12", "docker", "debian:12-slim"),
        ("ubuntu", "docker", "ubuntu:latest"),
        ("ubuntu:24.04", "docker", "ubuntu:24.04"),
        ("alpine:3.20", "podman", "alpine:3.20"),
        ("registry.example/team/app", "docker", "registry.example/team/app"),
        ("anything", "a-third-party", "anything"),
        ("./rootfs", "local", "./rootfs"),
        ("/srv/rootfs", "local", "/srv/rootfs"),
        ("../rootfs", "local", "../rootfs"),
        ("debian.tar.xz", "local", "debian.tar.xz"),
        ("./disk.qcow2", "libvirt", "./disk.qcow2"),
        ("disk.qcow2", "libvirt", "disk.qcow2"),
        ("disk.qcow2#sha256=12ab", "libvirt", "disk.qcow2#sha256=12ab"),
        ("disk.img#kernel=vmlinuz", "libvirt", "disk.img#kernel=vmlinuz"),
        ("https://example.org/disk.img", "libvirt", "https://example.org/disk.img"),
        ("images:debian/12", "lxd", "images:debian/12"),
        ({"docker": "nginx:1", "local": "./rootfs"}, "docker", "nginx:1"),
        ({"docker": "nginx:1", "local": "./rootfs"}, "local", "./rootfs"),
        ({"docker": "debian-12"}, "docker", "debian:12-slim"),
        ({"docker": Build(build="./image")}, "docker", "build:./image"),
    ],
)
def test_an_image_is_what_the_backend_runs(image, backend, reference):
    assert resolve(image, backend, {}) == reference


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", "amd64"), ("aarch64", "arm64")])
@pytest.mark.parametrize("image", [None, "ubuntu-22.04-cloudimg", "ubuntu", "debian-13"])
def test_a_cloud_image_is_one_for_this_machine(monkeypatch, image, machine, arch):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    reference = resolve(image, "libvirt", {})
    assert reference.startswith("https://")
    assert f"-{arch}." in reference


@pytest.mark.parametrize(
    ("image", "backend", "overrides", "reference"),
    [
        ("ubuntu", "local", {"ubuntu": "host"}, "host"),
        ("ubuntu", "local", {"ubuntu": "./u.tar"}, "./u.tar"),
        (None, "docker", {"default": "fedora:41"}, "fedora:41"),
        ("app", "docker", {"app": "debian-12"}, "debian:12-slim"),
        ("ubuntu", "docker", {"ubuntu": "ubuntu:23.10"}, "ubuntu:23.10"),
        ({"local": "app"}, "local", {"app": "host"}, "host"),
    ],
)
def test_the_user_decides_over_the_catalogue(image, backend, overrides, reference):
    assert resolve(image, backend, overrides) == reference


@pytest.mark.parametrize(
    ("image", "backend", "message"),
    [
        ("ubuntu", "local", "--benchscale-image ubuntu=host"),
        ("debian-12", "local", "backend that has images"),
        ("ubuntu-22.04-cloudimg", "docker", "did you mean ubuntu-22.04?"),
        ("debain-12", "libvirt", "did you mean debian-12?"),
        ("alpine", "libvirt", "--benchscale-image alpine=URL-OR-PATH"),
        ("ubuntu", "ssh", "leave `image` out"),
        ({"docker": "x"}, "local", "add `local: ...` to the node's `image`"),
    ],
)
def test_a_backend_never_runs_another_image_than_the_one_that_is_named(image, backend, message):
    with pytest.raises(NotSupported) as caught:
        resolve(image, backend, {})
    assert caught.value.backend == backend
    assert caught.value.resolution
    assert message in caught.value.resolution


def test_an_override_is_checked_like_a_name(load):
    node = load("nodes: [{name: a, image: app}]").nodes[0]
    with pytest.raises(NotSupported, match="the image 'nginx:1'"):
        resolve(node.image, "local", {"app": "nginx:1"})


def test_the_default_is_there_for_all_of_our_backends():
    assert set(images.CATALOGUE["default"]) == {
        "local",
        "docker",
        "podman",
        "libvirt",
        "lxd",
        "ssh",
    }


def test_a_rootfs_is_relative_to_the_topologys_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert rootfs_path("./rootfs", Path("/t")) == Path("/t/rootfs")
    assert rootfs_path("/srv/rootfs", Path("/t")) == Path("/srv/rootfs")
    assert rootfs_path("~/rootfs.tar", Path("/t")) == Path("/home/me/rootfs.tar")
    assert is_rootfs("x.tar.gz")
    assert not is_rootfs("ubuntu")
