"""BasePredictor: a prediction as an object whose methods a script may replace (spec/dropin.md sections 7 and 14).

Where nothing is replaced our own prediction runs; otherwise each batch goes through the methods.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...data.images import GREY
from ...ops.letterbox import Fit, legal_size, letterbox_fit
from ...ops.nms import Suppression
from ...predict.inference import Options, fits_of
from ...predict.pipeline import Batch
from ...predict.reader import Picture
from ...predict.results import Results
from ...predict.run import run_predict
from ...predict.sources import Video, list_sources
from ...predict.steps import Steps
from ...tasks import TASKS
from ...tasks.detect import predict_decoded
from .arguments import Given
from .detections import Detections, boxes_only, decoded_of, rows_of
from .events import CallbackOwner, ScriptEvents, known_task
from .networks import network_for, prepare_copy
from .overriding import is_replaced, own
from .running import Running

CONF = 0.25  # where no other is given
OF_BATCH = (
    "preprocess pre_transform inference postprocess construct_results construct_result stream_inference setup_source"
).split()
OF_IMAGE = "write_results save_predicted_images show".split()


class BasePredictor(CallbackOwner):
    """A prediction: `Predictor(overrides=dict(model="best.pt"))("images/")` returns a list of Results.

    cfg: settings in a file, a mapping or a namespace; overrides win over them. _callbacks: functions by event.
    """

    task = "detect"  # a key of tasks.TASKS
    defaults: Mapping[str, object] = MappingProxyType({})

    batch = Running(default=None)
    results = Running(default=None)
    seen = Running(default=0)
    speed = Running(default=None)
    save_dir = Running(default=None)

    def __init__(self, cfg: object = None, overrides: Mapping | None = None, _callbacks: Mapping | None = None):
        super().__init__(_callbacks)
        known_task(self)
        self._given = Given("predict", cfg, {**self.defaults, **(overrides or {})})
        self.args = self._given.args
        if self.args.conf is None:
            self._given.adopt({"conf": CONF})
        self._running: Any = None
        self.model: Any = None
        self.device: Any = None
        self.data: Any = None
        self.dataset: Any = None
        self.source_type: Any = None
        self.imgsz: Any = None
        self.transforms: Any = None
        self.plotted_img: Any = None
        self.done_warmup = False
        self.vid_writer: dict[Path, object] = {}
        self.windows: list[str] = []
        self.txt_path: Any = None
        self._lock = threading.Lock()
        if self._given.save_dir:
            self.save_dir = Path(self._given.save_dir)

    def __call__(self, source: Any = None, model: Any = None, stream: bool = False, *args: Any, **kwargs: Any) -> Any:
        """Predict a source; returns a list of Results, or with `stream` an iterator. model: a network or a path."""
        results = self.stream_inference(source, model, *args, **kwargs)
        return results if stream else list(results)

    def predict_cli(self, source: Any = None, model: Any = None) -> None:
        """Predict a source, and keep nothing but what the settings write."""
        for _ in self.stream_inference(source, model):
            pass

    @own
    def stream_inference(self, source: Any = None, model: Any = None, *args: Any, **kwargs: Any) -> Iterator[Results]:
        """Yield the Results of a source."""
        if self.model is None or model is not None:
            self.setup_model(model)
        source = self.args.source if source is None else source
        if is_replaced(self, "setup_source"):
            self.setup_source(source)
        settings = self._given.settings()
        compute = partial(self._compute, args, kwargs) if is_replaced(self, *OF_BATCH) else None
        steps = Steps(compute, self._write if is_replaced(self, *OF_IMAGE) else None)
        events = ScriptEvents(self.callbacks, self._bind)
        yield from run_predict(self.model, settings, source, self.args.verbose, events, steps)

    def _bind(self, running: Any) -> BasePredictor:
        if running is not self._running:
            folder, self._running = vars(self).get("save_dir"), running
            if folder is not None:  # that the script named
                folder.mkdir(parents=True, exist_ok=True)
                running.save_dir = folder
            if not is_replaced(self, "setup_source"):
                self.dataset = _dataset(running.source, self.args)
                self.source_type = self.dataset.source_type
        return self

    @own
    def setup_model(self, model: Any = None, verbose: bool = True) -> None:
        """Set `model` to a network that is ready to predict. model: a network, a path, or None for that of `args`."""
        settings = self._given.settings()
        if isinstance(model, nn.Module) or hasattr(model, "decode"):  # the runtime of an exported model is no Module
            self.model = prepare_copy(model, settings)
        else:
            self.model, settings = network_for(settings if model is None else settings.replace(model=str(model)))
            for key in ("imgsz", "single_cls"):
                setattr(self.args, key, getattr(settings, key))
        self.device = next(self.model.parameters()).device
        self.model.pt, self.model.fp16, self.model.triton = True, False, False
        self.done_warmup = True

    @own
    def setup_source(self, source: Any) -> None:
        """Set imgsz, dataset and source_type for a source."""
        self.imgsz = list(legal_size(self.args.imgsz, self.model.multiple))
        items = list_sources(_bytes_of(source), multiple=self.model.multiple, notes=[])
        self.dataset = _dataset(items, self.args)
        self.source_type = self.dataset.source_type

    @own
    def pre_transform(self, im: list[np.ndarray]) -> list[np.ndarray]:
        """Return images (h, w, 3) BGR uint8 as the network sees them: of one size, letterboxed or cropped."""
        task, options = TASKS[self.task], Options(self.args.imgsz, letterbox=self.args.letterbox)
        fits = fits_of([image.shape[:2] for image in im], options, self.model, task)
        return [_on_canvas(task.tile(image, fit).flip(-1).numpy(), fit) for image, fit in zip(im, fits)]

    @own
    def preprocess(self, im: Any) -> Tensor:
        """Return the network input (B, 3, H, W) RGB in [0, 1].

        im: a list of images (h, w, 3) BGR uint8, or a Tensor, which is the input already.
        """
        weight = next(self.model.parameters())
        if isinstance(im, Tensor):
            return im.to(weight.device, weight.dtype)
        pixels = torch.from_numpy(np.stack(self.pre_transform(im))).flip(-1)  # (B, H, W, 3) RGB
        return torch.div(pixels.to(weight.device).permute(0, 3, 1, 2), 255).to(weight.dtype)

    @own
    def inference(self, im: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return decoded outputs (B, 4+nc, A), and the raw ones."""
        half = torch.autocast("cuda", torch.float16, enabled=bool(self.args.half) and im.is_cuda)
        with torch.inference_mode(), half:
            if self.args.augment:
                return predict_decoded(self.model, im, True).candidates, None
            raw = self.model(im)
            return raw if isinstance(raw, (tuple, list)) else (self.model.decode(raw), raw)

    @own
    def postprocess(self, preds: Any, img: Tensor, orig_imgs: Any, **kwargs: Any) -> list[Results]:
        """Return the Results of decoded outputs. orig_imgs: a list of (h, w, 3) BGR, or a Tensor (B, 3, H, W)."""
        decoded = decoded_of(preds, self.model.nc)
        args = self.args
        classes = [args.classes] if isinstance(args.classes, int) else args.classes
        rule = Suppression(
            CONF if args.conf is None else args.conf,
            args.iou,
            args.max_det,
            agnostic=args.agnostic_nms,
            classes=classes,
        )
        with torch.inference_mode():
            rows = [Detections.of(each.rows()) for each in TASKS[self.task].decode(decoded, rule)]
        return self.construct_results(rows, img, arrays_of(orig_imgs))

    @own
    def construct_results(self, preds: Sequence[Any], img: Tensor, orig_imgs: Sequence[np.ndarray]) -> list[Results]:
        """Return the Results of detections in pixels of the input, one for each image."""
        paths = self.batch[0] if self.batch else [f"image{index}.jpg" for index in range(len(orig_imgs))]
        return [
            self.construct_result(pred, img, orig_img, path) for pred, orig_img, path in zip(preds, orig_imgs, paths)
        ]

    @own
    def construct_result(self, pred: Any, img: Tensor, orig_img: np.ndarray, img_path: str) -> Results:
        """Return the Results of one image from detections (n, 6) in pixels of the input."""
        rows = rows_of(pred).clone()
        rows[:, :4] = letterbox_fit(orig_img.shape[:2], tuple(img.shape[2:])).to_original(rows[:, :4])
        return Results(orig_img, img_path, self.model.names, boxes=rows)

    @own
    def write_results(self, i: int, p: Path, im: Tensor, s: Sequence[str] | str) -> str:
        """Write what the settings ask for about image `i` of the batch, and return the line that is printed."""
        own_write, picture, result = self._current
        if is_replaced(self, "save_predicted_images", "show"):
            self._by_script(picture, result)
        return own_write(picture, result)

    def _by_script(self, picture: Picture, result: Results) -> None:
        self.plotted_img = result.plot(
            conf=self.args.show_conf, labels=self.args.show_labels, boxes=self.args.show_boxes
        )
        if self.args.save and is_replaced(self, "save_predicted_images"):
            folder = self.save_dir or Path()
            self.save_predicted_images(folder / f"{Path(picture.path).stem}.jpg", picture.frame)
        if self.args.show and is_replaced(self, "show"):
            self.show(picture.path)

    @own
    def save_predicted_images(self, save_path: Path, frame: int = 0) -> None:
        """Do nothing more: our own step writes the annotated pictures."""

    @own
    def show(self, p: str = "") -> None:
        """Do nothing more: our own step shows the annotated pictures."""

    def _compute(self, args: tuple, kwargs: Mapping[str, Any], batch: Batch) -> list[Results]:
        """Take a batch through the methods of a script."""
        boxes_only(self.task, "prediction")
        pictures, times = batch.pictures, [time.perf_counter()]
        ready = bool(pictures[0].together)
        originals = [picture.pixels for picture in pictures]
        images = torch.stack([picture.tile for picture in pictures]) if ready else originals
        self._images = images = self.preprocess(images)
        times.append(time.perf_counter())
        outputs = self.inference(images, *args, **kwargs)
        times.append(time.perf_counter())
        results = self.postprocess(outputs, images, originals)
        times.append(time.perf_counter())
        names = ("preprocess", "inference", "postprocess")
        spent = {name: (end - start) * 1e3 / len(pictures) for name, start, end in zip(names, times, times[1:])}
        for result in results:
            if isinstance(result, Results):
                result.speed, result.input_shape = dict(spent), tuple(images.shape[2:])
        return results

    def _write(self, own_write: Any, picture: Picture, result: Results) -> str:
        self._current = own_write, picture, result
        index = next((i for i, each in enumerate(self._running.pictures) if each is picture), 0)
        line = self.write_results(index, Path(picture.path), getattr(self, "_images", None), [])
        return line if isinstance(line, str) else ""


def _bytes_of(source: Any) -> Any:
    """Arrays of other types as 8-bit images, as clients give them to have a dataset."""
    if isinstance(source, list):
        return [_bytes_of(each) for each in source]
    if isinstance(source, np.ndarray) and (source.dtype != np.uint8 or source.ndim == 2):
        source = source.astype(np.uint8)
        return np.repeat(source[..., None], 3, 2) if source.ndim == 2 else source
    return source


def _dataset(items: Sequence[Any], args: Any) -> SimpleNamespace:
    """What scripts read of the source: mode, bs, count, source_type."""
    videos = [item for item in items if isinstance(item, Video)]
    stream = any(isinstance(item.source, int) for item in videos)
    arrays = any(not isinstance(item, (Path, Video)) for item in items)
    kind = SimpleNamespace(stream=stream, screenshot=False, from_img=arrays, tensor=False)
    mode = "stream" if stream else "video" if videos else "image"
    batch = args.batch if isinstance(args.batch, int) else 1
    return SimpleNamespace(mode=mode, bs=batch, count=0, frame=0, fps=30, nf=len(items), source_type=kind, files=items)


def _on_canvas(tile: np.ndarray, fit: Fit) -> np.ndarray:
    """What the input shows of an image, (h', w', 3) BGR, at its place on a grey canvas (H, W, 3)."""
    top, left, height, width = fit.window
    out = np.full((*fit.canvas, 3), GREY, np.uint8)
    out[top : top + height, left : left + width] = tile
    return out


def arrays_of(originals: Any) -> list[np.ndarray]:
    """The original images as a list of (h, w, 3) BGR arrays; a Tensor is (B, 3, H, W) RGB in [0, 1]."""
    if isinstance(originals, Tensor):
        pixels = (originals.float() * 255).clamp(0, 255).round().byte().flip(1)
        return [each.permute(1, 2, 0).contiguous().cpu().numpy() for each in pixels]
    return list(originals)
