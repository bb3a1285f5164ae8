"""The one place here that runs a model: ONNX Runtime on the CPU, and its calibrators."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bn_deploy.errors import InputError, ModelError, NotAvailable, first_line
from bn_deploy.precision.quantize import QUANTIZED

Array = NDArray[Any]

METHODS = ("minmax", "percentile", "entropy")
"""ONNX Runtime's calibrators: the largest magnitude seen; that which 99.99 % stay below; that whose quantised
histogram tells least apart from the original one."""

_ROWS = 64
_PERCENTILE = 99.99
_BINS = 512
"""Of the entropy calibrator's histogram. Its default is no more than the steps it quantises to, and then the
whole range is the only one that it tries; each further bin is one more range, and costs more time."""


def run(proto: onnx.ModelProto, images: Array, outputs: Sequence[str]) -> dict[str, Array]:
    """Runs a model with one input; `stream` tells how.

    Returns:
        Each of `outputs` for all rows, (N, ...).
    """
    parts = list(stream(proto, images, outputs))
    return {name: np.concatenate([part[name] for part in parts]) for name in outputs}


def stream(proto: onnx.ModelProto, images: Array, outputs: Sequence[str]) -> Iterator[dict[str, Array]]:
    """Runs a model with one input, operator by operator as the graph has them, batch by batch.

    Args:
        proto: the model.
        images: (N, ...) float32, what goes in.
        outputs: which values, also such as are no outputs of the model.

    Raises:
        NotAvailable: ONNX Runtime is not installed.
        ModelError: it cannot run the model.
        InputError: the images do not fit the model.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Fused operators would leave out roundings, and hide the values between them.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            _marked(proto, outputs).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for feeds in _batches(session.get_inputs(), images):
            yield dict(zip(outputs, session.run(list(outputs), feeds), strict=True))
    except InputError:
        raise
    except Exception as error:  # the runtime's own exceptions share no base class
        raise ModelError(f"ONNX Runtime cannot run the model: {first_line(error)}") from error


def ranges(proto: onnx.ModelProto, images: Array, method: str) -> dict[str, float]:
    """The largest magnitude of what every operator in QUANTIZED reads and gives, by a calibrator of METHODS.

    Args:
        proto: a float32 model.
        images: (N, ...) float32, of the training split.
        method: which calibrator.

    Raises:
        NotAvailable: ONNX Runtime is not installed.
        ModelError: it cannot run the model.
    """
    _onnxruntime()
    from onnxruntime import quantization

    methods: dict[str, tuple[Any, dict[str, float]]] = {
        "minmax": (quantization.CalibrationMethod.MinMax, {}),
        "percentile": (quantization.CalibrationMethod.Percentile, {"percentile": _PERCENTILE}),
        "entropy": (quantization.CalibrationMethod.Entropy, {"num_bins": _BINS}),
    }
    chosen, extra = methods[method]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        try:
            calibrator = quantization.create_calibrator(
                str(path),
                list(QUANTIZED),
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=chosen,
                extra_options={"symmetric": True, **extra},
            )
            # The calibrators take batches of one size only.
            rows = max(rows for rows in range(1, _ROWS + 1) if len(images) % rows == 0)
            batches = _batches(calibrator.infer_session.get_inputs(), images, rows)
            with redirect_stdout(StringIO()):  # it prints what it does
                calibrator.collect_data(_reader(quantization, batches))
                found = calibrator.compute_data()
        except InputError:
            raise
        except Exception as error:  # it raises whatever its parts raise
            raise ModelError(f"ONNX Runtime cannot calibrate the model: {first_line(error)}") from error
    return {name: float(np.abs(np.asarray(data.range_value)).max()) for name, data in found.items()}


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise NotAvailable(
            f"calibration runs the network in ONNX Runtime: {first_line(error)}; pip install 'bn-deploy[cpu]'"
        ) from error
    return onnxruntime


def _marked(proto: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """The model with these values as outputs, in their own types."""
    marked = onnx.ModelProto()
    marked.CopyFrom(proto)
    known = {value.name for value in proto.graph.output}
    marked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
    return marked


def _batches(inputs: Sequence[Any], images: Array, rows: int = _ROWS) -> Iterator[dict[str, Array]]:
    """The images in batches that the model takes, whole ones only where its batch is fixed."""
    if len(inputs) != 1:
        raise InputError(f"the network has {len(inputs)} inputs; images can be fed to one only")
    size = inputs[0].shape[0] if inputs[0].shape else 1
    fixed = isinstance(size, int)
    rows = size if fixed else rows
    if fixed and len(images) < rows:
        raise InputError(f"the network takes batches of {rows} only, and there are {len(images)} images")
    for start in range(0, len(images) - rows + 1 if fixed else len(images), rows):
        yield {inputs[0].name: np.ascontiguousarray(images[start : start + rows], np.float32)}


def _reader(quantization: Any, batches: Iterator[dict[str, Array]]) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it ships no types
        def get_next(self) -> dict[str, Array] | None:
            return next(batches, None)

    return Reader()
