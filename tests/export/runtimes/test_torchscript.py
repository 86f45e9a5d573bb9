"""TorchScript files: those made to do harm are refused before anything of them runs; unusual ones are opened."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.export.open import open_exported
from bitfalcon_plugin.export.runtimes.torchscript import ALLOWED
from tests.helpers.archives import ABOUT, MAIN, archive


class Foreign(nn.Module):
    """A small detector of somebody else: (B, 3, H, W) -> (B, 5, H/8 * W/8)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.norm, self.pool, self.gate = nn.GroupNorm(2, 8), nn.AvgPool2d(2), nn.Hardswish()
        self.head = nn.Conv2d(8, 5, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.norm(self.pool(self.stem(x))))
        x = torch.where(x > 0, x, x.exp() - 1)
        return self.head(nn.functional.interpolate(x, scale_factor=1.0, mode="nearest")).sigmoid().flatten(2)


def recorded(path: Path, script: bool = False) -> Path:
    torch.manual_seed(0)
    network = Foreign().eval()
    made = torch.jit.script(network) if script else torch.jit.trace(network, torch.rand(1, 3, 16, 16))
    torch.jit.save(made, str(path), _extra_files={"config.txt": json.dumps(ABOUT)})
    return path


@pytest.mark.parametrize("script", [False, True])
def test_a_network_of_somebody_else_runs(tmp_path, script):
    torch.manual_seed(0)
    network, images = Foreign().eval(), torch.rand(2, 3, 16, 16)
    engine = open_exported(recorded(tmp_path / "x.torchscript", script), "cpu")
    with torch.no_grad():
        wanted = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(engine(images), wanted)


CALLS = {
    "plain": '    z = torch.from_file("{harm}", True, 16, dtype=6)\n',
    "save": '    torch.save(images, "{harm}")\n',
    "continuation": '    torch.save\\\n(images, "{harm}")\n',
    "continuation after the dot": '    torch.\\\nsave(images, "{harm}")\n',
    "comment": '    z = (torch.from_file # x\n("{harm}", True, 16, dtype=6))\n',
    "comment after the dot": '    z = (torch. # x\nfrom_file("{harm}", True, 16, dtype=6))\n',
    "alias": '    gg = torch.from_file\n    z = gg("{harm}", True, 16, dtype=6)\n',
    "brackets": '    z = (torch.from_file)("{harm}", True, 16, dtype=6)\n',
    "getattr": '    z = getattr(torch, "from_\\146ile")("{harm}", True, 16, dtype=6)\n',
    "getattr apart": '    z = getattr (torch, "from_\\146ile")("{harm}", True, 16, dtype=6)\n',
    "getattr alias": '    g = getattr\n    z = g(torch, "from_\\146ile")("{harm}", True, 16, dtype=6)\n',
    "getattr comment": '    z = getattr(torch # , "x")\n, "from_\\146ile")("{harm}", True, 16, dtype=6)\n',
    "getattr single": "    z = getattr(torch, 'from_\\146ile')(\"{harm}\", True, 16, dtype=6)\n",
    "getattr whole": '    z = getattr(torch, "from_file")("{harm}", True, 16, dtype=6)\n',
    "ops": '    z = ops.aten.from_file\\\n("{harm}", True, 16, dtype=6)\n',
    "ops alias": '    o = ops\n    z = o.aten.from_file("{harm}", True, 16, dtype=6)\n',
    "of a text": '    z = "{harm}".from_file(True, 16, dtype=6)\n',
    "of a tensor": '    images.save("{harm}")\n',
}


BEYOND = {  # what reaches past tensors in other ways
    "another library": '    z = ops.image.read_file("/etc/hostname")\n',
    "the library apart": '    z = ops .image.read_file("/etc/hostname")\n',
    "quantized": "    z = ops.quantized.cat([images], 1., 0)\n",
    "objects of C++": "    z = __torch__.torch.classes.profiler._RecordFunction()\n",
    "objects of C++, apart": "    t = __torch__.torch\n    z = t.classes.profiler._RecordFunction()\n",
    "sparse": "    z = torch._sparse_coo_tensor_unsafe(torch.to(images, 4), images, [4, 4])\n",
    "strides": "    z = torch.as_strided(images, [1000000], [1], 0)\n",
    "resized": "    z = torch.resize_(images, [1000000])\n",
    "storage": "    z = torch.set_(images, images)\n",
    "not what it is": "    z = unchecked_cast(__torch__.Hostile, images)\n",
}


@pytest.mark.parametrize("call", CALLS)
def test_torchscript_that_reaches_files_is_refused_however_it_is_written(tmp_path, call):
    harm = tmp_path / "harm"
    path = archive(tmp_path / "x.torchscript", CALLS[call].format(harm=harm))
    with pytest.raises(UserError, match="(from_file|save|getattr|ops).*is not opened"):
        open_exported(path, "cpu")
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "call",
    ["plain", "save", "continuation", "comment", "alias", "brackets", "getattr", "getattr alias", "ops", "ops alias"],
)
def test_the_files_above_would_do_harm(tmp_path, call):
    """Otherwise their refusal would prove nothing. They write into a folder of this test."""
    harm, use = tmp_path / "harm", "    images = torch.add(images, torch.mul(torch.sum(z), 0.))\n"
    lines = CALLS[call].format(harm=harm)
    torch.jit.load(str(archive(tmp_path / "x.torchscript", lines + use * ("z = " in lines))))(torch.rand(1, 3, 16, 16))
    assert harm.exists()


def test_the_same_archive_without_such_lines_is_opened(tmp_path):
    engine = open_exported(
        archive(tmp_path / "x.torchscript", '    _0 = "do not load, save or open()"\n    w = torch.relu(images)\n'),
        "cpu",
    )
    assert engine.names == {0: "a"} and engine.imgsz == (16, 16)


@pytest.mark.parametrize("code", BEYOND)
def test_torchscript_that_reaches_past_its_tensors_is_refused(tmp_path, code):
    with pytest.raises(UserError, match="is not opened"):
        open_exported(archive(tmp_path / "x.torchscript", BEYOND[code]), "cpu")


@pytest.mark.parametrize(
    "rename",
    [lambda name: name.replace("/code/", "/CODE/"), lambda name: name[:-3] + ".PY", str.upper],
    ids=["folder", "suffix", "both"],
)
def test_code_is_found_whatever_its_case(tmp_path, rename):
    harm = tmp_path / "harm"
    path = archive(
        tmp_path / "x.torchscript", CALLS["plain"].format(harm=harm), rename=lambda name: "x" + rename(name)[1:]
    )
    with pytest.raises(UserError, match="from_file.*is not opened"):
        open_exported(path, "cpu")
    assert not harm.exists()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rename", [str, str.lower], ids=["same", "lower"])
def test_two_files_of_one_name_are_refused(tmp_path, first, rename):
    path = archive(
        tmp_path / "x.torchscript", CALLS["plain"].format(harm=tmp_path / "harm"), second="", first=first, rename=rename
    )
    with pytest.raises(UserError, match="two files of one name"):
        open_exported(path, "cpu")
    assert not (tmp_path / "harm").exists()


def test_a_second_name_that_only_zipfile_reads_hides_no_code(tmp_path):
    """Extra field 0x7075 gives a file another name, which torch does not read."""
    whole = archive(tmp_path / "x.torchscript", CALLS["plain"].format(harm=tmp_path / "harm"))
    path = tmp_path / "y.torchscript"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            item = zipfile.ZipInfo(name)
            if name == MAIN:
                other = b"x/data/99"
                item.extra = struct.pack("<HHBI", 0x7075, 5 + len(other), 1, zipfile.crc32(name.encode())) + other
            new.writestr(item, old.read(name))
    with pytest.raises(UserError, match="from_file.*is not opened"):
        open_exported(path, "cpu")
    assert not (tmp_path / "harm").exists()


def test_a_second_table_of_contents_that_only_zipfile_reads_hides_no_code(tmp_path):
    """zipfile takes the table before the end of the file, torch the one at the place that the end gives."""
    bad = archive(tmp_path / "bad.torchscript", CALLS["plain"].format(harm=tmp_path / "harm")).read_bytes()
    same = "    # " + "x" * (len(CALLS["plain"].format(harm=tmp_path / "harm")) - 7) + "\n"
    good = archive(tmp_path / "good.torchscript", same).read_bytes()
    assert len(bad) == len(good)
    path = tmp_path / "x.torchscript"
    path.write_bytes(bad[:-22] + good)  # the end of the second gives places as in the first
    with zipfile.ZipFile(path) as seen:
        assert b"from_file" not in seen.read(MAIN)
    assert b"from_file" in torch._C.PyTorchFileReader(str(path)).get_record("code/__torch__.py")
    with pytest.raises(UserError, match="from_file.*is not opened"):
        open_exported(path, "cpu")


def test_code_that_runs_at_opening_and_pickled_objects_of_cpp_are_refused(tmp_path):
    more = "  def __setstate__(self: __torch__.Hostile,\n    state: bool) -> NoneType:\n    return None\n"
    with pytest.raises(UserError, match="__setstate__"):
        open_exported(archive(tmp_path / "x.torchscript", more=more), "cpu")
    for name in (
        b"__torch__.torch.classes.profiler\n_RecordFunction\n",
        b"__torch__.torch\nclasses.profiler._RecordFunction\n",
    ):
        changed = archive(
            tmp_path / "x.torchscript",
            pickled=lambda data, name=name: data.replace(b"c__torch__\nHostile\n", b"c" + name, 1),
        )
        with pytest.raises(UserError, match="torch.classes"):
            open_exported(changed, "cpu")


def test_what_torchscript_may_call_is_known_and_harmless():
    known = torch._C._jit_get_schemas_for_operator
    beginnings = (
        "_sparse",
        "as_strided",
        "resize",
        "set_",
        "empty",
        "_unsafe",
        "_resize",
        "unsafe",
        "sparse",
        "quantize",
        "rpc",
        "fork",
        "to_here",
        "data_ptr",
        "_nested",
        "new_empty",
        "manual_seed",
        "record_stream",
        "_foreach",
        "_cudnn",
        "mkldnn",
        "fbgemm",
    )
    assert not [name for name in ALLOWED if name.startswith(beginnings)]
    assert not ALLOWED & {
        "save",
        "load",
        "from_file",
        "open",
        "backward",
        "eval",
        "getattr",
        "ops",
        "lift",
        "set",
        "put",
        "put_",
        "from_blob",
    }
    assert not [
        name
        for name in ALLOWED
        if not known(f"aten::{name}") and not known(f"prim::{name}") and not name.startswith("_upsample")
    ], "spelt otherwise"  # of those some came late
