"""From a typed name to a model YAML, and YAML files that are broken or meant to do harm."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bitfalcon_plugin.config.errors import MissingFileError, UserError
from bitfalcon_plugin.config.files import cfg_dir
from bitfalcon_plugin.config.yaml_files import find_model, load_yaml, scale_letter, shipped_models
from bitfalcon_plugin.models.build import build, read_graph

MINIMAL = "nc: 1\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\nhead:\n  - [[-1], 1, Detect, [nc]]\n"
SHIPPED = cfg_dir() / "models"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "letter"),
    [
        ("yolov12l.yaml", "l"),
        ("yolov12.yaml", ""),
        ("yolo12x.yaml", "x"),
        ("yolo12", ""),
        ("yolo11n", "n"),
        ("my_yolo12s.yaml", "s"),
        ("yolov12m_turbo.yaml", "m"),
        ("yolo12n-seg.yaml", "n"),
        ("yolov8n6.yaml", "n"),
        ("yolov5s6.yml", "s"),
        ("yolov8x-p2.yaml", "x"),
        ("yoloe-11l.yaml", "l"),
        ("yolo26.yaml", ""),
        ("yolo26n.yaml", "n"),
        ("yolov16.yaml", ""),
        ("yolov12L.yaml", ""),
        ("yolov12q.yaml", ""),
        ("yolov12-lite.yaml", ""),
        ("bitfalcon.yaml", ""),
        ("falcon12n.yaml", ""),
        ("yolov10b.yaml", ""),
    ],
)
def test_the_letter_in_a_name(name, letter):
    assert scale_letter(name) == letter


@pytest.mark.parametrize(
    ("typed", "stem", "letter"),
    [
        ("yolov12.yaml", "yolov12", ""),
        ("yolov12l.yaml", "yolov12", "l"),
        ("yolo12l.yaml", "yolov12", "l"),
        ("yolo12", "yolov12", ""),
        ("yolov12n", "yolov12", "n"),
        ("yolov11x.yaml", "yolo11", "x"),
        ("yolo11.yml", "yolo11", ""),
        ("yolo8s.yaml", "yolov8", "s"),
        ("yolov12m-turbo.yaml", "yolov12-turbo", "m"),
        ("yolo12-turbo", "yolov12-turbo", ""),
        ("yolo12-lite.yaml", "yolov12-lite", ""),
        ("yolov8s-p2.yaml", "yolov8-p2", "s"),
        ("yolov8x6", "yolov8-p6", "x"),
        ("yolo8l6-seg.yaml", "yolov8-seg-p6", "l"),
        ("yolo12x-cls.yaml", "yolov12-cls", "x"),
        ("yolov8x-pose-p6", "yolov8-pose-p6", "x"),
        ("yolo11m-p2", "yolo11-p2", "m"),
        ("yolo12n-p6.yaml", "yolov12-p6", "n"),
        ("yolo12-p2.yaml", "yolov12-p2", ""),
        ("bitfalcon", "bitfalcon", ""),
        ("bitfalcon-p.yaml", "bitfalcon-p", ""),
    ],
)
def test_shipped_models_by_every_name(typed, stem, letter):
    model = find_model(typed)
    assert (model.path, model.letter) == ((SHIPPED / f"{stem}.yaml").resolve(), letter)
    assert model.document["backbone"]


def test_the_working_folder_comes_before_the_shipped_graphs(tmp_path):
    (tmp_path / "yolov12.yaml").write_text(MINIMAL)
    assert find_model("yolov12.yaml").path == Path("yolov12.yaml")
    assert find_model("yolov12s.yaml") == find_model("yolov12s") and find_model("yolov12s").letter == "s"
    assert len(find_model("yolov12s.yaml").document["backbone"]) == 1
    (tmp_path / "yolov12s.yaml").write_text(MINIMAL.replace("8", "16"))
    assert find_model("yolov12s.yaml").document["backbone"][0][3][0] == 16  # the exact name first
    assert find_model("yolo12.yaml").path.parent == SHIPPED.resolve()  # another name for the shipped graph only


def test_the_letter_is_taken_off_the_file_name_and_never_off_a_folder(tmp_path):
    for folder in ("b5n", "yolo12n"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "yolo12.yaml").write_text(MINIMAL)
        for model, letter in ((f"{folder}/yolo12l.yaml", "l"), (tmp_path / folder / "yolo12.yaml", "")):
            model_file = find_model(model)
            assert model_file.letter == letter and model_file.path.resolve() == tmp_path / folder / "yolo12.yaml"
    with pytest.raises(MissingFileError):
        find_model("b5/yolo12.yaml")


def test_p6_names(tmp_path):
    (tmp_path / "yolov8-p6.yaml").write_text(MINIMAL)
    model_file = find_model("yolov8n6.yaml")
    assert (model_file.path, model_file.letter) == (Path("yolov8-p6.yaml"), "n")
    (tmp_path / "yolov8n6.yaml").write_text(MINIMAL)
    assert find_model("yolov8n6.yaml").path == Path("yolov8n6.yaml")
    (tmp_path / "yolo26.yaml").write_text(MINIMAL)  # no P6 name: 26 is its number
    assert find_model("yolo26n.yaml").path == Path("yolo26.yaml")


def test_names_with_more_around_the_letter(tmp_path):
    shutil.copy(SHIPPED / "yolov12.yaml", tmp_path / "my_yolo12.yaml")
    shutil.copy(SHIPPED / "yolov12-turbo.yaml", tmp_path / "yolov12_turbo.yaml")
    assert read_graph("my_yolo12s.yaml").scale == "s"
    assert read_graph("yolov12m_turbo.yaml").scale == "m"


def test_a_variant_picks_the_shipped_graph_of_its_family():
    for model in ("yolov12.yaml", "yolov12n.yaml", SHIPPED / "yolov12.yaml"):
        graph = read_graph(model, "n", variant="turbo")
        assert (graph.name, graph.variant, graph.rows[1].args) == ("yolov12-turbo.yaml", "turbo", (16, 32, 3, 2, 1, 2))
    assert read_graph("yolov12.yaml", "n", variant="turbo-all-residual").name == "yolov12-turbo.yaml"
    assert read_graph("yolov12-turbo.yaml", "n", variant="v1").name == "yolov12.yaml"
    assert read_graph("yolov12-turbo.yaml", "n").variant == "turbo"
    with pytest.raises(UserError, match="Did you mean 'turbo'"):
        read_graph("yolov12.yaml", "n", variant="tubro")


def test_a_users_own_file_is_never_swapped_for_a_shipped_one(tmp_path):
    shutil.copy(SHIPPED / "yolov12.yaml", tmp_path)
    graph = read_graph("yolov12.yaml", "n", variant="turbo")
    assert (graph.name, graph.variant, graph.rows[1].args) == ("yolov12.yaml", "turbo", (16, 32, 3, 2))


def test_asked_scale_and_name():
    graph = read_graph("yolov12n.yaml", "l")
    assert graph.scale == "l" and any("scale=l" in note for note in graph.notes)
    with pytest.raises(UserError, match="yolov12.yaml.*\n.*scale: 'q'.*known: n, s, m, l, x"):
        read_graph("yolov12.yaml", "q")


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        ("yolov13.yaml", ["'yolov13.yaml' does not exist", "cfg/models", "Did you mean 'yolov12.yaml'"]),
        ("yolov12nn", ["'yolov12nn.yaml'", "Did you mean 'yolov12.yaml'"]),
        ("yolov12q.yaml", ["'q' is no scale letter", "n, s, m, l and x", "Did you mean 'yolov12.yaml'"]),
        ("yolov12L", ["'L' is no scale letter"]),
        ("yolov12nn", ["'yolov12nn.yaml'"]),
        ("bitfalcno.yaml", ["Did you mean 'bitfalcon.yaml'"]),
        ("nowhere/yolov12.yaml", ["'nowhere'", "without a folder"]),
        ("", ["does not exist"]),
    ],
)
def test_a_missing_model_is_reported_with_the_tried_names(typed, parts):
    with pytest.raises(MissingFileError) as error:
        find_model(typed)
    for part in parts:
        assert part in str(error.value)


def test_a_folder_is_no_model(tmp_path):
    (tmp_path / "models").mkdir()
    with pytest.raises(MissingFileError, match="is a folder"):
        find_model("models")


def test_every_shipped_name_is_found():
    assert {"yolov12.yaml", "yolov8-p2.yaml"} <= set(shipped_models())
    assert all(find_model(name).path.name == name for name in shipped_models())


# Files that are no YAML of settings


def refused(tmp_path: Path, content: str | bytes) -> str:
    path = tmp_path / "some.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        load_yaml(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 2000
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nc: 1\nbackbone:\n  - [-1, 1, Conv\nhead: x", "line 4"),
        ("a: b: c", "line 1, column 5"),
        ("a:\n\t- b", "line 2"),
        ("- 1\n- 2\n", "list"),
        ("just text", "str"),
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        (b"\xff\xfe\x00\x01\x02", "is not text"),
        (b"PK\x03\x04\x80\x81", "is not text"),
        ("a: 1\n---\nb: 2\n", "line 2"),
        ("nc: 1\nhead: []\nnc: 2\n", "line 3"),
        ("a: 2024-99-99", "not YAML"),
        ("a: !!int ''", "not YAML"),
        ("a: !!bool maybe", "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("? [a]\n: b", "not YAML"),
        ("a: *nothing", "line 1"),
        ("a: \x01", "not YAML"),
        ("a: " + "9" * 5000, "not YAML"),
    ],
)
def test_broken_files_are_reported_with_their_line(tmp_path, content, message):
    assert message in refused(tmp_path, content)


@pytest.mark.parametrize(
    "tag",
    [
        "python/object/apply:os.system",
        "python/object/new:subprocess.Popen",
        "python/name:os.system",
        "python/module:os",
        "python/object:os.environ",
    ],
)
def test_tags_run_nothing(tmp_path, tag):
    text = refused(tmp_path, f"nc: 1\nactivation: !!{tag} ['touch {tmp_path}/hacked']\n")
    assert "line 2" in text and tag in text
    assert [path.name for path in tmp_path.iterdir()] == ["some.yaml"]


def test_aliases_cannot_grow_without_bound(tmp_path):
    levels = [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 40)]
    assert "aliases" in refused(tmp_path, "\n".join(["a0: &a0 [x]", *levels]))
    merges = [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 40)]
    assert "aliases" in refused(tmp_path, "\n".join(["m0: &m0 {x: 1}", *merges]))
    assert "aliases" in refused(tmp_path, "a: &a [*a]\n")


def test_honest_aliases_are_read(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("a: &a {x: 1, z: 3}\nb: *a\nc: {<<: *a, x: 2}\n")
    assert load_yaml(path) == {"a": {"x": 1, "z": 3}, "b": {"x": 1, "z": 3}, "c": {"x": 2, "z": 3}}


@pytest.mark.parametrize(
    "content", ["a: " + "[" * 20_000, "a: " + "[" * 5000 + "]" * 5000, "{a: " * 5000 + "1" + "}" * 5000]
)
def test_deep_nesting_ends_cleanly(tmp_path, content):
    assert "not YAML" in refused(tmp_path, content)


def test_files_of_any_size_are_not_read(tmp_path):
    assert "bytes" in refused(tmp_path, "#" * (1 << 21))


def test_a_byte_order_mark_is_no_matter(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_yaml(path)["nc"] == 1


def test_folders_and_missing_files_are_reported(tmp_path):
    for path in (tmp_path, tmp_path / "missing.yaml"):
        with pytest.raises(UserError, match="cannot be read"):
            load_yaml(path)


def test_a_malformed_model_is_reported_with_file_and_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("nc: 1\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]\n")
    with pytest.raises(UserError, match="'mine.yaml' line 4"):
        build("mine.yaml")
