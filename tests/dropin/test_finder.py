"""One module object and one class under every name, and errors that name the nearest name."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pickle
import subprocess
import sys

import pytest

import bitfalcon_plugin.dropin as dropin
from bitfalcon_plugin.config.errors import UserError
from bitfalcon_plugin.dropin.finder import HERE, canonical
from bitfalcon_plugin.dropin.hook import install, uninstall
from bitfalcon_plugin.dropin.names import ALIASES, EMPTY_MODULES, REFUSED, REFUSED_MODULES
from tests.helpers.running import as_it_was  # noqa: F401

PREFIXES = ("ultralytics", HERE)


@pytest.fixture()
def installed(as_it_was):
    install(quiet=True)


def load(name: str):
    return importlib.import_module(name)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    "old, place",
    [
        ("yolo", ""),
        ("yolo.engine.model", "engine.model"),
        ("yolo.utils", "utils"),
        ("yolo.v8.detect", "models.yolo.detect"),
        ("models.yolo.model", "engine.model"),
        ("models.yolo.detect.train", "models.yolo.detect"),
        ("tracker", "trackers"),
        ("vit.sam", "models.sam"),
    ],
)
def test_old_places_are_the_same_modules(installed, prefix, old, place):
    assert canonical(old) == place
    module = load(f"{prefix}.{old}")
    assert module is load(f"{HERE}.{place}" if place else HERE)
    assert module.__spec__.name == module.__name__ == (f"{HERE}.{place}" if place else HERE)


def test_every_target_of_an_alias_is_a_module_of_ours(installed):
    for old, place in ALIASES.items():
        assert load(f"ultralytics.{old}") is load(f"{HERE}.{place}" if place else HERE), old


def test_one_class_under_every_name_that_says_where_scripts_have_it_from(installed):
    places = ("", ".models", ".models.yolo", ".models.yolo.model", ".engine.model", ".yolo.engine.model", ".yolo")
    classes = [load(prefix + place).YOLO for prefix in PREFIXES for place in places]
    assert all(cls is classes[0] for cls in classes)
    assert classes[0].__module__ == "ultralytics.engine.model"
    assert pickle.loads(pickle.dumps(classes[0])) is classes[0]
    uninstall()
    assert classes[0].__module__ == f"{HERE}.engine.model"
    assert pickle.loads(pickle.dumps(classes[0])) is classes[0]
    assert not [name for name in sys.modules if name.startswith("ultralytics")]


def test_what_clients_ask_of_the_package(installed):
    module = load("ultralytics")
    assert module is dropin and module.__version__ == importlib.metadata.version("ultralytics") == "8.3.63"
    spec = importlib.util.find_spec("ultralytics")
    assert spec is not None and spec.origin.endswith("__init__.py")
    for name in ("cfg", "data", "engine", "models", "nn", "utils", "solutions", "trackers", "hub"):
        assert getattr(module, name) is load(f"ultralytics.{name}")
    importlib.metadata.version("pytest")  # others are found as before
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("ultralytics-thing")


def test_the_names_are_gone_when_nothing_is_installed():
    assert importlib.util.find_spec("ultralytics") is None
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("ultralytics")


@pytest.mark.parametrize("name", REFUSED)
def test_other_models_are_refused_when_they_are_used(installed, name):
    cls = getattr(load("ultralytics"), name)
    assert cls is getattr(load("ultralytics.models"), name) or cls.__name__ == name
    assert not isinstance(1, cls)
    with pytest.raises(ImportError, match=f"^{name}, a .* is not in bitfalcon. ") as error:
        cls("model.pt")
    assert isinstance(error.value, UserError)
    with pytest.raises(AttributeError, match="is not in bitfalcon"):
        _ = cls.predict
    with pytest.raises(ImportError, match="is not in bitfalcon"):
        type("Mine", (cls,), {})()


@pytest.mark.parametrize("name", REFUSED_MODULES)
def test_names_of_refused_modules_are_refused_when_they_are_used(installed, name):
    module = load(f"ultralytics.{name}")
    login = module.login
    with pytest.raises(ImportError, match="^login, .* is not in bitfalcon. "):
        login("key")
    assert not hasattr(module, "__wrapped__") and not hasattr(module, "_private")
    assert load(f"ultralytics.{name}.below.that") is load(f"{HERE}.{name}.below.that")


def test_modules_of_loggers_are_empty(installed):
    for name in EMPTY_MODULES:
        assert load(f"ultralytics.{name}").callbacks == {}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_unknown_name_is_answered_with_the_nearest(installed, prefix):
    module = load(prefix)
    for wrong, right in {"Yolo": "YOLO", "setings": "settings", "RTDET": "RTDETR", "solution": "solutions"}.items():
        with pytest.raises(AttributeError, match=f"has no '{wrong}' in bitfalcon. Did you mean '{right}'"):
            getattr(module, wrong)
        with pytest.raises(ImportError, match=f"^ultralytics has no '{wrong}' in bitfalcon. Did you mean '{right}'"):
            exec(f"from {prefix} import {wrong}")
    with pytest.raises(ModuleNotFoundError, match="^ultralytics has no 'utilz' in bitfalcon. Did you mean 'utils'"):
        load(f"{prefix}.utilz.plotting")
    with pytest.raises(ImportError, match="^ultralytics.engine.model has no 'Modell' .* Did you mean 'Model'"):
        exec(f"from {prefix}.engine.model import Modell")
    assert not hasattr(module, "frobnicate") and getattr(module, "frobnicate", 3) == 3


def test_the_package_does_not_load_the_door_and_the_door_does_not_load_torch():
    lines = (
        "import sys, bitfalcon_plugin, bitfalcon_plugin.cli",
        "assert not [name for name in sys.modules if 'dropin' in name]",
        "import bitfalcon_plugin.dropin.install, ultralytics",
        "assert 'torch' not in sys.modules",
        "from ultralytics import YOLO, RTDETR",
        "print(YOLO.__module__)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.stdout == "ultralytics.engine.model\n" and done.stderr == ""
