"""Downloads are found in the hub client's own layout, wherever its variables put it."""

from __future__ import annotations

from pathlib import Path

from supervisor.model.hub_cache import downloaded, hub_folder

COMMIT = "0123456789abcdef"


def snapshot(hub: Path) -> Path:
    repository = hub / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


def test_a_branch_leads_to_its_commit(tmp_path: Path) -> None:
    folder = snapshot(tmp_path)
    environ = {"HF_HUB_CACHE": str(tmp_path)}
    assert downloaded("org/name", None, environ) == folder
    assert downloaded("org/name", "main", environ) == folder


def test_a_commit_names_itself(tmp_path: Path) -> None:
    folder = snapshot(tmp_path)
    assert downloaded("org/name", COMMIT, {"HF_HUB_CACHE": str(tmp_path)}) == folder


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    snapshot(tmp_path)
    assert downloaded("org/other", None, {"HF_HUB_CACHE": str(tmp_path)}) is None
    assert downloaded("org/name", "other", {"HF_HUB_CACHE": str(tmp_path)}) is None


def test_the_clients_variables_in_its_order(tmp_path: Path) -> None:
    assert hub_folder({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_folder({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_folder({}) == Path("~/.cache/huggingface/hub").expanduser()
