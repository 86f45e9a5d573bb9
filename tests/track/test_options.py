"""tracker=: names, files, keys and values, and the keys of the YAMLs that people have."""

from __future__ import annotations

import inspect

import pytest
import yaml

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.track.library import KINDS, OURS, LibraryEngine
from bitfalcon_plugin.track.options import PARAMETERS, options_from, read_options, shipped_trackers

NAMES = ("botsort", "bytetrack", "cbiou", "mcbyte", "ocsort", "sort")


def test_the_files_and_the_table_agree():
    assert tuple(shipped_trackers()) == NAMES == tuple(sorted(KINDS))
    used = set()
    for name, path in shipped_trackers().items():
        keys = yaml.safe_load(path.read_text())
        assert keys.pop("tracker_type") == name and keys.keys() <= PARAMETERS.keys()
        used |= keys.keys()
        assert read_options(name).parameters == keys == options_from(keys, "x.yaml", name).parameters
        lines = path.read_text().splitlines()
        assert all("#" in line for line in lines if ":" in line and not line.startswith("tracker_type")), "explained"
    assert used == set(PARAMETERS)


@pytest.mark.parametrize(
    "text, name",
    [
        ("bytetrack", "bytetrack"),
        ("bytetrack.yaml", "bytetrack"),
        ("ByteTrack.yml", "bytetrack"),
        ("oc-sort", "ocsort"),
        ("botsort.yaml", "botsort"),
        (str(cfg_dir() / "trackers" / "sort.yaml"), "sort"),
    ],
)
def test_names(tmp_path, monkeypatch, text, name):
    monkeypatch.chdir(tmp_path)
    assert read_options(text).name == name and read_options(text).notes == ()


def test_a_file_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bytetrack.yaml").write_text("lost_track_buffer: 5\n")
    assert read_options("bytetrack.yaml").parameters["lost_track_buffer"] == 5
    assert read_options("bytetrack").parameters["lost_track_buffer"] == 30


def test_a_default_of_others_is_replaced_and_said(tmp_path):
    options = read_options("tracktrack.yaml")
    assert options.name == "bytetrack" and "tracktrack is not here; bytetrack tracks in its place" in options.notes[0]
    other = options_from({"tracker_type": "tracktrack", "some_key": 1}, "x.yaml")
    assert other.parameters == options.parameters and len(other.notes) == 2
    (note,) = read_options("site-packages/other/cfg/trackers/botsort.yaml").notes
    assert "there is no such file; it is botsort of cfg/trackers here" in note
    for name in ("deepocsort.yaml", "folder/bytetrack.yaml", "cfg/trackers/deepocsort.yaml"):
        with pytest.raises(MissingFileError, match="the trackers here are botsort, bytetrack"):
            read_options(name)


USUAL = {
    "tracker_type": "bytetrack",
    "track_high_thresh": 0.5,
    "track_low_thresh": 0.2,
    "new_track_thresh": 0.6,
    "track_buffer": 60,
    "match_thresh": 0.8,
    "fuse_score": True,
}


def test_usual_keys_are_mapped():
    options = options_from(USUAL, "mine.yaml")
    expected = {
        "high_conf_det_threshold": 0.5,
        "minimum_score": 0.2,
        "track_activation_threshold": 0.6,
        "lost_track_buffer": 60,
        "minimum_iou_threshold": 0.2,
    }
    assert options.parameters == {**read_options("bytetrack").parameters, **expected}
    assert options.notes == ("mine.yaml: fuse_score=True has no effect for bytetrack.",)
    botsort = options_from({**USUAL, "tracker_type": "botsort", "gmc_method": "ecc"}, "mine.yaml")
    assert botsort.parameters["minimum_iou_threshold_first_assoc"] == 0.2 and not botsort.notes
    assert botsort.parameters["cmc_method"] == "ecc" and botsort.parameters["enable_cmc"] is True


@pytest.mark.parametrize("value", [None, "none", "None"])
def test_no_camera_motion(value):
    document = {"tracker_type": "botsort", "gmc_method": value}
    assert options_from(document, "x").parameters["enable_cmc"] is False
    assert not options_from({**document, "tracker_type": "bytetrack"}, "x").notes


def test_what_is_not_offered_is_one_note():
    reid = {"with_reid": True, "model": "auto", "proximity_thresh": 0.5, "appearance_thresh": 0.25}
    (note,) = options_from({"tracker_type": "botsort", **reid}, "x.yaml").notes
    assert "with_reid=True has no effect" in note and "not by appearance" in note
    assert not options_from({"tracker_type": "botsort", **reid, "with_reid": False}, "x.yaml").notes
    (note,) = options_from({"tracker_type": "bytetrack", "gmc_method": "orb"}, "x.yaml").notes
    assert "gmc_method has no effect for bytetrack" in note
    (note,) = options_from({"tracker_type": "sort", "delta_t": 3}, "x.yaml").notes
    assert "delta_t has no effect for sort" in note


def test_all_problems_at_once():
    wrong = {
        "tracker_type": "bytetrack",
        "lost_track_bufer": 3,
        "frame_rate": 0,
        "minimum_consecutive_frames": 1.5,
        "track_buffer": 3,
        "lost_track_buffer": 4,
        "match_thresh": "much",
        "iou": "overlap",
    }
    with pytest.raises(UserError) as error:
        options_from(wrong, "mine.yaml")
    text = str(error.value)
    for words in (
        "Wrong keys in mine.yaml",
        "lost_track_bufer: there is no such key of bytetrack. Did you mean 'lost_track_buffer'?",
        "frame_rate=0: expected a number above 0 (frames a second); for example 30",
        "minimum_consecutive_frames=1.5: expected a whole number at least 1",
        "track_buffer and lost_track_buffer are the same parameter",
        "match_thresh='much': expected a number from 0 to 1",
        "iou=overlap: expected one of iou, giou, diou, ciou",
    ):
        assert words in text
    with pytest.raises(UserError, match="tracker_type=kalman: expected one of botsort"):
        options_from({"tracker_type": "kalman"}, "x.yaml")
    with pytest.raises(UserError, match="tracker_type=mine: expected one of"):
        options_from({}, "mine.yaml", "mine")


@pytest.mark.parametrize("name", NAMES)
def test_the_library_takes_every_parameter(name):
    """And has no other, but for classes that a YAML cannot name and for masks, whose weights would be fetched."""
    trackers = pytest.importorskip("trackers", reason="the package trackers is not installed (extra track)")
    names = set(inspect.signature(getattr(trackers, KINDS[name].class_name).__init__).parameters) - {"self"}
    ours = set(read_options(name).parameters)
    assert ours - set(OURS) <= names
    assert {key for key in names - ours if "mask" not in key} == {"state_estimator_class"}
    LibraryEngine(read_options(name))


def test_parameters_that_do_not_agree():
    pytest.importorskip("trackers", reason="the package trackers is not installed (extra track)")
    with pytest.raises(UserError, match="tracker mcbyte: high_conf_det_threshold must be greater"):
        LibraryEngine(options_from({"high_conf_det_threshold": 0.05}, "x.yaml", "mcbyte"))
