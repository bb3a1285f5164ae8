"""What TensorRT's parser and builder say, as one line a person can read.

The raw texts carry source positions, function names and assertions around the sentence that matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

_MOST = 3  # problems told in full; a model with one unsupported operator often has it a hundred times

_DRIVERLESS = re.compile(r"catchCudaError.*cudaError 35")
_SHELL = re.compile(r"^(?:[\w:]+: )*Error Code \d+: [^(]*\((.*)\)$")
_SOURCE = re.compile(r"\[[\w.]+\.(?:cpp|hpp|h|cu):[^\]]*\]:?\s*")
_POSITION = re.compile(r"\s*In [\w:~<>()]+ at \S+:\d+\s*$")
_ASSERTION = re.compile(r"^Assertion failed: [^:]*(?:::[^:]*)*: (.+)$")
_HEADING = re.compile(r"^(?:Invalid Node - |--- |While parsing |Node name:|In node )")
_PLUGIN = "Plugin not found"


def sentence(text: str) -> str:
    """The part of a raw message that says what is wrong, on one line."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _HEADING.match(line)]
    # A build without a GPU reports the missing driver next to each real error: noise, if it is not alone.
    lines = [line for line in lines if not _DRIVERLESS.search(line)] or lines
    return "; ".join(filter(None, dict.fromkeys(_bare(line) for line in lines)))


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


def parser_errors(parser: Any, nodes: Sequence[Any]) -> str:
    """What an OnnxParser found, as one line; `nodes` are the nodes of the ONNX graph, in order."""
    return _join([_parser_error(parser.get_error(index), nodes) for index in range(parser.num_errors)])


def _parser_error(error: Any, nodes: Sequence[Any]) -> str:
    text = sentence(error.desc())
    if _PLUGIN in text:
        text = "this TensorRT has no importer for the operator, and no plugin"
    elif text in {"", "false"}:  # a bare assertion; the code says more
        text = str(error.code().name).lower().replace("_", " ")
    where = _node(error, nodes)
    return f"{where}: {text}" if where else text


def _node(error: Any, nodes: Sequence[Any]) -> str:
    """The node that an error is about, such as 'node "conv1" (Conv)'; empty if it is about none."""
    if hasattr(error, "node_name"):  # since 10; the index counts within a subgraph there
        name, operator = error.node_name(), error.node_operator()
    elif 0 <= error.node() < len(nodes):
        name, operator = nodes[error.node()].name, nodes[error.node()].op_type
    else:
        return ""
    return f'node "{name}" ({operator})' if operator else ""


def _join(problems: list[str]) -> str:
    told = [problem for problem in dict.fromkeys(problems) if problem]
    text = "; ".join(told[:_MOST])
    return f"{text}; and {len(told) - _MOST} more" if len(told) > _MOST else text
