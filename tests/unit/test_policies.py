"""The IAM policies of the documentation allow what clients and workers ask of S3, and nothing else.

What they ask comes from two sources: a table here, and what the simulation's clients and workers really ask through
some dozens of failures. How Amazon judges a request is imitated: allowed is what a statement allows, `*` matches "/" as
well, and what ends in `IfExists` holds where a request does not name the value.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import boto3
import pytest

from starburst_executor.study.keys import STUDIES, StudyKeys
from starburst_executor.testing.simulation import simulate
from starburst_executor.testing.simulation.scheduler import Process, current_strand
from starburst_executor.testing.simulation.store import Vault

ROOT = Path(__file__).parents[2]
EXPLANATION = ROOT / "docs/explanation"
ROLES = ("client", "worker")
# What a worker may do in addition whose tasks submit tasks.
POLICIES = (*ROLES, "nesting")
BUCKET = "arn:aws:s3:::my-bucket"
N_SEEDS = 40

_T = TypeVar("_T")


class Right(NamedTuple):
    """One action on one pattern of resources, as a statement allows it."""

    action: str
    resource: str
    prefix: str | list[str] | None


# ------------------------------------------------------------------------------------------- what the policies allow


def as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else value


def rights_of(role: str) -> list[Right]:
    policy = json.loads((EXPLANATION / f"iam/{role}.json").read_text(encoding="utf-8"))
    return [
        Right(action, resource, statement.get("Condition", {}).get("StringLikeIfExists", {}).get("s3:prefix"))
        for statement in policy["Statement"]
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    ]


def is_like(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


class Asked(NamedTuple):
    """One right that a request needs: an action on a key, or a listing of a prefix."""

    action: str
    key: str

    def is_given_by(self, right: Right) -> bool:
        if self.action != right.action:
            return False
        if self.action == "s3:ListBucket":
            return right.resource == BUCKET and (
                right.prefix is None or any(is_like(prefix, f"team/{self.key}") for prefix in as_list(right.prefix))
            )
        return is_like(right.resource, f"{BUCKET}/team/{self.key}")


def is_allowed(rights: list[Right], asked: Asked) -> bool:
    return any(asked.is_given_by(right) for right in rights)


# ----------------------------------------------------------------------------------------------------- what is needed

# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
ACTIONS = {
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "complete_multipart_upload": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "delete_objects": "s3:DeleteObject",
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "list_objects_v2": "s3:ListBucket",
    "put_object": "s3:PutObject",
    "upload_part": "s3:PutObject",
}
# By method of the store; a write under If-Match needs the right to read as well.
# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
METHODS = {
    "create": ["s3:PutObject"],
    "create_big": ["s3:PutObject", "s3:AbortMultipartUpload"],
    "delete": ["s3:DeleteObject"],
    "get": ["s3:GetObject"],
    "list": ["s3:ListBucket"],
    "list_folders": ["s3:ListBucket"],
    "put": ["s3:PutObject"],
    "swap": ["s3:PutObject", "s3:GetObject"],
}
SESSION = "sessions/20250102-030405-0a1b2c3d/"
NEEDED = {
    "client": {
        "create": [
            "manifest",
            "functions/5f",
            "status/0000.000000/0000.0000000000-1",
            "clients/c",
            "once/00000000",
            "shared/5f/0",
        ],
        "create_big": ["functions/5f", "calls/0000.0000000000"],
        "swap": ["manifest", "limits/gpu", "status/0000.000000/0000.0000000000-1", "clients/c"],
        "put": ["bell"],
        "get": [
            "limits/gpu",
            "manifest",
            "functions/5f",
            "calls/0",
            "status/0/0-1",
            "outcomes/0/w.1-0",
            "logs/0/w.1-0",
            "workers/w",
            "once/0",
        ],
        "list": ["", "status/", "workers/", "once/", "shared/5f/"],
        "delete": [
            "manifest",
            "bell",
            "functions/5f",
            "calls/0",
            "status/0/0-1",
            "outcomes/0/w.1-0",
            "workers/w",
            "shared/5f/0",
        ],
    },
    "worker": {
        "create": ["workers/w", "outcomes/0000.0000000000/w.1-0", "logs/0000.0000000000/w.1-0"],
        "create_big": ["outcomes/0000.0000000000/w.1-0", "logs/0000.0000000000/w.1-0"],
        "swap": ["manifest", "limits/gpu", "status/0000.000000/0000.0000000000-1", "workers/w"],
        "put": ["bell"],
        "get": [
            "limits/gpu",
            "manifest",
            "bell",
            "functions/5f",
            "calls/0000.0000000000",
            "status/0/0-1",
            "workers/w",
            "shared/5f/0",
        ],
        "list": ["status/", "status/0000.000000/", "workers/", "clients/"],
    },
}
NEEDED["nesting"] = {
    "create": ["functions/5f", "once/00000000", "shared/5f/0"],
    "create_big": ["functions/5f", "calls/0000.0000000000"],
}
# As in `study/keys.py`: what its driver and its commands ask as a client, and what a trial asks as a worker.
STUDY = StudyKeys("mine")
OF_STUDIES = {
    "client": {
        "create": [STUDY.record, STUDY.driver, STUDY.definition("5f"), STUDY.trials("5f"), STUDY.artefact("5f"), STUDY.artefact_part("5f"), f"{STUDY.searches('s', 1)}00000001"],
        "swap": [STUDY.record, STUDY.driver],
        "put": [STUDY.previous, STUDY.curves("s", 1), STUDY.live("s", 1), f"{STUDY.reports('s', 1)}ended", STUDY.baseline("s.base.json")],
        "get": [STUDY.record, STUDY.previous, STUDY.driver, STUDY.definition("5f"), STUDY.trials("5f"), STUDY.artefact("5f"), STUDY.artefact_part("5f"), f"{STUDY.searches('s', 1)}00000001", STUDY.baseline("s.base.json")],
        "list": [STUDY.folder, STUDY.artefacts, STUDY.baselines, STUDY.searches("s", 1)],
        "list_folders": [STUDIES],
        "delete": [STUDY.record, STUDY.artefact("5f"), STUDY.checkpoint("s", 1, 0)],
    },
    "worker": {
        "create": [STUDY.artefact("5f"), STUDY.artefact_part("5f"), STUDY.checkpoint("s", 1, 0)],
        "swap": [STUDY.checkpoint("s", 1, 0)],
        "put": [f"{STUDY.reports('s', 1)}0"],
        "get": [STUDY.artefact("5f"), STUDY.artefact_part("5f"), STUDY.curves("s", 1), STUDY.checkpoint("s", 1, 0), f"{STUDY.reports('s', 1)}0"],
        "list": [STUDY.reports("s", 1)],
    },
}  # fmt: skip
PROBE = "probes/5f"
CODE = "code/2026-04/5f"


def needed(role: str) -> Iterator[Asked]:
    for method, keys in NEEDED[role].items():
        for key in keys:
            for action in METHODS[method]:
                yield Asked(action, SESSION + key)
    if role not in ROLES:
        return
    for method, keys in OF_STUDIES[role].items():
        yield from (Asked(action, key) for key in keys for action in METHODS[method])
    yield Asked("s3:GetObject", CODE)
    if role == "client":
        yield from (Asked(action, CODE) for action in METHODS["create_big"])
        yield Asked("s3:ListBucket", "sessions/")
        yield Asked("s3:ListBucket", "names/")
        yield Asked("s3:ListBucket", "cache/features/")
        for method in ("create_big", "get", "delete"):
            yield from (Asked(action, "cache/features/5f") for action in METHODS[method])
        for method in ("create", "swap", "get"):
            yield from (Asked(action, "names/nightly") for action in METHODS[method])
        for method in ("create", "swap", "get", "delete"):
            for action in METHODS[method]:
                yield Asked(action, PROBE)


@pytest.mark.parametrize("role", POLICIES)
def test_what_a_role_needs_is_allowed(role: str) -> None:
    rights = rights_of(role)
    assert [asked for asked in needed(role) if not is_allowed(rights, asked)] == []


@pytest.mark.parametrize("role", POLICIES)
def test_every_right_is_needed(role: str) -> None:
    asked = list(needed(role))
    assert [right for right in rights_of(role) if not any(one.is_given_by(right) for one in asked)] == []


@pytest.mark.parametrize(
    ("role", "action", "key"),
    [
        ("worker", "s3:PutObject", f"{SESSION}functions/5f"),
        ("worker", "s3:PutObject", f"{SESSION}calls/0000.0000000000"),
        ("worker", "s3:PutObject", f"{SESSION}code/5f"),
        ("worker", "s3:PutObject", f"{SESSION}clients/c"),
        ("worker", "s3:DeleteObject", f"{SESSION}manifest"),
        ("worker", "s3:DeleteObject", f"{SESSION}outcomes/0000.0000000000/w.1-0"),
        *(
            ("worker", "s3:PutObject", key)
            for key in (STUDY.record, STUDY.driver, STUDY.definition("5f"), STUDY.trials("5f"))
        ),
        ("worker", "s3:DeleteObject", STUDY.artefact("5f")),
        ("worker", "s3:PutObject", PROBE),
        ("worker", "s3:PutObject", CODE),
        ("client", "s3:DeleteObject", CODE),
        ("client", "s3:PutObject", f"{SESSION}outcomes/0000.0000000000/w.1-0"),
        ("client", "s3:PutObject", f"{SESSION}logs/0000.0000000000/w.1-0"),
        ("client", "s3:PutObject", f"{SESSION}workers/w"),
        ("client", "s3:DeleteObject", "another-thing"),
        *((role, "s3:GetObject", "another-thing") for role in ROLES),
        *((role, "s3:PutObject", "another-thing") for role in ROLES),
        *((role, "s3:ListBucket", "") for role in ROLES),
        *((role, "s3:ListBucket", "another-thing/") for role in ROLES),
        *((role, "s3:PutObjectAcl", f"{SESSION}manifest") for role in ROLES),
        *((role, "s3:DeleteBucket", "") for role in ROLES),
    ],
)
def test_what_a_role_does_not_need_is_refused(role: str, action: str, key: str) -> None:
    assert not is_allowed(rights_of(role), Asked(action, key))


def test_what_clients_and_workers_ask_through_failures_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[str, str, str]] = set()
    ask = Vault.ask

    def noted(vault: Vault, kind: str, key: str, effect: Callable[[Process], _T]) -> _T:
        seen.add((current_strand().process.name.partition("-")[0], kind, key))
        return ask(vault, kind, key, effect)

    monkeypatch.setattr(Vault, "ask", noted)
    for seed in range(N_SEEDS):
        simulate(seed)
    assert {role for role, _, _ in seen} == set(ROLES)
    assert {kind for _, kind, _ in seen} == METHODS.keys() - {"create_big"}
    rights = {role: rights_of(role) for role in ROLES}
    refused = [
        (role, action, key)
        for role, kind, key in seen
        for action in METHODS[kind]
        if not is_allowed(rights[role], Asked(action, key))
    ]
    assert not refused


# ------------------------------------------------------------------------------------------ the code, the page, Amazon


def test_every_operation_of_the_store_is_thought_of() -> None:
    operations = boto3.client("s3", region_name="us-east-1").meta.method_to_api_mapping
    tree = ast.parse((ROOT / "starburst_executor/store/s3/boto.py").read_text(encoding="utf-8"))
    called = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}
    assert called & operations.keys() == ACTIONS.keys()
    assert set(ACTIONS.values()) == {action for actions in METHODS.values() for action in actions}


@pytest.mark.parametrize("role", POLICIES)
def test_the_page_shows_the_policy(role: str) -> None:
    page = (EXPLANATION / "security.md").read_text(encoding="utf-8")
    assert f"(iam/{role}.json)" in page
    assert f"```json\n{(EXPLANATION / f'iam/{role}.json').read_text(encoding='utf-8')}```" in page


@pytest.mark.parametrize("role", ROLES)
def test_what_the_imitation_does_not_know_is_not_used(role: str) -> None:
    policy = json.loads((EXPLANATION / f"iam/{role}.json").read_text(encoding="utf-8"))
    assert {one["Effect"] for one in policy["Statement"]} == {"Allow"}
    assert {name for one in policy["Statement"] for name in one.get("Condition", {})} == {"StringLikeIfExists"}
    assert {name for one in policy["Statement"] for name in one} == {"Sid", "Effect", "Action", "Resource", "Condition"}
