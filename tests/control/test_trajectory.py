"""Pose strings and trajectory JSON, against the recorded ones and against their grammar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases.control import trajectory_of_recorded
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from worldplay_env.control import trajectory
from worldplay_env.control.actions import KEYS, keys_of
from worldplay_env.control.camera import Motion, integrate, view_matrices
from worldplay_env.control.trajectory import (
    MAX_POSES,
    Trajectory,
    load_trajectory,
    parse_pose_string,
    read_trajectory,
    trajectory_of_motions,
    trajectory_of_poses,
)

GOLDEN = Path(__file__).parents[1] / "golden"
CASE = json.loads((GOLDEN / "poses.json").read_text())
TOLERANCE = CASE["tolerance"]["c2w/w2c/Ks"]


def trajectory_of_item(item: dict[str, Any]) -> Trajectory:
    """The trajectory that one recorded item describes."""
    match item["kind"]:
        case "pose_string":
            return parse_pose_string(item["pose"])
        case "json":
            return read_trajectory(GOLDEN / item["trajectory_file"])
        case "motions":
            return trajectory_of_recorded(item["motions"])
        case kind:
            raise AssertionError(f"unknown kind {kind}")


@pytest.mark.parametrize("item", CASE["items"], ids=lambda item: item["name"])
def test_trajectories_are_the_recorded_ones(item: dict[str, Any]) -> None:
    recorded = load_file(GOLDEN / "poses.safetensors")
    found = trajectory_of_item(item)
    assert len(found) == item["latents"]
    assert (found.poses.dtype, found.labels.dtype, found.intrinsics.dtype) == (np.float64, np.int64, np.float64)
    for name, value in {
        "c2w": found.poses,
        "w2c": view_matrices(found.poses),
        "Ks": found.intrinsics,
    }.items():
        np.testing.assert_allclose(value, recorded[f"{item['name']}/{name}"], rtol=0, atol=TOLERANCE)
    assert found.labels.tolist() == recorded[f"{item['name']}/action"].tolist() == item["action"]


@pytest.mark.parametrize("text", CASE["pose_string_errors"])
def test_what_upstream_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="item 1"):
        parse_pose_string(text)


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 5), st.sampled_from(["", ".", ".0", ".99"]))))
def test_a_pose_string_holds_each_key_for_its_count(items: list[tuple[str, int, str]]) -> None:
    found = parse_pose_string(", ".join(f"{name}-{count}{fraction}" for name, count, fraction in items))
    names = [name for name, count, _ in items for _ in range(count)]
    np.testing.assert_array_equal(found.poses[0], np.eye(4))
    assert [keys_of(label) for label in found.labels] == [(), *((name,) for name in names)]


blanks = st.text(" \t\n", max_size=2)


@given(st.data())
def test_blanks_around_items_do_not_matter(data: st.DataObject) -> None:
    items = ["w-3", "right-2", "d-.5", "up-1."]
    spaced = ",".join(data.draw(blanks) + item + data.draw(blanks) for item in items)
    np.testing.assert_array_equal(parse_pose_string(spaced).poses, parse_pose_string(",".join(items)).poses)


@pytest.mark.parametrize("text", ["a-2,w-1,", ",a-2,w-1", "a-2,, w-1", " , a-2, ,\t, w-1 ,,"])
def test_empty_items_are_skipped(text: str) -> None:
    assert [keys_of(label) for label in parse_pose_string(text).labels] == [(), ("a",), ("a",), ("w",)]


@pytest.mark.parametrize("text", ["", " ", "\n\t", ",", " , ,", "right-0.5", "w-0, s-.9"])
def test_no_moves_is_one_pose(text: str) -> None:
    found = parse_pose_string(text)
    assert found.poses.tolist() == [np.eye(4).tolist()]
    assert found.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w-3,,d", "item 3 .* one '-'"),
        ("w-3 d-2", "one '-'"),
        ("w-3;d-2", "one '-'"),
        ("w", "one '-'"),
        ("w--3", "one '-'"),
        ("-", "unknown name ''"),
        ("w- 3", "count ' 3'"),
        ("w -3", "unknown name 'w '"),
        ("w-", "count ''"),
        ("w-.", r"count '\.'"),
        ("w-inf", "count 'inf'"),
        ("w-nan", "count 'nan'"),
        ("w-+3", r"count '\+3'"),
        ("w-1_0", "count '1_0'"),
        ("w-0x3", "count '0x3'"),
        ("w-1e9", "count '1e9'"),
        ("w-٣", "count '٣'"),
        ("UP-3", "unknown name 'UP'"),
        ("forward-3", "unknown name 'forward'"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused_and_explained(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_pose_string(text)


@given(st.text(st.sampled_from("wsadupownleftrigh-,. 0123456789einfaWé\n"), max_size=12))
def test_a_text_is_a_trajectory_or_a_value_error(text: str) -> None:
    """Read by hand: an item is empty, or a name, one dash and digits around at most one point, or refused."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    splits = [item.split("-") for item in items]
    assume(not any(len(count) > 4 for _, *counts in splits for count in counts))
    well_formed = all(
        len(split) == 2 and split[0] in KEYS and split[1].count(".") <= 1 and split[1].replace(".", "").isdecimal()
        for split in splits
    )
    if well_formed:
        assert len(parse_pose_string(text)) == 1 + sum(int(float(count)) for _, count in splits)
    else:
        with pytest.raises(ValueError, match="item"):
            parse_pose_string(text)


@pytest.mark.parametrize(
    "text", ["w-1000000000", f"w-{'9' * 5000}", f"w-{MAX_POSES}", f"d-5, w-{MAX_POSES - 5}", "w-99999," * 9 + "w-1"]
)
def test_a_trajectory_too_long_to_be_meant_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match="longer than 100,000 poses") as raised:
        parse_pose_string(text)
    assert len(str(raised.value)) < 400


def test_the_longest_trajectory_counts_the_first_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory, "MAX_POSES", 10)
    assert len(parse_pose_string("w-5, d-4.9")) == 10
    with pytest.raises(ValueError, match="longer than 10 poses"):
        parse_pose_string("w-5, d-5")


def test_a_pose_string_must_be_a_string() -> None:
    with pytest.raises(TypeError, match="int: 3"):
        parse_pose_string(3)  # type: ignore[arg-type]


def test_motions_start_at_the_identity() -> None:
    motions = [Motion(forward=0.3, yaw=0.1), Motion(pitch=-0.2)]
    found = trajectory_of_motions(iter(motions))
    np.testing.assert_array_equal(found.poses, integrate(np.eye(4), motions))
    assert found.labels.tolist() == [0, 10, 4]


def test_a_trajectory_owns_its_arrays() -> None:
    poses = np.eye(4)[None].copy()
    found = trajectory_of_poses(poses)
    poses[:] = 0
    found.intrinsics[0, 0, 0] = 1  # writable, and no view of the defaults
    np.testing.assert_array_equal(found.poses[0], np.eye(4))


def test_a_trajectory_has_at_least_one_pose() -> None:
    with pytest.raises(ValueError, match="one pose or more"):
        trajectory_of_poses(np.zeros((0, 4, 4)))


K = [[900.0, 0.0, 960.0], [0.0, 900.0, 540.0], [0.0, 0.0, 1.0]]


def entry(**changes: Any) -> dict[str, Any]:
    """One good entry of a trajectory JSON, with changes; None removes a matrix."""
    whole = {"extrinsic": np.eye(4).tolist(), "K": K, **changes}
    return {name: value for name, value in whole.items() if value is not None}


def identity_with(row: int, column: int, value: Any) -> list[list[Any]]:
    """The 4x4 identity as lists, with one entry changed."""
    matrix: list[list[Any]] = np.eye(4).tolist()
    matrix[row][column] = value
    return matrix


def test_entries_count_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "path.json"
    heights = {"7": 0.0, "2": 1.0, "10": 2.0}
    path.write_text(json.dumps({key: entry(extrinsic=identity_with(2, 3, value)) for key, value in heights.items()}))
    found = load_trajectory(path)
    assert found.poses[:, 2, 3].tolist() == [0, 1, 2]
    assert found.labels.tolist() == [0, 9, 9]
    np.testing.assert_allclose(found.intrinsics[0], [[900 / 1920, 0, 0.5], [0, 900 / 1080, 0.5], [0, 0, 1]])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (entry(extrinsic=None), 'there is no "extrinsic"'),
        (entry(K=None), 'there is no "K"'),
        ([1, 2], 'there is no "extrinsic"'),
        (entry(extrinsic=np.eye(3).tolist()), '"extrinsic" must be 4 rows of 4'),
        (entry(extrinsic=np.eye(4).ravel().tolist()), '"extrinsic" must be 4 rows of 4'),
        (entry(extrinsic=None, K=K) | {"extrinsic": None}, '"extrinsic" must be 4 rows of 4'),
        (entry(K=K[:2]), '"K" must be 3 rows of 3'),
        (entry(extrinsic=identity_with(0, 0, float("nan"))), "finite numbers"),
        (entry(extrinsic=identity_with(0, 3, float("inf"))), "finite numbers"),
        (entry(extrinsic=identity_with(0, 3, 10**400)), "finite numbers"),
        (entry(extrinsic=identity_with(0, 3, "0")), "finite numbers"),
        (entry(extrinsic=identity_with(0, 3, True)), "finite numbers"),
        (entry(extrinsic=identity_with(0, 0, 2.0)), '"extrinsic" must have a rotation'),
        (entry(extrinsic=identity_with(0, 0, -1.0)), '"extrinsic" must have a rotation'),
        (entry(extrinsic=identity_with(3, 0, 0.5)), '"extrinsic" must end in the row 0 0 0 1'),
        (entry(K=[[0, 0, 960], [0, 900, 540], [0, 0, 1]]), "K must be .* positive"),
        (entry(K=[[float("nan"), 0, 960], [0, 900, 540], [0, 0, 1]]), "finite numbers"),
    ],
)
def test_a_bad_entry_is_named_with_its_file_and_fault(bad: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "path.json"
    path.write_text(json.dumps({"0": entry(), "second": bad, "2": entry()}))
    with pytest.raises(ValueError, match=rf"path\.json, entry 'second': .*{message}"):
        read_trajectory(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a JSON trajectory"),
        ('{"0": ', "not a JSON trajectory"),
        ("w-3", "not a JSON trajectory"),
        ("[" * 100_000, "not a JSON trajectory"),
        ('{"0": {"extrinsic": [], "K": []}, "0": {}}', "'0' comes twice"),
        ('{"0": {"K": [], "K": []}}', "'K' comes twice"),
        ("{}", "must hold an object of entries"),
        ("[]", "must hold an object of entries"),
        ("null", "must hold an object of entries"),
    ],
    ids=["empty", "cut off", "pose string", "deep", "twice", "K twice", "no entry", "list", "null"],
)
def test_a_file_that_is_no_trajectory_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "path.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"path\.json .*{message}"):
        read_trajectory(path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "path.json"
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"path\.json is not a JSON trajectory"):
        read_trajectory(path)


def test_a_file_with_too_many_entries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectory, "MAX_POSES", 2)
    path = tmp_path / "path.json"
    path.write_text(json.dumps({str(index): entry() for index in range(3)}))
    with pytest.raises(ValueError, match=r"path\.json has 3 entries, more than 2"):
        read_trajectory(path)


def test_text_that_ends_in_json_is_a_file_and_other_text_a_pose_string(tmp_path: Path) -> None:
    path = tmp_path / "path.json"
    path.write_text(json.dumps({"0": entry()}))
    assert len(load_trajectory(str(path))) == len(load_trajectory(path)) == 1
    assert load_trajectory("w-2, left-1").labels.tolist() == [0, 9, 9, 2]
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        load_trajectory(str(tmp_path / "missing.json"))
    with pytest.raises(ValueError, match="item 1"):
        load_trajectory(str(tmp_path))
