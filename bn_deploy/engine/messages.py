"""What TensorRT's parser and builder say, as one line a person can read.

The raw texts carry source positions, function names and assertions around the sentence that matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

_MOST = 3  # problems told in full; a model with one unsupported operator often has it a hundred times

_LONGEST = 400  # characters of one message; a builder may go on to print the operands of a kernel

_DRIVERLESS = re.compile(r"catchCudaError.*cudaError 35")
_SHELL = re.compile(r"^(?:[\w:]+: )*Error Code \d+: [^(]*\((.*)\)$")
_SOURCE = re.compile(r"\[[\w.]+\.(?:cpp|hpp|h|cu):[^\]]*\]:?\s*")
_POSITION = re.compile(r"\s*In [\w:~<>()]+ at \S+:\d+\s*$")
_ASSERTION = re.compile(r"^Assertion failed: [^:]*(?:::[^:]*)*: (.+)$")
_HEADING = re.compile(r"^(?:Invalid Node - |--- |While parsing |Node name:|In node )")
_PLUGIN = "Plugin not found"

NO_IMPORTER = "this TensorRT has no importer for the operator"
HALF_SCALE = "its scale is in half precision, and this TensorRT reads every scale as a float32 one"


@dataclass
class Log:
    """What TensorRT said, from warnings up, as pairs of severity name and text."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def warnings(self) -> tuple[str, ...]:
        """The warnings, in order."""
        return tuple(text for severity, text in self.lines if severity == "WARNING")

    def errors(self) -> tuple[str, ...]:
        """The errors, in order."""
        return tuple(text for severity, text in self.lines if severity != "WARNING")


def sentence(text: str) -> str:
    """The part of a raw message that says what is wrong, on one line."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _HEADING.match(line)]
    # A build without a GPU reports the missing driver next to each real error: noise, if it is not alone.
    lines = [line for line in lines if not _DRIVERLESS.search(line)] or lines
    text = "; ".join(filter(None, dict.fromkeys(_bare(line) for line in lines)))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _bare(line: str) -> str:
    line = _SOURCE.sub("", line)
    if (shell := _SHELL.match(line)) is not None:
        line = shell[1]
    line = _POSITION.sub("", line)
    if (assertion := _ASSERTION.match(line)) is not None:
        line = assertion[1]
    return line.strip().rstrip(".")


def summary(texts: Iterable[str]) -> str:
    """Several raw messages as one line; repetitions are told once."""
    return _join([sentence(text) for text in texts])


def said(log: Log) -> str:
    """What TensorRT said of a failure, as one line: its errors, or else its warnings."""
    return summary(log.errors() or log.warnings()) or "it gave no reason"


def parser_errors(parser: Any, nodes: Sequence[Any]) -> str:
    """What an OnnxParser found, as one line; `nodes` are the nodes of the ONNX graph, in order."""
    return _join([_parser_error(parser.get_error(index), nodes) for index in range(parser.num_errors)])


def _parser_error(parser_error: Any, nodes: Sequence[Any]) -> str:
    text = parser_reason(parser_error)
    where = _node(parser_error, nodes)
    return f"{where}: {text}" if where else text


def parser_reason(parser_error: Any) -> str:
    """What a ParserError says is wrong, without the node that it is about."""
    text = sentence(parser_error.desc())
    if _PLUGIN in text:
        return f"{NO_IMPORTER}, and no plugin"
    # A bare assertion says nothing; its code says more.
    return str(parser_error.code().name).lower().replace("_", " ") if text in {"", "false"} else text


def _node(parser_error: Any, nodes: Sequence[Any]) -> str:
    """The node that an error is about, such as 'node "conv1" (Conv)'; empty if it is about none."""
    if hasattr(parser_error, "node_name"):  # since 10; the index counts within a subgraph there
        name, operator = parser_error.node_name(), parser_error.node_operator()
    elif 0 <= parser_error.node() < len(nodes):
        name, operator = nodes[parser_error.node()].name, nodes[parser_error.node()].op_type
    else:
        return ""
    return f'node "{name}" ({operator})' if operator else ""


def _join(problems: list[str]) -> str:
    told = [problem for problem in dict.fromkeys(problems) if problem]
    text = "; ".join(told[:_MOST])
    return f"{text}; and {len(told) - _MOST} more" if len(told) > _MOST else text
